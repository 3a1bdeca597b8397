//! Every method at sizes that a test can afford: `tests/tiny/*.toml`, a file for each kind of network.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    dead_code,
    reason = "a test fails by panicking, and not each uses everything"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use candle_core::{Device, Tensor};
use mim_core::augment::Sample;
use mim_core::data::{DataSource, Dataset, Split};
use mim_core::rng::stream;
use mim_core::train::{EpochLog, EpochRecord, Observer, StepReport};
use mim_core::{Batch, Crop, Method, Purpose, View};
use mim_methods::registry::{self, Entry};
use serde::Deserialize;
use toml::Table;

/// A method at a tiny size.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tiny {
    /// Name in the registry.
    pub(crate) method: String,
    /// A committed golden case whose undecayed parameters are those of the recipes for this network.
    pub(crate) golden: Option<String>,
    pub(crate) settings: Table,
    /// Parameters whose gradient is zero by mathematics, by the end of their names.
    #[serde(default)]
    pub(crate) zero: BTreeMap<String, Zero>,
    /// How it is compared where processes share a batch.
    #[serde(default)]
    pub(crate) shared: Shared,
    #[serde(skip)]
    pub(crate) file: String,
}

/// What is set apart where the step of several processes is compared with that of one.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Shared {
    /// Top-level settings in place of those of the tiny size: without draws that are keyed by the process.
    pub(crate) settings: Table,
    /// Whether it is a training step; not where what is drawn by the process cannot be set.
    pub(crate) training: bool,
    /// Whether its state keeps images in their order: another order is then more than rounding.
    pub(crate) ordered: bool,
    /// Largest share of the largest value of a tensor that still is rounding.
    pub(crate) rounding: f64,
    /// Whether it is compared at all.
    pub(crate) compared: bool,
    /// Why something is set here.
    pub(crate) reason: String,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            settings: Table::new(),
            training: true,
            ordered: false,
            rounding: 1e-6,
            compared: true,
            reason: String::new(),
        }
    }
}

/// The part of a parameter, along its first axis, that gets no gradient.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Zero {
    pub(crate) part: Part,
    /// For the reader.
    pub(crate) reason: String,
    /// Largest magnitude that still is rounding.
    #[serde(default = "rounding")]
    pub(crate) rounding: f32,
}

fn rounding() -> f32 {
    1e-6
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
pub(crate) enum Part {
    #[serde(rename = "middle third")]
    MiddleThird,
    #[serde(rename = "first half")]
    FirstHalf,
    #[serde(rename = "whole")]
    Whole,
}

impl Part {
    pub(crate) fn range(self, count: usize) -> std::ops::Range<usize> {
        match self {
            Self::MiddleThird => count / 3..count / 3 * 2,
            Self::FirstHalf => 0..count / 2,
            Self::Whole => 0..count,
        }
    }
}

impl Tiny {
    pub(crate) fn entry(&self) -> &'static Entry {
        registry::method(&self.method).unwrap()
    }

    /// All settings.
    pub(crate) fn resolved(&self) -> Table {
        self.entry().resolve(self.settings.clone()).unwrap()
    }

    pub(crate) fn build(&self, seed: u64) -> Box<dyn Method> {
        self.build_on(&Device::Cpu, seed)
    }

    pub(crate) fn build_on(&self, device: &Device, seed: u64) -> Box<dyn Method> {
        self.entry().build(self.resolved(), device, seed).unwrap()
    }

    /// What is zero of the gradient of a parameter.
    pub(crate) fn zero_of(&self, name: &str) -> Option<&Zero> {
        let mut all = self.zero.iter();
        all.find(|(end, _)| name.ends_with(*end))
            .map(|(_, zero)| zero)
    }
}

/// The kind of encoder in a method's settings.
pub(crate) fn encoder(settings: &Table) -> String {
    let kind = settings
        .get("encoder")
        .and_then(|encoder| encoder.get("type"));
    kind.and_then(|kind| kind.as_str())
        .unwrap_or("vit")
        .to_owned()
}

/// Those whose step in several processes is compared with that of one: all whose file does not say why not.
pub(crate) fn compared() -> Vec<Tiny> {
    let mut all = all();
    all.retain(|tiny| tiny.shared.compared);
    all
}

/// All of them, every method of the registry at least once.
pub(crate) fn all() -> Vec<Tiny> {
    // The tests of the root package read them too.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["tests/tiny", "mim-methods/tests/tiny"].map(|folder| root.join(folder));
    let folder = folders.iter().find(|folder| folder.is_dir()).unwrap();
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let mut tiny: Tiny = toml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        tiny.file = path.file_stem().unwrap().to_string_lossy().into_owned();
        tiny
    };
    let all: Vec<Tiny> = files.iter().map(read).collect();
    for entry in registry::methods() {
        let known = all.iter().any(|tiny| tiny.method == entry.name);
        assert!(known, "give {} a tiny size in tests/tiny", entry.name);
    }
    all
}

