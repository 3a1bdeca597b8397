//! Every method at sizes that a test can afford: `tests/tiny/*.toml`, a file for each kind of network.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    dead_code,
    reason = "a test fails by panicking, and not each uses everything"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::Device;
use mim_core::Method;
use mim_methods::registry::{self, Entry, METHODS};
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
    #[serde(skip)]
    pub(crate) file: String,
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
        let built = self.entry().build(self.resolved(), &Device::Cpu, seed);
        built.unwrap()
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

/// All of them, every method of the registry at least once.
pub(crate) fn all() -> Vec<Tiny> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny");
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
    for entry in METHODS {
        let known = all.iter().any(|tiny| tiny.method == entry.name);
        assert!(known, "give {} a tiny size in tests/tiny", entry.name);
    }
    all
}
