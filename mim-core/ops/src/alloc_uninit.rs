//! Memory for results that is not cleared before it is written.

#![expect(unsafe_code, reason = "callers promise to write all of it")]

use std::mem::MaybeUninit;

/// `len` values, all written by `write`.
///
/// A vector of zeros costs a pass over memory on one thread while the others wait.
///
/// # Safety
///
/// `write` must write every value of what it gets.
pub(super) unsafe fn alloc_uninit<T>(
    len: usize,
    write: impl FnOnce(&mut [MaybeUninit<T>]),
) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    write(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: there is room for `len` values, and the caller vouches for their being written.
    unsafe { values.set_len(len) };
    values
}
