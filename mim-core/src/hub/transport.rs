//! The choice of what brings the bytes of files.

use super::download::Download;
use super::failure::Failure;
use super::http::Stream;
#[cfg(feature = "hf-hub")]
use super::transport_hf_hub;
use crate::{Error, Result};

/// What brings the bytes of files. Lists and metadata always come by the own client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// The own client, [`Http`](super::http::Http).
    Own,
    /// The crate hf-hub.
    #[cfg(feature = "hf-hub")]
    HfHub,
}

impl Transport {
    /// The transport of this name, or the default of this build.
    ///
    /// # Errors
    ///
    /// If there is none of this name, or this build lacks it.
    pub(super) fn named(name: Option<&str>) -> Result<Self> {
        match name {
            Some("own") => Ok(Self::Own),
            #[cfg(feature = "hf-hub")]
            None | Some("hf-hub") => Ok(Self::HfHub),
            #[cfg(not(feature = "hf-hub"))]
            None => Ok(Self::Own),
            #[cfg(not(feature = "hf-hub"))]
            Some("hf-hub") => Err(Error::unsupported(
                "MIM_HUB_TRANSPORT=hf-hub",
                "this build lacks the crate hf-hub",
                "build with --features hf-hub, or unset MIM_HUB_TRANSPORT",
            )),
            Some(other) => Err(Error::config(
                "hub",
                "transport",
                format!("{other:?}"),
                "there is no such transport",
                "set MIM_HUB_TRANSPORT to own or hf-hub, or unset it",
            )),
        }
    }

    /// The bytes of a file from byte `start` on, or all bytes if the server does not support ranges.
    pub(super) fn get(self, download: &Download<'_>, start: u64) -> Result<Stream, Failure> {
        match self {
            Self::Own => download.http.get(&download.url, start),
            #[cfg(feature = "hf-hub")]
            Self::HfHub => transport_hf_hub::get(download, start),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_transports_of_this_build_are_taken() {
        assert_eq!(Transport::named(Some("own")).unwrap(), Transport::Own);
        let wrong = Transport::named(Some("curl")).unwrap_err().to_string();
        assert!(
            wrong.contains("curl") && wrong.contains("MIM_HUB_TRANSPORT"),
            "{wrong}"
        );
        let named = Transport::named(Some("hf-hub")).map_err(|error| error.to_string());
        #[cfg(feature = "hf-hub")]
        assert_eq!(named.unwrap(), Transport::named(None).unwrap());
        #[cfg(not(feature = "hf-hub"))]
        assert!(named.unwrap_err().contains("--features hf-hub"));
    }
}
