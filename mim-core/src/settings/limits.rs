//! Ranges of numbers in settings, by the last part of their keys.
//!
//! The ranges are wide; methods check their settings themselves. They keep sums and products of sizes within the
//! integers of a computer, and refuse numbers that make no sense for any method.

use toml::{Table, Value};

use crate::{Error, Result};

/// The largest whole number for keys that are not listed: about 17 million.
const COUNT: i64 = 1 << 24;
/// The largest fraction.
const FRACTION: f64 = 1e9;

/// Largest whole numbers. An entry that starts with `_` stands for all keys with this ending.
const COUNTS: [(&str, i64); 28] = [
    // Each is a layer with its own weights.
    ("depth", 4096),
    ("depths", 4096),
    ("_depth", 4096),
    ("num_layers", 4096),
    ("blocks", 4096),
    ("_blocks", 4096),
    ("levels", 64),
    ("n_blk_per_group", 4096),
    ("num_res_blocks", 4096),
    ("ch_mult", 4096),
    // Attention grows with the square of tokens.
    ("num_class_tokens", 256),
    // Sides in pixels.
    ("image_size", 16384),
    ("local_size", 16384),
    ("patch_size", 16384),
    ("patch_sizes", 16384),
    ("resolution", 16384),
    ("attn_resolutions", 16384),
    ("window_size", 128),
    // Attempts, and views per image.
    ("attempts", 100_000),
    ("global", 256),
    ("local", 256),
    // Threads, and batches in memory.
    ("workers", 1024),
    ("prefetch", 1024),
    ("num_heads", 65536),
    ("iterations", 1_000_000),
    ("num_classes", 1 << 24),
    ("epochs", 1 << 40),
    // Any number is a seed.
    ("seed", i64::MAX),
];

/// Largest fractions; 0 is the smallest.
const FRACTIONS: [(&str, f64); 9] = [
    ("mlp_ratio", 1024.),
    ("mlp_ratios", 1024.),
    ("eps", 1.),
    ("_eps", 1.),
    ("temperature", 1e4),
    ("_temperature", 1e4),
    ("_temp", 1e4),
    ("std", 1e6),
    ("epochs", 1e12),
];

/// Fractions that are not below 0.
const POSITIVE: [&str; 22] = [
    "lr",
    "blr",
    "peak",
    "min",
    "start",
    "end",
    "warmup_start",
    "warmup_epochs",
    "weight_decay",
    "_decay",
    "weight",
    "_weight",
    "_rate",
    "_ratio",
    "ratio",
    "_share",
    "share",
    "prob",
    "_prob",
    "momentum",
    "_scale",
    "alpha",
];

/// Checks every number of a table.
///
/// # Errors
///
/// [`Error::InvalidConfig`] with the dotted key, the value and the range.
pub(super) fn check(component: &'static str, table: &Table) -> Result<()> {
    table
        .iter()
        .try_for_each(|(key, value)| check_value(component, key, value))
}

fn check_value(component: &'static str, key: &str, value: &Value) -> Result<()> {
    match value {
        Value::Table(inner) => inner
            .iter()
            .try_for_each(|(name, value)| check_value(component, &format!("{key}.{name}"), value)),
        Value::Array(values) => values
            .iter()
            .try_for_each(|value| check_value(component, key, value)),
        Value::Integer(number) => {
            let most = range(key, &COUNTS).unwrap_or(COUNT);
            let least = if is_any(key, &POSITIVE) { 0 } else { -most };
            match (least..=most).contains(number) {
                true => Ok(()),
                false => Err(outside(component, key, *number, (least, most))),
            }
        }
        Value::Float(number) => {
            let most = range(key, &FRACTIONS);
            let least = match most.is_some() || is_any(key, &POSITIVE) {
                true => 0.,
                false => -FRACTION,
            };
            let most = most.unwrap_or(FRACTION);
            match (least..=most).contains(number) {
                true => Ok(()),
                false => Err(outside(component, key, *number, (least, most))),
            }
        }
        _ => Ok(()),
    }
}

fn outside<T: std::fmt::Display>(
    component: &'static str,
    key: &str,
    value: T,
    (least, most): (T, T),
) -> Error {
    let why = format!("it lies between {least} and {most}");
    Error::config(component, key.to_owned(), value, why, "use such a number")
}

fn range<T: Copy>(key: &str, ranges: &[(&str, T)]) -> Option<T> {
    let found = ranges.iter().find(|(name, _)| is(key, name));
    found.map(|(_, most)| *most)
}

fn is_any(key: &str, names: &[&str]) -> bool {
    names.iter().any(|name| is(key, name))
}

/// Whether the last part of a key has this name, or this ending.
fn is(key: &str, name: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    match name.starts_with('_') {
        true => last.ends_with(name),
        false => last == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_meaning_are_refused_with_their_keys() {
        let error = |text: &str| {
            let table: Table = text.parse().unwrap();
            check("train", &table).map_err(|error| error.to_string())
        };
        for (text, part) in [
            (
                "a.depth = 5000",
                "`a.depth` is 5000, but it lies between -4096 and 4096",
            ),
            (
                "norm_eps = inf",
                "`norm_eps` is inf, but it lies between 0 and 1;",
            ),
            ("x = nan", "`x` is NaN"),
            (
                "lr_schedule.peak = -1.0",
                "`lr_schedule.peak` is -1, but it lies between 0 and",
            ),
            ("std = [0.5, inf]", "`std` is inf"),
            ("n = 9223372036854775807", "`n` is 9223372036854775807"),
            ("n = 1e18", "`n` is 1000000000000000000"),
        ] {
            let error = error(text).unwrap_err();
            assert!(
                error.starts_with("train: ") && error.contains(part),
                "{error}"
            );
        }
        for text in [
            "seed = 9223372036854775807",
            "mean = [-0.5, 0.5]",
            "lr = 0.0",
        ] {
            error(text).unwrap();
        }
    }
}
