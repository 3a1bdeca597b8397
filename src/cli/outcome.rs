//! How the program ends.

use std::io::Write;
use std::process::ExitCode;

/// Prints an error and gives exit status 1.
pub(crate) fn failed(message: &str) -> ExitCode {
    // In one piece, so that the errors of several processes do not mix; there is nowhere to say that it failed.
    let _ = std::io::stderr().write_all(format!("error: {message}\n").as_bytes());
    ExitCode::FAILURE
}
