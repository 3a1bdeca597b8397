//! Standard output and standard error, which may be closed or full.
//!
//! Neither ends what the program does. What could not be printed on standard output makes it fail in the end, unless
//! its reader has gone: `mim info RUN | head -1` is done.

use std::fmt::Arguments;
use std::io::{Error, ErrorKind, Write, stderr, stdout};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use crate::cli::outcome;

/// Prints on standard output.
macro_rules! print {
    ($($text:tt)*) => { $crate::cli::stream::out(format_args!($($text)*)) };
}

/// Prints a line on standard output.
macro_rules! println {
    () => { $crate::cli::stream::out(format_args!("\n")) };
    ($($text:tt)*) => { $crate::cli::stream::out(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints a line on standard error.
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::cli::stream::err(format_args!("{}\n", format_args!($($text)*))) };
}

/// The first error of standard output.
static FAILED: Mutex<Option<Error>> = Mutex::new(None);

/// Prints, unless that has failed before.
pub(super) fn out(text: Arguments<'_>) {
    let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    if failed.is_none() {
        *failed = stdout().write_fmt(text).err();
    }
}

/// Prints; there is nowhere to say that it failed.
pub(super) fn err(text: Arguments<'_>) {
    // In one piece, so that lines of several processes do not mix.
    let _ = stderr().write_all(text.to_string().as_bytes());
}

/// The exit status of a program that would end with `code`.
pub(super) fn finish(code: ExitCode) -> ExitCode {
    let flushed = stdout().flush().err();
    let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    match failed.take().or(flushed) {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            outcome::failed(&format!("cannot write to standard output: {error}"))
        }
        _ => code,
    }
}
