//! Every objective, with the gradient of the prediction.
//!
//! `cargo bench --bench objectives`; a name filters, e.g. `-- regression`. Ids give the recipe and the shape
//! of the prediction: mostly the hidden 147 of 196 patches of 8 images, with 768 pixels, 384 features or
//! 8192 tokens each.

#![expect(
    clippy::expect_used,
    reason = "a benchmark has no caller to return an error to"
)]

mod common;

use candle_core::{Device, Tensor};
use common::{GRID, brief, mask, time, values};
use criterion::{Criterion, criterion_group, criterion_main};
use mim_core::objectives::{
    ChamferConfig, CosineConfig, CrossEntropyConfig, DistillationLogits, InfoNceConfig,
    ObjectiveSettings, PatchNceConfig, RegressionConfig, RowNorm, SelfDistillationConfig,
    TokenWeights, UniGradConfig,
};
use mim_core::{Mask, Objective, ParamStore, Prediction, Rows, StepContext, Target};

const IMAGES: usize = 8;
const PIXELS: usize = 768;
const FEATURES: usize = 384;
const VOCABULARY: usize = 8192;

/// A prediction of values in [-1, 1], and its target.
struct Pair {
    prediction: Prediction,
    target: Target,
    mask: Mask,
}

/// `width` values for each of `rows`, against `target`.
fn pair(images: usize, rows: Rows, width: usize, target: Target) -> Pair {
    let mask = mask(images, GRID);
    let tokens = match rows {
        Rows::Masked => mask.width() - mask.visible(0).len(),
        _ => mask.width(),
    };
    let values = match rows {
        Rows::Image => values(&[images, width]),
        _ => values(&[images, tokens, width]),
    };
    let prediction = Prediction {
        values: values.into_inner(),
        rows,
        grid: GRID,
    };
    Pair {
        prediction,
        target,
        mask,
    }
}

/// Other values for all patches.
fn patches(width: usize) -> Target {
    let other = values(&[IMAGES, GRID.len(), width]).as_detached_tensor();
    Target::patches(other.neg().expect("plain values"))
}

fn run(
    c: &mut Criterion,
    kind: &str,
    recipe: &str,
    objective: &dyn ObjectiveSettings,
    pair: &Pair,
) {
    let objective = objective.build().expect("settings hold");
    let (step, dims) = (StepContext::new(0), pair.prediction.values.dims());
    let shape: Vec<String> = dims.iter().map(usize::to_string).collect();
    let mut group = c.benchmark_group(format!("objectives/{kind}"));
    time(&mut group, &format!("{recipe}/{}", shape.join("x")), || {
        let Pair {
            prediction,
            target,
            mask,
        } = pair;
        let terms = objective.loss(prediction, target, mask, &step)?;
        Ok(terms.total()?.backward()?)
    });
}

fn regression(c: &mut Criterion) {
    let bootmae = RegressionConfig {
        row_norm: RowNorm::LayerNorm { eps: 1e-5 },
        weights: TokenWeights::Neighbours,
        ..RegressionConfig::default()
    };
    let pair = pair(IMAGES, Rows::Masked, PIXELS, patches(PIXELS));
    for (recipe, config) in [
        ("mae", RegressionConfig::default()),
        ("simmim", RegressionConfig::simmim()),
        ("smooth_l1", RegressionConfig::smooth_l1(2.)),
        ("bootmae", bootmae),
    ] {
        run(c, "regression", recipe, &config, &pair);
    }
    // A group of eight points per token.
    let points = self::pair(IMAGES, Rows::Masked, 24, patches(24));
    run(
        c,
        "chamfer",
        "point_m2ae",
        &ChamferConfig::default(),
        &points,
    );
}

fn features(c: &mut Criterion) {
    let hidden = pair(IMAGES, Rows::Masked, FEATURES, patches(FEATURES));
    let all = pair(IMAGES, Rows::Patches, FEATURES, patches(FEATURES));
    run(c, "cosine", "eva", &CosineConfig::default(), &hidden);
    run(c, "cosine", "sdae", &CosineConfig::sdae(3), &hidden);
    run(c, "cosine", "milan", &CosineConfig::milan(), &all);
    run(c, "uni_grad", "sim", &UniGradConfig::default(), &all);
}

fn tokens(c: &mut Criterion) {
    let codes = u32::try_from(VOCABULARY).expect("a few thousand");
    let count = IMAGES * GRID.len();
    let ids: Vec<u32> = (0u32..).map(|i| i * 7919 % codes).take(count).collect();
    let ids = Tensor::from_vec(ids, (IMAGES, GRID.len()), &Device::Cpu).expect("as many ids");
    let probabilities = values(&[IMAGES, GRID.len(), VOCABULARY]).as_detached_tensor();
    let probabilities = mim_core::ops::softmax(&probabilities).expect("plain values");
    for (recipe, target) in [("ids", ids), ("probabilities", probabilities)] {
        let pair = pair(IMAGES, Rows::Masked, VOCABULARY, Target::patches(target));
        let config = CrossEntropyConfig::default();
        run(c, "cross_entropy", recipe, &config, &pair);
    }
}

fn contrast(c: &mut Criterion) {
    let (images, width) = (256, 256);
    let keys = values(&[images, width]).as_detached_tensor();
    let keys = Target::image(keys.neg().expect("plain values"));
    let pair = pair(images, Rows::Image, width, keys);
    run(c, "info_nce", "cmae", &InfoNceConfig::default(), &pair);
}

fn patch_nce(c: &mut Criterion) {
    let keys = values(&[IMAGES, GRID.len(), FEATURES]).as_detached_tensor();
    let pair = pair(IMAGES, Rows::Patches, FEATURES, Target::patches(keys));
    run(c, "patch_nce", "mimco", &PatchNceConfig::default(), &pair);
}

/// iBOT's two global and ten local crops.
fn distillation(c: &mut Criterion) {
    let (globals, locals) = (2, 10);
    let mask = mask(globals * IMAGES, GRID);
    let (rows, hidden) = (globals * IMAGES, mask.hidden_total());
    let logits = |rows: usize| values(&[rows, VOCABULARY]).into_inner();
    let logits = DistillationLogits {
        globals,
        teacher_cls: logits(rows).detach(),
        student_cls: logits(rows + locals * IMAGES),
        teacher_patch: logits(hidden).detach(),
        student_patch: logits(hidden),
        patch_mean: logits(1).detach(),
    };
    let store = ParamStore::cpu(0);
    let config = SelfDistillationConfig::default();
    let objective = config.build(&store.root(), (VOCABULARY, VOCABULARY));
    let (objective, step) = (objective.expect("settings hold"), StepContext::new(0));
    let mut group = c.benchmark_group("objectives/self_distillation");
    time(&mut group, &format!("ibot/{hidden}x{VOCABULARY}"), || {
        let terms = objective.loss(&logits, &mask, &step)?;
        Ok(terms.total()?.backward()?)
    });
}

criterion_group! {
    name = benches;
    config = brief();
    targets = regression, features, tokens, contrast, patch_nce, distillation
}
criterion_main!(benches);
