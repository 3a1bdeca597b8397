//! Standard output and standard error, which may be closed or full.
//!
//! Neither interrupts the program. A failure to print on standard output gives exit status 1 at the end, unless the
//! reader has closed the pipe, as in `mim info RUN | head -1`.

use std::borrow::Cow;
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
        *failed = stdout()
            .write_all(plain(&text.to_string()).as_bytes())
            .err();
    }
}

/// The text with its control characters escaped, except ends of lines and tabs. Names of tensors, files and classes, and
/// answers of servers, come from outside and could control the terminal.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    let is_bad = |c: char| {
        c.is_control() && !matches!(c, '\n' | '\t')
            // These change the direction of a line.
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_bad) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| match is_bad(c) {
        true => c.escape_unicode().to_string(),
        false => c.to_string(),
    };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// Prints; a failure cannot be reported anywhere.
pub(super) fn err(text: Arguments<'_>) {
    // In one write, so that lines of several processes do not mix.
    let _ = stderr().write_all(plain(&text.to_string()).as_bytes());
}

/// The final exit status of a program that would end with `code`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_commands_the_terminal() {
        assert_eq!(plain("a\tb\n\u{e4}"), "a\tb\n\u{e4}");
        assert_eq!(plain("a\x1b[31m\r\u{9b}"), "a\\u{1b}[31m\\u{d}\\u{9b}");
        assert_eq!(plain("a\u{202e}b"), "a\\u{202e}b");
    }
}
