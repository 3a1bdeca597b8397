//! Uninitialised memory for outputs.

#![expect(unsafe_code, reason = "callers promise to write every value")]

use std::mem::MaybeUninit;

/// A vector of `len` values, all written by `write`.
///
/// Clearing the memory first would cost a pass on one thread while the others wait.
///
/// # Safety
///
/// `write` must write every value of its slice.
pub(super) unsafe fn alloc_uninit<T>(
    len: usize,
    write: impl FnOnce(&mut [MaybeUninit<T>]),
) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    write(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is `len`, and the caller promises that `write` has written every value.
    unsafe { values.set_len(len) };
    values
}
