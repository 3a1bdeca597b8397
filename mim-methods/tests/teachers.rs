//! Stochastic depth in a student leaves its teacher alone.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::Tensor;
use common::{Tiny, images};
use mim_core::{Result, StepContext, TraceSink};
use toml::{Table, Value};

#[derive(Default)]
struct Traces(Mutex<BTreeMap<String, Vec<f32>>>);

impl TraceSink for Traces {
    fn record(&self, name: &str, value: &Tensor) -> Result<()> {
        let values = value.to_dtype(candle_core::DType::F32)?.flatten_all()?;
        let mut all = self.0.lock().unwrap();
        all.insert(name.to_owned(), values.to_vec1()?);
        Ok(())
    }
}

/// Named intermediates of a training step, those of the teacher apart, and the number of stores.
fn traces(tiny: &Tiny, drop_path_rate: f64) -> [BTreeMap<String, Vec<f32>>; 2] {
    let mut settings = tiny.resolved();
    let encoder = settings.get_mut("encoder").and_then(Value::as_table_mut);
    let encoder: &mut Table = encoder.unwrap();
    encoder.insert("drop_path_rate".into(), drop_path_rate.into());
    let entry = tiny.entry();
    let method = entry.build(settings, &candle_core::Device::Cpu, 1).unwrap();
    let sink = Arc::new(Traces::default());
    let step = StepContext {
        trace: Some(sink.clone()),
        ..StepContext::new(3)
    };
    method.forward(&images(&*method), &step).unwrap();
    let all = std::mem::take(&mut *sink.0.lock().unwrap());
    let (teachers, others) = all
        .into_iter()
        .partition(|(name, _)| name.starts_with("teacher."));
    [teachers, others]
}

#[test]
fn drop_path_of_students_does_not_reach_teachers() {
    let mut checked = 0;
    for tiny in common::all() {
        let settings = tiny.resolved();
        let encoder = settings.get("encoder");
        // The encoder of a linear probe drops nothing.
        let probes = settings.get("linear_probe").and_then(Value::as_bool);
        if probes == Some(true) {
            continue;
        }
        if encoder
            .and_then(|encoder| encoder.get("drop_path_rate"))
            .is_none()
        {
            continue;
        }
        // An average of the weights sees no images.
        let stores = tiny.build(1);
        let mut stores = stores.stores().into_iter().skip(1);
        let momentum = stores.any(|(name, _)| name != "ema");
        let [plain, student] = traces(&tiny, 0.);
        let [dropped, changed] = traces(&tiny, 0.5);
        assert_ne!(student, changed, "{}: nothing was dropped", tiny.file);
        assert_eq!(plain, dropped, "{}", tiny.file);
        assert!(!momentum || !plain.is_empty(), "{}", tiny.file);
        checked += usize::from(!plain.is_empty());
    }
    assert!(checked >= 5, "only {checked} methods have teachers");
}
