//! Attempts that failed.

use std::time::Duration;

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The Hub says no.
    Refused(Refused),
    /// No answer came, or it ended early.
    Broken(String),
    /// What cannot be otherwise the next time: an address or an answer that makes no sense.
    Final(String),
}

/// An answer that is no success.
#[derive(Debug, Default)]
pub(super) struct Refused {
    pub(super) status: u16,
    /// The Hub's own word for it, such as `EntryNotFound`.
    pub(super) code: String,
    /// What the Hub says to people.
    pub(super) message: String,
    /// How long it asks to wait.
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
