//! Failed attempts.

use std::time::Duration;

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The Hub refuses the request.
    Refused(Refused),
    /// There was no answer, or it ended early.
    Broken(String),
    /// A repetition cannot succeed: an address or an answer makes no sense.
    Final(String),
}

/// An answer with an error status.
#[derive(Debug, Default)]
pub(super) struct Refused {
    pub(super) status: u16,
    /// The error code of the Hub, such as `EntryNotFound`.
    pub(super) code: String,
    /// The message of the Hub.
    pub(super) message: String,
    /// The requested wait.
    pub(super) wait: Option<Duration>,
}

impl Failure {
    /// Whether another attempt may succeed.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Broken(_) => true,
            Self::Final(_) => false,
            Self::Refused(refused) => {
                matches!(refused.status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
            }
        }
    }

    /// Whether the Hub knows the repository and the revision, but no such file.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::Refused(refused)
            if refused.status == 404 && matches!(refused.code.as_str(), "EntryNotFound" | ""))
    }
}
