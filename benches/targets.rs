//! Every target generator: pixels in each normalisation, histograms of gradients, features of a teacher, tokens.
//!
//! `cargo bench --bench targets`; a name filters, e.g. `-- hog`. Ids give the recipe and the number of images, which is
//! the throughput. The networks are reduced: a ViT-S/16 of two blocks, and DALL-E's tokenizer at an eighth of its
//! width. `image_ops` compares the op of the histograms with plain candle operations.

#![expect(
    clippy::expect_used,
    reason = "a benchmark has no caller to return an error to"
)]

mod common;

use candle_core::Device;
use common::{GRID, SIDE, batch, brief, mask, time};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::{Norm, ParamStore, Result, StepContext};
use mim_targets::dvae::{DvaeConfig, DvaeEncoder};
use mim_targets::{
    ComplementTarget, FeatureTarget, FeatureTargetConfig, FoldTarget, HogTargetConfig, PatchNorm,
    PixelTargetConfig, TargetGenerator, TargetRequest, TokenTarget,
};

/// Times `target` on `images` square pictures of `side` pixels.
fn generate(
    c: &mut Criterion,
    (kind, recipe): (&str, &str),
    (images, side): (usize, usize),
    target: &dyn TargetGenerator,
) {
    let (batch, mask) = (batch(images, 1, side), mask(images, GRID));
    let step = StepContext::new(0);
    let request = TargetRequest {
        batch: &batch,
        grid: GRID,
        mask: Some(&mask),
        student: None,
        step: &step,
    };
    let mut group = c.benchmark_group(format!("targets/{kind}"));
    group.throughput(Throughput::Elements(images as u64));
    time(&mut group, &format!("{recipe}/{images}x{side}px"), || {
        target.generate(&request)
    });
}

fn pixels(c: &mut Criterion) {
    let raw = PixelTargetConfig {
        patch_norm: PatchNorm::None,
        ..PixelTargetConfig::default()
    };
    for (recipe, config) in [
        ("raw", raw),
        ("mae", PixelTargetConfig::default()),
        ("simmim", PixelTargetConfig::simmim()),
        ("bootmae", PixelTargetConfig::bootmae()),
    ] {
        let target = config.build().expect("the papers' settings hold");
        generate(c, ("pixel", recipe), (16, SIDE), &target);
    }
}

fn histograms(c: &mut Criterion) {
    for (recipe, config) in [
        ("maskfeat", HogTargetConfig::maskfeat()),
        ("fastmim", HogTargetConfig::fastmim()),
        ("dmjd", HogTargetConfig::dmjd()),
    ] {
        let target = config.build().expect("the papers' settings hold");
        generate(c, ("hog", recipe), (16, SIDE), &target);
    }
}

/// A momentum teacher at its start.
fn teacher() -> Result<Vit> {
    let vit = VitConfig {
        depth: 2,
        ..VitConfig::arch("vit_small")?
    };
    let (student, store) = (ParamStore::cpu(0), ParamStore::teacher(&Device::Cpu));
    Vit::new(&student.root(), &vit)?;
    let network = Vit::new(&store.root(), &vit)?;
    store.copy_from(&student)?;
    Ok(network)
}

fn features(c: &mut Criterion) {
    let plain = FeatureTargetConfig::default();
    let pooled = FeatureTargetConfig {
        pool: true,
        ..plain.clone()
    };
    let guiding = FeatureTargetConfig {
        class_token: true,
        attention: true,
        layer_norm_eps: Some(1e-6),
        ..plain.clone()
    };
    let averaged = FeatureTargetConfig {
        layers: vec![0, 1],
        layers_norm_eps: Some(1e-5),
        layer_norm_eps: Some(1e-5),
        ..plain.clone()
    };
    for (recipe, config) in [
        ("plain", plain),
        ("pooled", pooled),
        ("milan", guiding),
        ("data2vec", averaged),
    ] {
        let target = teacher().and_then(|network| FeatureTarget::new(network, config));
        generate(
            c,
            ("features", recipe),
            (4, SIDE),
            &target.expect("settings hold"),
        );
    }
}

fn complement(c: &mut Criterion) {
    let network = teacher().expect("settings hold");
    let target = ComplementTarget::new(network, Norm::imagenet());
    generate(c, ("complement", "cae"), (4, SIDE), &target);
}

fn folds(c: &mut Criterion) {
    let network = teacher().expect("settings hold");
    let target = FoldTarget::new(network, Norm::imagenet(), (3, None)).expect("three folds");
    generate(c, ("folds", "sdae"), (4, SIDE), &target);
}

fn tokens(c: &mut Criterion) {
    let config = DvaeConfig {
        n_hid: 32,
        ..DvaeConfig::default()
    };
    let store = ParamStore::cpu(0);
    let encoder = DvaeEncoder::new(&store.root(), &config).expect("settings hold");
    let side = GRID.rows * DvaeConfig::STRIDE;
    generate(
        c,
        ("tokens", "beit"),
        (4, side),
        &TokenTarget::new(encoder, 0),
    );
}

criterion_group! {
    name = benches;
    config = brief();
    targets = pixels, histograms, features, complement, folds, tokens
}
criterion_main!(benches);
