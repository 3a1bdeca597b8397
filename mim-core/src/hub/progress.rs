//! Who is told of downloads.

use std::sync::{Arc, OnceLock};

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// What is downloaded, as `hf:owner/name/file`.
    pub file: &'a str,
    /// Bytes that are there.
    pub done: u64,
    /// Bytes of the whole file.
    pub size: u64,
}

/// Called at the start of a download, after each piece, and at its end with `done == size`.
pub type Observer = Arc<dyn Fn(&Transfer<'_>) + Send + Sync>;

static OBSERVER: OnceLock<Observer> = OnceLock::new();

/// Tells `observer` of every download of a [`Hub`](super::Hub) made by `from_env` from now on. The first one stays:
/// programs call it once, as they start.
pub fn observe(observer: impl Fn(&Transfer<'_>) + Send + Sync + 'static) {
    // A second observer would be a second program in this process; the first keeps its bar.
    let _ = OBSERVER.set(Arc::new(observer));
}

/// The process' observer.
pub(super) fn observer() -> Option<Observer> {
    OBSERVER.get().cloned()
}
