//! Every trainable parameter of every method gets a finite gradient that is not zero.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;

use candle_core::{DType, Tensor};
use common::{Part, Tiny, images};
use mim_core::ops::{Precision, with_precision};
use mim_core::optim::Gradients;
use mim_core::{Method, StepContext};

fn gradients(method: &dyn Method) -> Gradients {
    gradients_of(method, &StepContext::new(3)).1
}

/// Loss and gradients of a step.
fn gradients_of(method: &dyn Method, step: &StepContext) -> (f32, Gradients) {
    let loss = method
        .forward(&images(method), step)
        .unwrap()
        .total()
        .unwrap();
    let mut gradients = Gradients::new(method.stores()[0].1.trainable());
    gradients.backward(&loss).unwrap();
    (loss.to_scalar().unwrap(), gradients)
}

/// The largest difference of the gradients of a parameter, against the largest of them; parameters that the
/// loss hardly feels count as feeling it a thousandth as much as the others. Gradients that are zero by mathematics
/// may differ by twice what rounding makes of them.
fn difference(tiny: &Tiny, got: &Gradients, wanted: &Gradients) -> (f64, String) {
    let values = |gradient: Option<&Tensor>| -> Vec<f64> {
        let gradient = gradient.unwrap().to_dtype(DType::F64).unwrap();
        gradient.flatten_all().unwrap().to_vec1().unwrap()
    };
    let largest = |values: &[f64]| values.iter().fold(0f64, |max, v| max.max(v.abs()));
    let floor = 1e-3
        * wanted
            .iter()
            .fold(0., |max, (_, _, all)| largest(&values(all)).max(max));
    let pairs = got.iter().zip(wanted.iter()).map(|(got, wanted)| {
        let (mine, other) = (values(got.2), values(wanted.2));
        let apart: Vec<f64> = mine.iter().zip(&other).map(|(a, b)| a - b).collect();
        let (apart, name) = (largest(&apart), got.0.to_owned());
        let zero = tiny.zero_of(&name).filter(|zero| zero.part == Part::Whole);
        let rounding = zero.map_or(0., |zero| zero.rounding);
        if apart <= 2. * f64::from(rounding) {
            return (0., name);
        }
        (apart / largest(&other).max(floor), name)
    });
    pairs.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

#[test]
fn every_trainable_parameter_gets_a_gradient() {
    for tiny in common::all() {
        let method = tiny.build(1);
        for (name, var, gradient) in gradients(method.as_ref()).iter() {
            let full = format!("{} {name}", tiny.file);
            let gradient = gradient.unwrap_or_else(|| panic!("{full}: no gradient arrives"));
            assert_eq!(gradient.dims(), var.dims(), "{full}");
            let values: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
            assert!(values.iter().all(|v| v.is_finite()), "{full}: {values:?}");
            let zero = tiny.zero_of(name);
            let rounding = zero.map_or(0., |zero| zero.rounding);
            let zero = zero.map_or(0..0, |zero| zero.part.range(values.len()));
            let largest = |listed: bool| {
                let part = values.iter().enumerate();
                part.filter(|(index, _)| zero.contains(index) == listed)
                    .fold(0f32, |max, (_, v)| max.max(v.abs()))
            };
            let whole = zero.len() == values.len();
            assert!(
                whole || largest(false) > 1e-9,
                "{full}: the gradient is zero"
            );
            assert!(
                largest(true) <= rounding,
                "{full}: listed as zero, but {}",
                largest(true)
            );
        }
    }
}

#[test]
fn what_is_listed_as_zero_exists() {
    for tiny in common::all() {
        let names = tiny.build(1).stores()[0].1.trainable();
        for end in tiny.zero.keys() {
            let known = names.iter().any(|(name, _)| name.ends_with(end));
            assert!(known, "{} {end}", tiny.file);
        }
    }
}

#[test]
fn teachers_and_frozen_parameters_get_none() {
    for tiny in common::all() {
        let method = tiny.build(1);
        let step = StepContext::new(3);
        let loss = method
            .forward(&images(method.as_ref()), &step)
            .unwrap()
            .total()
            .unwrap();
        let store = loss.backward().unwrap();
        for (name, weights) in method.stores() {
            let trainable = weights.trainable();
            for (parameter, var) in weights.vars() {
                let trains = trainable.iter().any(|(known, _)| *known == parameter);
                let arrives = store.get(&var).is_some();
                assert_eq!(arrives, trains, "{} {name} {parameter}", tiny.file);
            }
        }
    }
}

#[test]
fn the_same_step_twice_gives_the_same_bits() {
    for tiny in common::all() {
        let bits = || {
            let all = gradients(tiny.build(1).as_ref());
            let values = all.iter().flat_map(|(_, _, gradient)| {
                let values = gradient.unwrap().to_dtype(DType::F32).unwrap();
                values.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            });
            values.map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(bits(), bits(), "{}", tiny.file);
    }
}

#[test]
fn blocks_that_are_computed_again_give_the_same_gradients() {
    for tiny in common::all() {
        let method = tiny.build(1);
        let kept = StepContext::new(3);
        let again = StepContext {
            recompute: true,
            ..kept.clone()
        };
        // Sums of the same parts in another order.
        let (loss, wanted) = gradients_of(method.as_ref(), &kept);
        let (same, got) = gradients_of(tiny.build(1).as_ref(), &again);
        assert_eq!(loss, same, "{}", tiny.file);
        let (error, name) = difference(&tiny, &got, &wanted);
        assert!(error < 1e-3, "{} {name}: {error}", tiny.file);
    }
}

#[test]
fn bf16_products_give_nearly_the_same_loss() {
    for tiny in common::all() {
        let step = StepContext::new(3);
        let (loss, _) = gradients_of(tiny.build(1).as_ref(), &step);
        let (near, gradients) = with_precision(Precision::Bf16, || {
            gradients_of(tiny.build(1).as_ref(), &step)
        });
        assert!(
            (near - loss).abs() <= 2e-2 * loss.abs(),
            "{}: {near}, {loss}",
            tiny.file
        );
        assert!(gradients.norm().unwrap().is_finite(), "{}", tiny.file);
    }
}

#[cfg(feature = "cuda")]
mod on_a_gpu {
    use super::*;
    use candle_core::Device;
    use mim_core::optim::{AdamWConfig, Clip};
    use mim_core::train::Stepper;

    #[test]
    fn every_method_gives_the_gradients_of_the_cpu() {
        let gpu = Device::new_cuda(0).unwrap();
        for tiny in common::all() {
            let kept = StepContext::new(3);
            let again = StepContext {
                recompute: true,
                ..kept.clone()
            };
            let (loss, wanted) = gradients_of(tiny.build(1).as_ref(), &kept);
            let there = || tiny.build_on(&gpu, 1);
            for step in [&kept, &again] {
                let (near, got) = gradients_of(there().as_ref(), step);
                // The logit-Laplace likelihood of the dVAE is a difference of numbers near 1.
                let close = (near - loss).abs() <= 1e-5 * loss.abs() + 1e-6;
                assert!(close, "{}: {near}, {loss}", tiny.file);
                let (error, name) = difference(&tiny, &got, &wanted);
                assert!(error < 1e-3, "{} {name}: {error}", tiny.file);
            }
            let half = || gradients_of(there().as_ref(), &kept);
            let (near, got) = with_precision(Precision::Bf16, half);
            // The nearest neighbours of rounded rows may be others.
            let bound = if tiny.file == "mimrefiner" { 0.2 } else { 2e-2 };
            let close = (near - loss).abs() <= bound * loss.abs();
            assert!(close, "{}: {near}, {loss}", tiny.file);
            assert!(got.norm().unwrap().is_finite(), "{}", tiny.file);
        }
    }

    #[test]
    fn steps_go_as_on_the_cpu() {
        let losses = |tiny: &common::Tiny, device: &Device| -> Vec<(f64, f64)> {
            let method = tiny.build_on(device, 1);
            let clip = Clip::Global { max_norm: 0.5 };
            let mut stepper = Stepper::new(method.as_ref(), AdamWConfig::default(), clip).unwrap();
            let batches = [images(method.as_ref()), images(method.as_ref())];
            let mut step = |iter| {
                let place = StepContext {
                    iter,
                    iters_per_epoch: 3,
                    ..StepContext::new(3)
                };
                let report = stepper.step(method.as_ref(), &batches, &place, 1e-3);
                let report = report.unwrap();
                (report.loss, report.grad_norm)
            };
            (0..3).map(&mut step).collect()
        };
        let gpu = Device::new_cuda(0).unwrap();
        for tiny in common::all() {
            let wanted = losses(&tiny, &Device::Cpu);
            let got = losses(&tiny, &gpu);
            for (got, wanted) in got.iter().zip(&wanted) {
                let near = |a: f64, b: f64| (a - b).abs() <= 1e-3 * b.abs();
                let fits = near(got.0, wanted.0) && near(got.1, wanted.1);
                assert!(fits, "{}: {got:?}, {wanted:?}", tiny.file);
            }
        }
    }
}
