//! A part of a program's own is chosen by name, like those of mim.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use candle_core::Device;
use mim_core::data::{Loader, LoaderConfig, MemoryDataset};
use mim_core::parts::Part;
use mim_core::{Error, Mask, Result, StepContext};
use mim_masking::{MaskRequest, Masker, MaskerSettings};
use mim_methods::registry::{self, Registry};
use rand::Rng;
use serde::{Deserialize, Serialize};

/// Hides every other square of `side` patches.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CheckerboardConfig {
    side: usize,
}

impl Default for CheckerboardConfig {
    fn default() -> Self {
        Self { side: 1 }
    }
}

impl Part for CheckerboardConfig {
    const ABOUT: &'static str = "every other square";
    const PAPER: &'static str = "none";
    const SMALL: &'static str = "side = 2";
}

impl MaskerSettings for CheckerboardConfig {
    fn build(&self) -> Result<Box<dyn Masker>> {
        match self.side {
            0 => Err(Error::config(
                "masker",
                "side",
                0,
                "a square has patches",
                "use 1 or more",
            )),
            side => Ok(Box::new(Checkerboard { side })),
        }
    }
}

struct Checkerboard {
    side: usize,
}

impl Masker for Checkerboard {
    fn sample(&self, rq: &MaskRequest<'_>, _rng: &mut dyn Rng) -> Result<Mask> {
        let cols = rq.grid.cols;
        let hidden =
            |at: usize| u8::from(((at / cols) / self.side + (at % cols) / self.side) % 2 == 1);
        let image: Vec<u8> = (0..rq.grid.len()).map(hidden).collect();
        Mask::from_bits(rq.grid, &image.repeat(rq.images))
    }
}

fn registry_with_checkerboard() -> Registry {
    let mut registry = Registry::default();
    registry
        .masker::<CheckerboardConfig>("checkerboard")
        .unwrap();
    registry
}

const SETTINGS: &str = "scale = \"32px\"
masker = { type = \"checkerboard\" }
encoder = { embed_dim = 16, depth = 1, num_heads = 2 }
decoder = { type = \"mae\", embed_dim = 8, depth = 1, num_heads = 2 }";

#[test]
fn a_masker_of_a_programs_own_trains_by_name() {
    let registry = registry_with_checkerboard();
    let custom = registry::method("custom").unwrap();
    let settings = custom
        .resolve_with(&registry, SETTINGS.parse().unwrap())
        .unwrap();
    assert_eq!(settings["masker"]["side"].as_integer(), Some(2));
    assert_eq!(
        custom.resolve_with(&registry, settings.clone()).unwrap(),
        settings
    );
    let method = custom
        .build_with(&registry, settings, &Device::Cpu, 0)
        .unwrap();
    let pixels = (0..2 * 32 * 32 * 3u32).map(|at| (at % 251) as u8).collect();
    let images = MemoryDataset::new(pixels, (32, 32), 3).unwrap();
    let loading = LoaderConfig {
        batch_size: 2,
        workers: 0,
        ..LoaderConfig::default()
    };
    let loader = Loader::new(std::sync::Arc::new(images), method.views(0), loading, 0).unwrap();
    let batch = loader.sequential().unwrap().next().unwrap().unwrap();
    let loss = method.forward(&batch, &StepContext::new(0)).unwrap();
    let gradients = loss.total().unwrap().backward().unwrap();
    let trained = method.stores()[0].1.trainable();
    assert!(
        trained
            .iter()
            .any(|(_, var)| gradients.get(var.as_tensor()).is_some())
    );
}

#[test]
fn without_the_addition_the_name_is_unknown_and_bad_settings_are_refused() {
    let custom = registry::method("custom").unwrap();
    let error = custom.resolve(SETTINGS.parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("use one of random, "), "{error}");
    let registry = registry_with_checkerboard();
    let bad = SETTINGS.replace("\"checkerboard\"", "\"checkerboard\", sdie = 1");
    let error = custom.resolve_with(&registry, bad.parse().unwrap());
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("masker.sdie") && error.contains("`side`"),
        "{error}"
    );
    let bad = SETTINGS.replace("\"checkerboard\"", "\"checkerboard\", side = 0");
    let settings = custom
        .resolve_with(&registry, bad.parse().unwrap())
        .unwrap();
    let error = custom
        .build_with(&registry, settings, &Device::Cpu, 0)
        .err()
        .unwrap();
    assert!(error.to_string().contains("`side`"), "{error}");
}
