//! Resolves names of weight files.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::hub::{self, HubPath};

/// Resolves `name` to a file or folder: a path to itself, and `hf:owner/name[@revision][/file]` to a file of the
/// Hugging Face Hub, which is downloaded unless it is in the local cache (see [`hub`]).
///
/// # Errors
///
/// [`Error::Hub`](crate::Error::Hub) if it cannot be downloaded; [`Error::Unsupported`](crate::Error::Unsupported) in
/// builds without the feature `hub`.
pub fn locate(name: impl AsRef<Path>) -> Result<PathBuf> {
    let path = name.as_ref();
    match path.to_str().filter(|text| text.starts_with(hub::SCHEME)) {
        Some(text) => hub::weights(&text.parse::<HubPath>()?),
        None => Ok(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_resolve_to_themselves() {
        assert_eq!(locate("a/hf:b").unwrap(), Path::new("a/hf:b"));
        let error = locate("hf:vit").unwrap_err().to_string();
        assert!(error.contains("hf:owner/name"), "{error}");
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn without_the_feature_hub_names_are_refused() {
        let error = locate("hf:facebook/vit-mae-base").unwrap_err().to_string();
        assert!(error.contains("--features hub"), "{error}");
    }
}
