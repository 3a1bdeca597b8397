//! The error type of every mim crate.

use std::borrow::Cow;
use std::path::PathBuf;

/// Text of an error: usually a literal, sometimes composed.
pub type Text = Cow<'static, str>;

/// What went wrong, where, and how to fix it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is outside its range or conflicts with another one.
    #[error("{component}: `{field}` is {value}, but {why}; {fix}")]
    InvalidConfig {
        /// The component or table of the setting.
        component: Text,
        /// Name of the setting.
        field: Text,
        /// The value found.
        value: String,
        /// The rule it breaks.
        why: Text,
        /// What to change.
        fix: Text,
    },
    /// There is no setting of this name.
    #[error("{component}: there is no setting `{name}`; {fix}")]
    UnknownSetting {
        /// The component or table that contains it.
        component: Text,
        /// The name found, dotted below the component.
        name: String,
        /// The nearest name, or where to find all names.
        fix: Text,
    },
    /// A setting has a value of the wrong type, or an unknown choice.
    #[error("{component}: the setting `{name}` cannot be read: {why}; {fix}")]
    BadSetting {
        /// The component or table of the setting.
        component: Text,
        /// Its name, dotted below the component.
        name: String,
        /// What is wrong with its value.
        why: String,
        /// What to change.
        fix: Text,
    },
    /// A tensor or mask does not have the shape an operation needs.
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
    /// Two parts do not work together, or a part does not support a request.
    #[error("{what} is not supported: {why}; {fix}")]
    Unsupported {
        /// What was requested.
        what: Text,
        /// Why it is not supported.
        why: Text,
        /// What to do instead.
        fix: Text,
    },
    /// Reading or writing a file failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The verb: `read`, `write`, `create`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The content of a file is not as expected.
    #[error("{}: {what}; {fix}", path.display())]
    Format {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        what: Text,
        /// What to do about it.
        fix: Text,
    },
    /// A data set has no such split.
    #[error("{from}: there is no {split} split; {fix}")]
    NoSplit {
        /// The data set.
        from: String,
        /// The requested split.
        split: crate::data::Split,
        /// The splits that exist, or what to do.
        fix: Text,
    },
    /// A file of the Hugging Face Hub cannot be downloaded.
    #[error("{file}: {what}; {fix}")]
    Hub {
        /// The repository and file, as `hf:owner/name/file`.
        file: String,
        /// Why not.
        what: Text,
        /// What to do about it.
        fix: Text,
    },
    /// Processes that train together cannot reach each other, or do not match each other.
    #[error("training in several processes: {what}; {fix}")]
    Group {
        /// What is wrong.
        what: Text,
        /// What to do about it.
        fix: Text,
    },
    /// Weights do not fit the model; the report lists every name.
    #[error("the weights do not fit the model:\n{0}\n{1}")]
    Weights(Box<crate::weights::LoadReport>, Text),
    /// A value became infinite or NaN.
    #[error("{what} is not finite at step {step}; {fix}")]
    NonFinite {
        /// The quantity.
        what: Text,
        /// The optimizer step, from 0.
        step: usize,
        /// What to try.
        fix: Text,
    },
    /// A device has not enough memory.
    #[error("the device has not enough memory ({0}); {OUT_OF_MEMORY}")]
    OutOfMemory(#[source] candle_core::Error),
    /// A tensor operation failed in candle.
    #[error("tensor operation failed: {0}")]
    Tensor(#[source] candle_core::Error),
}

const OUT_OF_MEMORY: &str = "use a smaller train.batch_size, with train.accum_iter to keep the size of a step, \
     train.recompute = true or train.precision = \"bf16\", or check with nvidia-smi what else runs on it";

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        // candle passes the driver's message on as text.
        if error.to_string().contains("OUT_OF_MEMORY") {
            return Self::OutOfMemory(error);
        }
        Self::Tensor(error)
    }
}

impl From<mim_ops::Error> for Error {
    fn from(error: mim_ops::Error) -> Self {
        use mim_ops::Error as Op;
        match error {
            Op::InvalidArgument {
                op,
                argument,
                value,
                why,
                fix,
            } => Self::config(op, argument, value, why, fix),
            Op::Shape {
                what,
                expected,
                got,
                fix,
            } => Self::Shape {
                what,
                expected,
                got,
                fix,
            },
            Op::Unsupported { what, why, fix } => Self::unsupported(what, why, fix),
            Op::AllReduce(error) => match error.downcast::<Self>() {
                Ok(own) => *own,
                Err(other) => {
                    Self::group(other.to_string(), "check the processes and their network")
                }
            },
            Op::Tensor(error) => error.into(),
            other => candle_core::Error::wrap(other).into(),
        }
    }
}

/// Result of every fallible mim function.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::NoSplit`] from its parts.
    pub fn no_split(
        from: impl std::fmt::Display,
        split: crate::data::Split,
        fix: impl Into<Text>,
    ) -> Self {
        Self::NoSplit {
            from: from.to_string(),
            split,
            fix: fix.into(),
        }
    }

    /// An [`Error::InvalidConfig`] from its parts.
    pub fn config(
        component: impl Into<Text>,
        field: impl Into<Text>,
        value: impl std::fmt::Display,
        why: impl Into<Text>,
        fix: impl Into<Text>,
    ) -> Self {
        Self::InvalidConfig {
            component: component.into(),
            field: field.into(),
            value: value.to_string(),
            why: why.into(),
            fix: fix.into(),
        }
    }

    /// An [`Error::Shape`] from its parts; shapes are shown with `{:?}`.
    pub fn shape(
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
    pub fn unsupported(what: impl Into<Text>, why: impl Into<Text>, fix: impl Into<Text>) -> Self {
        Self::Unsupported {
            what: what.into(),
            why: why.into(),
            fix: fix.into(),
        }
    }

    /// An [`Error::Group`] from its parts.
    pub fn group(what: impl Into<Text>, fix: impl Into<Text>) -> Self {
        Self::Group {
            what: what.into(),
            fix: fix.into(),
        }
    }

    /// Wraps an input/output error with the path of the file; for use with `map_err`.
    pub fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// An [`Error::Format`] from its parts.
    pub fn format(path: impl Into<PathBuf>, what: impl Into<Text>, fix: impl Into<Text>) -> Self {
        Self::Format {
            path: path.into(),
            what: what.into(),
            fix: fix.into(),
        }
    }

    /// An [`Error::Hub`] from its parts.
    pub fn hub(file: impl std::fmt::Display, what: impl Into<Text>, fix: impl Into<Text>) -> Self {
        Self::Hub {
            file: file.to_string(),
            what: what.into(),
            fix: fix.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_memory_errors_give_advice() {
        let driver = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        let error = Error::from(candle_core::Error::msg(driver)).to_string();
        assert!(
            error.starts_with("the device has not enough memory"),
            "{error}"
        );
        assert!(error.contains("smaller train.batch_size"), "{error}");
        let other = Error::from(candle_core::Error::msg("no")).to_string();
        assert_eq!(other.lines().next(), Some("tensor operation failed: no"));
    }
}
