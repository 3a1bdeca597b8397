//! Files of the Hugging Face Hub, written `hf:owner/name[@revision][/file]`.
//!
//! ```no_run
//! use mim_core::hub::{Hub, HubPath, RepoKind};
//!
//! # fn main() -> mim_core::Result<()> {
//! let path = HubPath::parse("hf:timm/vit_base_patch16_224.mae/model.safetensors", RepoKind::Model)?;
//! println!("{}", Hub::from_env()?.weights(&path)?.display());
//! # Ok(())
//! # }
//! ```
//!
//! The cache is that of Python's `huggingface_hub`, including links and locks, so either program finds what the other
//! downloaded. Files of a revision named by its commit, and everything under `HF_HUB_OFFLINE`, come from the cache without
//! a request. For a branch, one request checks whether it has moved.
//!
//! Requests use `ureq`. With the feature `hf-hub`, the bytes of files come by the crate of that name, and from Xet, the
//! Hub's storage of large files, by its crate `hf-xet`; SOCKS proxies are served, too. Cache, offline mode, limits, checks,
//! lists and metadata are the same. `MIM_HUB_TRANSPORT=own` goes back to `ureq` alone.
//!
//! The feature is off by default. hf-hub 1.0 has no offline mode, stores the body of an error as the file, takes names of
//! files from the server, and compares a file neither with its length nor with its hash, so these parts of it are not
//! used; and it brings 150 more crates.
//!
//! Without the feature `hub` only [`HubPath`] exists, and opening one is an error that names the feature.

mod path;

#[cfg(feature = "hub")]
mod address;
#[cfg(feature = "hub")]
mod cache;
#[cfg(feature = "hub")]
mod check;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod failure;
#[cfg(feature = "hub")]
mod headers;
#[cfg(feature = "hub")]
mod http;
#[cfg(feature = "hub")]
mod listing;
#[cfg(feature = "hub")]
mod progress;
#[cfg(feature = "hub")]
mod refusal;
#[cfg(feature = "hub")]
mod settings;
#[cfg(feature = "hub")]
mod space;
#[cfg(feature = "hub")]
mod transport;
#[cfg(feature = "hf-hub")]
mod transport_hf_hub;

pub use path::{HubPath, RepoKind};

pub(crate) use path::SCHEME;

#[cfg(feature = "hub")]
pub use client::Hub;
#[cfg(feature = "hub")]
pub use listing::Listing;
#[cfg(feature = "hub")]
pub use progress::{Observer, Transfer, observe};
#[cfg(feature = "hub")]
pub use settings::HubSettings;

use std::path::PathBuf;

use crate::Result;

/// The local path of the weights that `path` names, after a download if necessary.
///
/// # Errors
///
/// [`Error::Hub`](crate::Error::Hub) if they cannot be downloaded, [`Error::Unsupported`](crate::Error::Unsupported)
/// without the feature `hub`.
pub(crate) fn weights(path: &HubPath) -> Result<PathBuf> {
    #[cfg(feature = "hub")]
    return Hub::from_env()?.weights(path);
    #[cfg(not(feature = "hub"))]
    Err(missing(path))
}

/// The error of a build without the feature.
#[cfg(not(feature = "hub"))]
pub(crate) fn missing(path: &HubPath) -> crate::Error {
    crate::Error::unsupported(
        path.to_string(),
        "this build cannot reach the Hugging Face Hub",
        "build with --features hub, or download the file and give its path",
    )
}