/// The one of this file.
pub(crate) fn tiny(file: &str) -> Tiny {
    all().into_iter().find(|tiny| tiny.file == file).unwrap()
}

/// The data of a method's kind that is at hand: images, or clouds.
pub(crate) fn data(method: &dyn Method) -> Arc<dyn Dataset> {
    let source = match method.views(0).is_of_points() {
        true => DataSource::Shapes,
        false => DataSource::Embedded,
    };
    source.open(Split::Train).unwrap()
}

/// Clouds of scattered points for the method, on its device.
fn clouds(method: &dyn Method) -> Batch {
    let shape = (4, method.input().size.height, 3);
    let count = (shape.0 * shape.1 * shape.2) as u32;
    let values: Vec<f32> = (0..count)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.)
        .collect();
    let points = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    let batch = Batch::single(View::of_points(points).unwrap());
    batch.to_device(method.stores()[0].1.device()).unwrap()
}

/// Images for the method, or clouds, on its device.
pub(crate) fn images(method: &dyn Method) -> Batch {
    let input = method.input();
    if method.views(0).is_of_points() {
        return clouds(method);
    }
    let shape = (4, input.channels(), input.size.height, input.size.width);
    let count = (shape.0 * shape.1 * shape.2 * shape.3) as u32;
    let bytes: Vec<u8> = (0..count)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let photo = Sample::new(vec![9; shape.2 * shape.3 * 3], (shape.2, shape.3), 3).unwrap();
    let mut rng = stream(0, Purpose::Augment, [0, 0]);
    let sizes = method.views(0).apply(photo, &mut rng).unwrap();
    let view = |index: u32| {
        let (height, width) = sizes[index as usize].size();
        let size = (height as u32, width as u32);
        let crop = |image: u32| Crop {
            top: (image + index) as f32,
            flipped: image == index,
            ..Crop::whole(size)
        };
        let pixels = Tensor::from_vec(bytes.clone(), shape, &Device::Cpu).unwrap();
        let pixels = pixels.flip(&[2 + index as usize % 2]).unwrap();
        let pixels = pixels.narrow(2, 0, height).unwrap();
        let pixels = pixels.narrow(3, 0, width).unwrap();
        View::new(pixels, (0..shape.0 as u32).map(crop).collect()).unwrap()
    };
    let labels = Tensor::from_vec(vec![0u32, 3, 1, 9], shape.0, &Device::Cpu).unwrap();
    let batch = Batch {
        labels: Some(labels),
        views: (0..sizes.len() as u32).map(view).collect(),
        ..Batch::single(view(0))
    };
    batch.to_device(method.stores()[0].1.device()).unwrap()
}

/// The first of the embedded images.
#[derive(Debug)]
pub(crate) struct Few {
    all: Arc<dyn Dataset>,
    count: usize,
}

impl Few {
    pub(crate) fn new(count: usize) -> Self {
        let all = DataSource::Embedded.open(Split::Train).unwrap();
        assert!(count <= all.len());
        Self { all, count }
    }
}

impl Dataset for Few {
    fn len(&self) -> usize {
        self.count
    }

    fn read(&self, index: usize) -> mim_core::Result<Sample> {
        self.all.read(index)
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.all.label(index)
    }

    fn classes(&self) -> usize {
        self.all.classes()
    }
}

/// Ends the run after a number of steps.
pub(crate) struct StopAfter(pub(crate) usize);

impl Observer for StopAfter {
    fn step(&mut self, _report: &StepReport) {
        self.0 = self.0.saturating_sub(1);
    }

    fn stop(&self) -> bool {
        self.0 == 0
    }
}

/// Names and bytes of a checkpoint.
pub(crate) fn content(run: &Path, step: usize) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = run.join(format!("checkpoints/step-{step}"));
    let entries = fs::read_dir(&folder)
        .unwrap()
        .collect::<io::Result<Vec<_>>>()
        .unwrap();
    let mut files: Vec<_> = entries
        .iter()
        .map(|entry| {
            (
                PathBuf::from(entry.file_name()),
                fs::read(entry.path()).unwrap(),
            )
        })
        .collect();
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    files
}

/// Epochs and bits of their losses in the log of a run.
pub(crate) fn losses(run: &Path) -> Vec<(usize, u64)> {
    let log = EpochLog::new(run).read().unwrap();
    let loss = |record: &EpochRecord| (record.epoch, record.train_loss.to_bits());
    log.iter().map(loss).collect()
}
