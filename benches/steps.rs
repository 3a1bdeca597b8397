//! Whole training steps of every registered method at its smallest size.
//!
//! `cargo bench --bench steps`; a name filters, e.g. `-- swin`. The sizes are those of the tests,
//! `mim-methods/tests/tiny/*.toml`, on 16 images of the embedded data. A step is forward, backward, clipping, AdamW and
//! the teacher's update, with new masks each time. At this size a step is mostly overhead. The other benches time
//! kernels; `mim bench step` and `mim bench method` time steps of real sizes.

#![expect(
    clippy::expect_used,
    reason = "a benchmark has no caller to return an error to"
)]

mod common;

use std::fs;
use std::path::Path;

use candle_core::Device;
use common::{brief, time};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mim_core::data::{DataSource, Loader, LoaderConfig, Split};
use mim_core::optim::{AdamWConfig, Clip};
use mim_core::train::Stepper;
use mim_core::{Batch, Method, Result, StepContext};
use mim_methods::registry;
use toml::Table;

const IMAGES: usize = 16;

/// The tiny sizes in order: (name of the file, method, settings).
fn sizes() -> Vec<(String, String, Table)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("mim-methods/tests/tiny");
    let entries = fs::read_dir(folder).expect("the folder is part of the repository");
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.expect("a readable folder").path();
        let text = fs::read_to_string(&path).expect("a readable file");
        let mut size: Table = text.parse().expect("a TOML file");
        let method = size.get("method").and_then(|name| name.as_str());
        let method = method.expect("each file names its method").to_owned();
        let settings = size
            .remove("settings")
            .and_then(|part| part.try_into().ok());
        let file = path.file_stem().expect("a file's name").to_string_lossy();
        (file.into_owned(), method, settings.unwrap_or_default())
    };
    let mut sizes: Vec<_> = entries.map(read).collect();
    sizes.sort_by(|a, b| a.0.cmp(&b.0));
    for entry in registry::methods() {
        let known = sizes.iter().any(|(_, method, _)| method == entry.name);
        assert!(
            known,
            "give {} a size in mim-methods/tests/tiny",
            entry.name
        );
    }
    sizes
}

fn build(method: &str, settings: Table) -> Result<Box<dyn Method>> {
    let entry = registry::method(method)?;
    entry.build(entry.resolve(settings)?, &Device::Cpu, 0)
}

/// The first batch of the embedded images.
fn batch(method: &dyn Method) -> Result<Batch> {
    let loading = LoaderConfig {
        batch_size: IMAGES,
        ..LoaderConfig::default()
    };
    let source = match method.views(0).is_of_points() {
        true => DataSource::Shapes,
        false => DataSource::Embedded,
    };
    let images = source.open(Split::Train)?;
    let loader = Loader::new(images, method.views(0), loading, 0)?;
    loader.epoch(0, 0)?.next().expect("the data is not empty")
}

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("steps");
    group.throughput(Throughput::Elements(IMAGES as u64));
    for (file, method, settings) in sizes() {
        let method = build(&method, settings).expect("settings hold");
        let side = method.input().size.height;
        let batches = [batch(&*method).expect("images of the method's own plan")];
        let clip = Clip::Global { max_norm: 1. };
        let stepper = Stepper::new(&*method, AdamWConfig::default(), clip);
        let mut stepper = stepper.expect("something to train");
        let mut iter = 0;
        time(&mut group, &format!("{file}/{IMAGES}x{side}px"), || {
            let step = StepContext {
                iter,
                iters_per_epoch: usize::MAX,
                ..StepContext::new(0)
            };
            iter += 1;
            stepper.step(&*method, &batches, &step, 1e-4)
        });
    }
}

criterion_group! {
    name = benches;
    config = brief();
    targets = steps
}
criterion_main!(benches);
