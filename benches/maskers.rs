//! Every masker with its paper's settings, and the conversions of a mask for the encoder.
//!
//! `cargo bench --bench maskers`; a name filters, e.g. `-- blockwise`. Each call masks 256 images of 14 x 14 patches;
//! the throughput is in images. Maskers are not compared with each other: what counts is that each costs little
//! compared with a training step.

#![expect(
    clippy::expect_used,
    reason = "a benchmark has no caller to return an error to"
)]

mod common;

use candle_core::Device;
use common::{GRID, brief, mask, time};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mim_core::rng::stream;
use mim_core::{Mask, PatchGrid, Purpose, StepContext};
use mim_masking::{
    BlockwiseMaskerConfig, Guide, GuideKind, MaskRequest, MaskerSettings, OnStuck, maskers,
};

const IMAGES: usize = 256;

/// All maskers with their papers' settings, and variants of `blockwise`.
fn all() -> Vec<(String, Box<dyn MaskerSettings>)> {
    let blockwise = |name: &str, when_stuck| {
        let config = BlockwiseMaskerConfig {
            when_stuck,
            ..BlockwiseMaskerConfig::default()
        };
        (name.to_owned(), Box::new(config) as Box<dyn MaskerSettings>)
    };
    let mut all: Vec<_> = maskers()
        .iter()
        .map(|entry| {
            let defaults = entry.info.defaults().expect("they can be written");
            let settings = entry.read(defaults).expect("what was written is read");
            (entry.info.name.clone(), settings)
        })
        .collect();
    all.push(blockwise("blockwise_stop", OnStuck::Stop));
    all.push(blockwise("blockwise_top_up", OnStuck::TopUp));
    all.push(blockwise("blockwise_retry", OnStuck::Retry));
    all
}

fn rules(c: &mut Criterion) {
    let step = StepContext::new(0);
    let scores: Vec<f32> = (0..IMAGES * GRID.len())
        .map(|i| (i as f32 * 12.9898).sin().abs())
        .collect();
    let parts: Vec<u32> = (0u32..).map(|i| i % 7).take(scores.len()).collect();
    let mut group = c.benchmark_group("maskers");
    group.throughput(Throughput::Elements(IMAGES as u64));
    for (name, config) in all() {
        let masker = config.build().expect("the papers' settings hold");
        let request = MaskRequest {
            images: IMAGES,
            grid: GRID,
            guide: match masker.guide() {
                GuideKind::Scores => Guide::Scores(&scores),
                GuideKind::Parts => Guide::Parts(&parts),
                GuideKind::None => Guide::None,
            },
            step: &step,
        };
        let mut rng = stream(0, Purpose::Mask, [0, 0]);
        time(&mut group, &format!("{name}/256x14x14"), || {
            masker.sample(&request, &mut rng)
        });
    }
}

fn masks(c: &mut Criterion) {
    let (mask, cpu) = (mask(IMAGES, GRID), Device::Cpu);
    let bits = mask.to_bits();
    let pixels = PatchGrid::new(56, 56);
    let mut group = c.benchmark_group("maskers/mask");
    group.throughput(Throughput::Elements(IMAGES as u64));
    time(&mut group, "from_bits/256x14x14", || {
        Mask::from_bits(GRID, &bits)
    });
    time(&mut group, "ids_keep/256x14x14", || mask.ids_keep(&cpu));
    time(&mut group, "ids_restore/256x14x14", || {
        mask.ids_restore(&cpu)
    });
    time(&mut group, "flat/256x14x14", || {
        mask.flat(true, IMAGES, &cpu)
    });
    time(&mut group, "upsample/256x56x56", || mask.upsample(pixels));
}

criterion_group! {
    name = benches;
    config = brief();
    targets = rules, masks
}
criterion_main!(benches);
