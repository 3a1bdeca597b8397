//! The error type of the operations.

use std::borrow::Cow;

/// Text of an error: usually a literal, sometimes composed.
type Text = Cow<'static, str>;

/// What went wrong, where, and how to fix it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument is outside its range.
    #[error("{op}: `{argument}` is {value}, but {why}; {fix}")]
    InvalidArgument {
        /// The operation.
        op: Text,
        /// Name of the argument.
        argument: Text,
        /// The value found.
        value: String,
        /// The rule it breaks.
        why: Text,
        /// What to change.
        fix: Text,
    },
    /// A tensor does not have the shape an operation needs.
    #[error("{what}: expected {expected}, got {got}; {fix}")]
    Shape {
        /// The operation and its argument.
        what: Text,
        /// The shape needed.
        expected: String,
        /// The shape found.
        got: String,
        /// What to change.
        fix: Text,
    },
    /// The operation does not support the request.
    #[error("{what} is not supported: {why}; {fix}")]
    Unsupported {
        /// What was requested.
        what: Text,
        /// Why it is not supported.
        why: Text,
        /// What to use instead.
        fix: Text,
    },
    /// The all-reduce over processes failed.
    #[error("{0}")]
    AllReduce(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A tensor operation failed in candle.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// Result of every fallible operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::InvalidArgument`] from its parts.
    pub(crate) fn argument(
        op: impl Into<Text>,
        argument: impl Into<Text>,
        value: impl std::fmt::Display,
        why: impl Into<Text>,
        fix: impl Into<Text>,
    ) -> Self {
        Self::InvalidArgument {
            op: op.into(),
            argument: argument.into(),
            value: value.to_string(),
            why: why.into(),
            fix: fix.into(),
        }
    }

    /// An [`Error::Shape`] from its parts; shapes are shown with `{:?}`.
    pub(crate) fn shape(
        what: impl Into<Text>,
        expected: impl std::fmt::Debug,
        got: impl std::fmt::Debug,
        fix: impl Into<Text>,
    ) -> Self {
        Self::Shape {
            what: what.into(),
            expected: format!("{expected:?}"),
            got: format!("{got:?}"),
            fix: fix.into(),
        }
    }

    /// An [`Error::Unsupported`] from its parts.
    pub(crate) fn unsupported(
        what: impl Into<Text>,
        why: impl Into<Text>,
        fix: impl Into<Text>,
    ) -> Self {
        Self::Unsupported {
            what: what.into(),
            why: why.into(),
            fix: fix.into(),
        }
    }
}
