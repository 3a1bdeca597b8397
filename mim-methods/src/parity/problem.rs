//! Why a case could not be compared.

use std::fmt;

use mim_core::Error;

/// Why a case could not be compared.
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// `mim parity` knows no such method, part, kind of case or setting: `UNSUPPORTED`.
    Unknown(String),
    /// Something went wrong, for instance a component refused its settings: `FAIL`.
    Failed(Error),
}

/// The result of reading or running a case.
pub type Result<T> = std::result::Result<T, Problem>;

impl Problem {
    /// What `mim parity` does not know.
    pub fn unknown(what: impl Into<String>) -> Self {
        Self::Unknown(what.into())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(what) => write!(f, "mim parity does not know {what}"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Problem {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unknown(_) => None,
            Self::Failed(error) => error.source(),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<mim_core::ops::Error> for Problem {
    fn from(error: mim_core::ops::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<candle_core::Error> for Problem {
    fn from(error: candle_core::Error) -> Self {
        Self::Failed(error.into())
    }
}
