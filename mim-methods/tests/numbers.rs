//! Numbers without meaning in any setting of any method are refused before a panic, an allocation or a long wait.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use candle_core::Device;
use toml::Value;

/// A place in a table: keys, and places in arrays.
type Place = Vec<String>;

/// Places of all numbers.
fn numbers(value: &Value, place: &Place, found: &mut Vec<Place>) {
    let inner = |key: String| [&place[..], &[key]].concat();
    match value {
        Value::Table(table) => table
            .iter()
            .for_each(|(key, value)| numbers(value, &inner(key.clone()), found)),
        Value::Array(values) => (0..)
            .zip(values)
            .for_each(|(at, value): (usize, _)| numbers(value, &inner(at.to_string()), found)),
        Value::Integer(_) | Value::Float(_) => found.push(place.clone()),
        _ => {}
    }
}

fn at<'a>(value: &'a mut Value, place: &[String]) -> &'a mut Value {
    place.iter().fold(value, |value, key| match value {
        Value::Array(values) => &mut values[key.parse::<usize>().unwrap()],
        other => &mut other[key.as_str()],
    })
}

/// The last key of a place.
fn key(place: &Place) -> &str {
    let is_key = |part: &&String| part.parse::<usize>().is_err();
    place.iter().rfind(is_key).unwrap()
}

/// -1 and 0 mean something here and there; the others nowhere.
fn values(whole: bool) -> Vec<(Value, bool)> {
    let large = [i64::MAX, 1_000_000_000_000_000_000];
    match whole {
        true => large
            .map(|value| (Value::Integer(value), true))
            .into_iter()
            .chain([-1, 0].map(|value| (Value::Integer(value), false)))
            .collect(),
        false => [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e18, -1e18]
            .map(|value| (Value::Float(value), true))
            .into_iter()
            .chain([-1., 0.].map(|value| (Value::Float(value), false)))
            .collect(),
    }
}

#[test]
fn every_number_of_every_method_is_checked() {
    let (mut wrong, mut tries) = (Vec::new(), 0);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for tiny in common::all() {
        let resolved = Value::Table(tiny.resolved());
        let mut places = Vec::new();
        numbers(&resolved, &Vec::new(), &mut places);
        assert!(!places.is_empty(), "{}", tiny.file);
        for place in places {
            let whole = at(&mut resolved.clone(), &place).is_integer();
            for (value, refused) in values(whole) {
                let mut table = resolved.clone();
                *at(&mut table, &place) = value.clone();
                let table = table.as_table().unwrap().clone();
                let start = Instant::now();
                let built = || tiny.entry().build(table, &Device::Cpu, 0).map(drop);
                let built = catch_unwind(AssertUnwindSafe(built));
                tries += 1;
                let what = match built {
                    Err(_) => "panics".to_owned(),
                    _ if start.elapsed() > Duration::from_secs(5) => "takes long".to_owned(),
                    Ok(Ok(())) if refused => "is taken".to_owned(),
                    Ok(Err(error)) if refused && !error.to_string().contains(key(&place)) => {
                        format!("is not named: {error}")
                    }
                    _ => continue,
                };
                wrong.push(format!(
                    "{}: {} = {value} {what}",
                    tiny.file,
                    place.join(".")
                ));
            }
        }
    }
    std::panic::set_hook(hook);
    assert!(
        wrong.is_empty(),
        "{} of {tries}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(tries > 3000, "{tries}");
}
