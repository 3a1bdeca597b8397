//! Room for downloads.

use std::path::Path;

/// What is wrong if the file system of `folder` has no room for so many bytes. One that does not say is trusted: the
/// error then comes with the write that fails.
pub(super) fn check(folder: &Path, bytes: u64) -> Result<(), String> {
    match free(folder) {
        Some(free) if free < bytes => Err(format!(
            "{bytes} bytes are to be downloaded, but {} has room for only {free}",
            folder.display()
        )),
        _ => Ok(()),
    }
}

/// The bytes that this process may still write there, if the system says.
#[cfg(unix)]
fn free(folder: &Path) -> Option<u64> {
    let system = rustix::fs::statvfs(folder).ok()?;
    // Some network file systems give no numbers at all.
    (system.f_blocks > 0).then(|| system.f_bavail.saturating_mul(system.f_frsize))
}

#[cfg(not(unix))]
fn free(_folder: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn no_disk_has_room_for_all_bytes() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(check(folder.path(), 1), Ok(()));
        let wrong = check(folder.path(), u64::MAX).unwrap_err();
        assert!(wrong.contains(folder.path().to_str().unwrap()), "{wrong}");
        // Where nothing can be learned, nothing is refused.
        assert_eq!(check(&folder.path().join("none"), u64::MAX), Ok(()));
    }
}
