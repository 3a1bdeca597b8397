//! How the program ends.

use std::process::ExitCode;

use crate::cli::stream;

/// Prints an error and gives exit status 1.
pub(crate) fn failed(message: &str) -> ExitCode {
    // In one write, so that errors of several processes do not mix. If it fails, it cannot be reported anywhere.
    stream::err(format_args!("error: {message}\n"));
    ExitCode::FAILURE
}
