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
//! The cache is the one of Python's `huggingface_hub`, files, links and locks alike, so that either finds what the
//! other downloaded. What it holds of a revision named by its commit, and everything under `HF_HUB_OFFLINE`, is
//! answered without a request; of a branch one request asks whether it has moved.
//!
//! Requests are made with `ureq`, not with the `hf-hub` crate. No version of it does what is needed here:
//! 1.0 begins broken downloads anew and stores the body of a refusal as the file, and its 284 crates double the time
//! of a build; 0.5 gives up after five seconds where another process downloads the same file, hides how long a busy
//! Hub asks to wait, and is no longer developed. Neither compares a file with its length and hash.
//!
//! Without the feature `hub` only [`HubPath`] is there, and opening one is an error that names the feature.

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

/// The weights that `path` names, on this machine: downloaded unless they are there.
///
/// # Errors
///
/// [`Error::Hub`](crate::Error::Hub) if they cannot be had, [`Error::Unsupported`](crate::Error::Unsupported)
/// without the feature `hub`.
pub(crate) fn weights(path: &HubPath) -> Result<PathBuf> {
    #[cfg(feature = "hub")]
    return Hub::from_env()?.weights(path);
    #[cfg(not(feature = "hub"))]
    Err(missing(path))
}

/// What a build without the feature says about files of the Hub.
#[cfg(not(feature = "hub"))]
pub(crate) fn missing(path: &HubPath) -> crate::Error {
    crate::Error::unsupported(
        path.to_string(),
        "this build cannot reach the Hugging Face Hub",
        "build with --features hub, or download the file and give its path",
    )
}
