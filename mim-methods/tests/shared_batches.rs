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

use common::Tiny;
use mim_core::comm::{Communicator, Single, Threads};
use parallel::{METHODS, assert_same, first_step};

fn tiny(file: &str) -> Tiny {
    let mut all = common::all().into_iter();
    all.find(|tiny| tiny.file == file).unwrap()
}

#[test]
fn a_shared_batch_gives_the_gradients_of_the_whole() {
    for &(name, crops) in METHODS {
        let tiny = tiny(name);
        let alone: Arc<dyn Communicator> = Arc::new(Single);
        let wanted = first_step(tiny.build(5), crops, &alone);
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
                    assert_same(name, &thread.join().unwrap(), &wanted);
                }
            });
        }
    }
}
