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

use candle_core::Tensor;
use common::Tiny;
use mim_core::StepContext;
use mim_core::comm::{Communicator, Single, Threads};
use mim_core::optim::{AdamWConfig, Clip};
use mim_core::train::Stepper;
use parallel::{
    IMAGES, METHODS, assert_same, first_step, loader, mask, rounded_steps, without_drop_path,
};

fn tiny(file: &str) -> Tiny {
    let tiny = common::tiny(file);
    Tiny {
        settings: without_drop_path(tiny.settings),
        ..tiny
    }
}

#[test]
fn a_shared_batch_gives_the_gradients_of_the_whole() {
    for &(name, crops) in METHODS {
        let tiny = tiny(name);
        let alone: Arc<dyn Communicator> = Arc::new(Single);
        let wanted = first_step(tiny.build(5), crops, &alone);
        let rounded = rounded_steps(|| tiny.build(5), crops);
        for world in [2, 4] {
            let tiny = &tiny;
            std::thread::scope(|scope| {
                let threads: Vec<_> = Threads::group(world)
                    .into_iter()
                    .map(|comm| {
                        scope.spawn(move || {
                            let comm: Arc<dyn Communicator> = Arc::new(comm);
                            first_step(tiny.build(5), crops, &comm)
                        })
                    })
                    .collect();
                for thread in threads {
                    assert_same(name, &thread.join().unwrap(), &wanted, &rounded);
                }
            });
        }
    }
}

/// First moments after an optimizer step on the first images in so many parts: a tenth of the gradients.
fn accumulated(tiny: &Tiny, parts: usize) -> Vec<(String, Tensor)> {
    let mut method = tiny.build(5);
    let batches = loader(method.as_ref(), IMAGES / parts).epoch(0, 0).unwrap();
    let batches: Vec<_> = batches.take(parts).map(Result::unwrap).collect();
    // The same masks for each half.
    let images = (0..IMAGES / parts).map(|image| image % (IMAGES / 2));
    method.override_mask(mask(1, images).unwrap()).unwrap();
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
        let tiny = tiny(name);
        let (whole, parts) = (accumulated(&tiny, 1), accumulated(&tiny, 2));
        assert!(!whole.is_empty());
        assert_same(name, &parts, &whole, &[]);
    }
}
