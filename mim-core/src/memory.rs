//! The memory of the machine: sizes that exceed it are refused before anything is allocated.

use std::sync::OnceLock;

use crate::{Error, Result};

/// Bytes of memory that this process may have at most: of the machine, of its group of processes (cgroup) and of
/// itself (`ulimit -v`), whichever is least. None where the system does not say (other systems than Linux).
pub fn total() -> Option<u64> {
    static TOTAL: OnceLock<Option<u64>> = OnceLock::new();
    *TOTAL.get_or_init(|| [machine(), group(), limit()].into_iter().flatten().min())
}

/// Checks that this many values of four bytes fit into memory, together with `held` others.
///
/// # Errors
///
/// [`Error::InvalidConfig`] for `what`, a name in `component`, of this shape.
pub fn check(
    (component, what): (&'static str, &str),
    shape: &[usize],
    held: usize,
) -> Result<usize> {
    let product = shape
        .iter()
        .try_fold(1usize, |product, side| product.checked_mul(*side));
    let all = product.and_then(|values| values.checked_add(held)?.checked_mul(4));
    let most = total().unwrap_or(u64::MAX >> 8);
    match (product, all) {
        (Some(values), Some(bytes)) if bytes as u64 <= most => Ok(values),
        _ => {
            let needed = all.map_or("far too much memory".to_owned(), |bytes| {
                format!("{:.1} GB of memory", bytes as f64 / 1e9)
            });
            let why = format!(
                "it takes {needed}, but at most {:.1} GB can be used",
                most as f64 / 1e9
            );
            let fix = "use smaller sizes";
            Err(Error::config(
                component,
                what.to_owned(),
                format!("{shape:?}"),
                why,
                fix,
            ))
        }
    }
}

/// Bytes of memory of the machine that are not in use. None where the system does not say.
pub fn available() -> Option<u64> {
    meminfo("MemAvailable:")
}

fn machine() -> Option<u64> {
    meminfo("MemTotal:")?.checked_add(meminfo("SwapTotal:").unwrap_or(0))
}

/// The bytes that `/proc/meminfo` gives under a name.
fn meminfo(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Of a cgroup of version 2.
fn group() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let file = format!("/sys/fs/cgroup{}/memory.max", group.trim_end_matches('/'));
    let most = std::fs::read_to_string(file).ok()?;
    most.trim().parse().ok()
}

fn limit() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_fit_is_refused() {
        assert_eq!(check(("parameters", "w"), &[3, 4], 5).unwrap(), 12);
        for shape in [&[usize::MAX, 2][..], &[1 << 40, 1 << 10]] {
            let error = check(("parameters", "w"), shape, 0).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains("parameters: `w` is [") && error.contains("GB"),
                "{error}"
            );
        }
        #[cfg(target_os = "linux")]
        assert!(total().is_some_and(|bytes| bytes > 1 << 20));
    }
}
