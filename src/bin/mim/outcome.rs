//! How the program ends.

use std::process::ExitCode;

/// Prints an error and gives exit status 1.
pub(crate) fn failed(message: &str) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::FAILURE
}
