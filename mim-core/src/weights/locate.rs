//! Where weights are.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::hub::{self, HubPath};

/// The file or folder that `name` stands for: itself, or for `hf:owner/name[@revision][/file]` the file of the
/// Hugging Face Hub, downloaded unless it is on this machine (see [`hub`]).
///
/// # Errors
///
/// [`Error::Hub`](crate::Error::Hub) if it cannot be had; [`Error::Unsupported`](crate::Error::Unsupported) in
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
    fn paths_stand_for_themselves() {
        assert_eq!(locate("a/hf:b").unwrap(), Path::new("a/hf:b"));
        let error = locate("hf:vit").unwrap_err().to_string();
        assert!(error.contains("hf:owner/name"), "{error}");
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn without_the_feature_the_hub_is_refused_with_its_name() {
        let error = locate("hf:facebook/vit-mae-base").unwrap_err().to_string();
        assert!(error.contains("--features hub"), "{error}");
    }
}
