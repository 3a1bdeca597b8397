//! Several processes that share a batch compute what one computes of all of it. Threads stand for processes here;
//! `tests/data_parallel.rs` of the root package does the same under `mpirun`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;
#[path = "common/parallel.rs"]
mod parallel;

use std::sync::Arc;

use candle_core::{Device, Tensor};
use common::{Tiny, compared};
use mim_core::StepContext;
use mim_core::comm::{Communicator, Single, Threads};
use mim_core::optim::{AdamWConfig, Clip};
use mim_core::train::Stepper;
use parallel::{IMAGES, build, differences, first_step, loader, mask, rounded_steps};

#[test]
fn a_shared_batch_gives_the_gradients_of_the_whole() {
    let mut wrong = Vec::new();
    for tiny in &compared() {
        let alone: Arc<dyn Communicator> = Arc::new(Single);
        let wanted = first_step(tiny, &Device::Cpu, &alone);
        let rounded = rounded_steps(tiny, &Device::Cpu);
        for world in [2, 4] {
            std::thread::scope(|scope| {
                let threads: Vec<_> = Threads::group(world)
                    .into_iter()
                    .map(|comm| {
                        scope.spawn(move || {
                            let comm: Arc<dyn Communicator> = Arc::new(comm);
                            first_step(tiny, &Device::Cpu, &comm)
                        })
                    })
                    .collect();
                for thread in threads {
                    wrong.extend(differences(
                        tiny,
                        &thread.join().unwrap(),
                        &wanted,
                        &rounded,
                    ));
                }
            });
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_set_apart_has_a_reason() {
    for tiny in common::all() {
        let shared = &tiny.shared;
        let apart = !shared.settings.is_empty() || !shared.training || shared.ordered;
        let apart = apart || shared.rounding > 1e-6 || !shared.compared;
        assert_eq!(apart, !shared.reason.is_empty(), "{}", tiny.file);
        if !shared.compared {
            println!("{} is not compared: {}", tiny.file, shared.reason);
        }
    }
}

/// First moments after an optimizer step on the first images in so many parts: a tenth of the gradients.
fn accumulated(tiny: &Tiny, parts: usize) -> Vec<(String, Tensor)> {
    let mut method = build(tiny, &Device::Cpu);
    let batches = loader(method.as_ref(), IMAGES / parts).epoch(0, 0).unwrap();
    let batches: Vec<_> = batches.take(parts).map(Result::unwrap).collect();
    // The same masks for each half.
    let images: Vec<_> = (0..IMAGES / parts)
        .map(|image| image % (IMAGES / 2))
        .collect();
    method.override_mask(mask(tiny, &images).unwrap()).unwrap();
    let mut stepper = Stepper::new(method.as_ref(), AdamWConfig::default(), Clip::None).unwrap();
    let step = StepContext::new(5);
    stepper
        .step(method.as_ref(), &batches, &step, 1e-3)
        .unwrap();
    let state = stepper.optimizer().state().unwrap();
    let moments = state.iter().filter(|(name, _)| name.ends_with("exp_avg"));
    moments
        .map(|(name, moment)| (format!("gradient of {name}"), moment.clone()))
        .collect()
}

#[test]
fn accumulated_gradients_are_those_of_the_larger_batch() {
    // Of the others, batch norms, second moments, negatives and centres are those of each part, as in the authors' code.
    for name in ["mae", "bootmae"] {
        let tiny = common::tiny(name);
        let (whole, parts) = (accumulated(&tiny, 1), accumulated(&tiny, 2));
        assert!(!whole.is_empty());
        let wrong = differences(&tiny, &parts, &whole, &[]);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
