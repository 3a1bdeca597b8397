//! How the program ends.

use std::process::ExitCode;

use crate::cli::stream;

/// Prints an error and gives exit status 1.
pub(crate) fn failed(message: &str) -> ExitCode {
    // In one piece, so that the errors of several processes do not mix; there is nowhere to say that it failed.
    stream::err(format_args!("error: {message}\n"));
    ExitCode::FAILURE
}
