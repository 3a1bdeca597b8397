//! Observers of downloads.

use std::sync::{Arc, OnceLock};

/// The progress of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// The file, as `hf:owner/name/file`.
    pub file: &'a str,
    /// Bytes downloaded so far.
    pub done: u64,
    /// Size of the file in bytes.
    pub size: u64,
}

/// Called at the start of a download, after each piece, and at its end with `done == size`.
pub type Observer = Arc<dyn Fn(&Transfer<'_>) + Send + Sync>;

static OBSERVER: OnceLock<Observer> = OnceLock::new();

/// Reports all later downloads of a [`Hub`](super::Hub) from `from_env` to `observer`. Call it once, at the start of the
/// program; later calls have no effect.
pub fn observe(observer: impl Fn(&Transfer<'_>) + Send + Sync + 'static) {
    // The first observer stays.
    let _ = OBSERVER.set(Arc::new(observer));
}

/// The observer of this process.
pub(super) fn observer() -> Option<Observer> {
    OBSERVER.get().cloned()
}
