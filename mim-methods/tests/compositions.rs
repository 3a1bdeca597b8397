//! Random combinations of all parts train a step, or are refused with the reason.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use candle_core::{DType, Device, Tensor};
use mim_core::data::{Loader, LoaderConfig, MemoryDataset};
use mim_core::optim::Gradients;
use mim_core::{Error, Result, StepContext};
use mim_methods::registry;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const COMBINATIONS: usize = 240;

const MASKING: &[&str] = &[
    "",
    "",
    "",
    "",
    "masking = \"drop\"",
    "masking = \"replace\"",
    "masking = \"paint\"",
];
const STRIDE: &[&str] = &["", "", "", "mask_stride = 4"];
const MASKERS: &[&str] = &[
    "type = \"random\"",
    "type = \"cell\", mask_patch_size = 16",
    "type = \"blockwise\", hidden = { type = \"ratio\", ratio = 0.5 }, min_block = 1, when_stuck = \"retry\"",
    "type = \"blockwise\", hidden = { type = \"ratio\", ratio = 0.5 }, min_block = 1, when_stuck = \"stop\"",
    "type = \"rolled_block\", hidden = { type = \"ratio\", ratio = 0.6 }, blocks = { hidden = { type = \"ratio\", ratio = 0.4 }, min_block = 1 }",
    "type = \"ibot_block\", ratios = [{ mean = 0.5, spread = 0.2 }]",
    "type = \"disjoint\"",
    "type = \"weighted\"",
    "type = \"attention\"",
];
const ENCODERS: &[&str] = &[
    "type = \"vit\", image_size = 32, patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2",
    "type = \"vit\", image_size = 32, patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2, class_token = false",
    "type = \"vit\", image_size = 32, patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2, rel_pos_bias = \"shared\"",
    "type = \"swin\", image_size = 32, patch_size = 4, embed_dim = 8, depths = [1, 1], num_heads = [1, 2], window_size = 4",
    "type = \"pvt_v2\", image_size = 32, patch_size = 4, embed_dims = [8, 16], depths = [1, 1], num_heads = [1, 2], mlp_ratios = [2.0, 2.0], sr_ratios = [2, 1]",
    "type = \"conv_mae\", image_size = 32, patch_sizes = [2, 2, 2], embed_dims = [8, 12, 16], depths = [1, 1, 1], num_heads = 2",
];
const TARGETS: &[&str] = &[
    "type = \"pixel\"",
    "type = \"pixel\", order = \"channels_then_pixels\", patch_norm = { type = \"none\" }",
    "type = \"hog\", cell = 4",
    "type = \"features\", checkpoint = \"random\", encoder = { type = \"vit\", image_size = 32, patch_size = 8, embed_dim = 12, depth = 1, num_heads = 2 }",
    "type = \"momentum\"",
    "type = \"tokens\", checkpoint = \"random\", network = { n_hid = 4, n_blk_per_group = 1, vocab_size = 7 }",
];
const DECODERS: &[&str] = &[
    "type = \"linear\"",
    "type = \"mae\", embed_dim = 8, depth = 1, num_heads = 2",
    "type = \"light\", embed_dim = 8, depth = 1",
    "type = \"prompt\", embed_dim = 8, depth = 1, num_heads = 2",
];
const OBJECTIVES: &[&str] = &[
    "",
    "",
    "",
    "",
    "",
    "objective = { type = \"regression\" }",
    "objective = { type = \"cosine\" }",
    "objective = { type = \"cross_entropy\" }",
    "objective = { type = \"info_nce\" }",
    "objective = { type = \"uni_grad\" }",
];

fn combination(rng: &mut dyn Rng) -> String {
    let mut one = |parts: &[&'static str]| parts[rng.random_range(0..parts.len())];
    format!(
        "{}\n{}\n{}\nmasker = {{ {} }}\nencoder = {{ {} }}\ntarget = {{ {} }}\ndecoder = {{ {} }}",
        one(MASKING),
        one(STRIDE),
        one(OBJECTIVES),
        one(MASKERS),
        one(ENCODERS),
        one(TARGETS),
        one(DECODERS)
    )
}

/// Builds the method and trains it one step; gives the gradients.
fn train(settings: &str) -> Result<Gradients> {
    let entry = registry::method("custom")?;
    let settings = entry.resolve(settings.parse().unwrap())?;
    let method = entry.build(settings, &Device::Cpu, 0)?;
    let pixels = (0..4 * 32 * 32 * 3u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8);
    let images = MemoryDataset::new(pixels.collect(), (32, 32), 3)?;
    let loading = LoaderConfig {
        batch_size: 4,
        workers: 0,
        ..LoaderConfig::default()
    };
    let loader = Loader::new(std::sync::Arc::new(images), method.views(0), loading, 0)?;
    let batch = loader.sequential()?.next().unwrap()?;
    let step = StepContext::new(1);
    let loss = method.forward(&batch, &step)?.total()?;
    let mut gradients = Gradients::new(method.stores()[0].1.trainable());
    gradients.add(loss.backward()?)?;
    method.after_step(&step)?;
    Ok(gradients)
}

fn largest(gradient: &Tensor) -> f32 {
    let values = gradient
        .to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap();
    let values: Vec<f32> = values.to_vec1().unwrap();
    values
        .iter()
        .fold(0., |max, value| match value.is_finite() {
            true => f32::max(max, value.abs()),
            false => f32::INFINITY,
        })
}

#[test]
fn random_combinations_train_or_are_refused_with_the_reason() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (mut trained, mut refused, mut raw) = (0, 0, Vec::new());
    for _ in 0..COMBINATIONS {
        let settings = combination(&mut rng);
        match train(&settings) {
            Ok(gradients) => {
                let all: Vec<f32> = gradients
                    .iter()
                    .filter_map(|(_, _, gradient)| gradient.map(largest))
                    .collect();
                assert!(all.iter().all(|value| value.is_finite()), "{settings}");
                assert!(all.iter().any(|value| *value > 0.), "{settings}");
                trained += 1;
            }
            // Each of these says what, why and how to mend it; others are errors below mim.
            Err(Error::InvalidConfig { .. } | Error::Unsupported { .. } | Error::Shape { .. }) => {
                refused += 1
            }
            Err(other) => raw.push(format!("{settings}\n{other}")),
        }
    }
    assert!(raw.is_empty(), "{}\n{}", raw.len(), raw.join("\n\n"));
    println!("{trained} combinations trained, {refused} were refused");
    assert!(trained > COMBINATIONS / 6, "only {trained} trained");
    assert!(refused > COMBINATIONS / 6, "only {refused} were refused");
}

#[test]
fn what_does_not_fit_and_what_would_is_said() {
    let error = |settings: &str| train(settings).unwrap_err().to_string();
    let parts = |masker: &str, encoder: &str, target: &str, decoder: &str| {
        format!(
            "masker = {{ {masker} }}\nencoder = {{ {encoder} }}\ntarget = {{ {target} }}\ndecoder = {{ {decoder} }}"
        )
    };
    let drop_on_swin = error(&parts(MASKERS[0], ENCODERS[3], TARGETS[0], DECODERS[1]));
    assert!(
        drop_on_swin.contains("Swin") && drop_on_swin.contains("replace"),
        "{drop_on_swin}"
    );
    let no_guide = error(&parts(MASKERS[7], ENCODERS[0], TARGETS[0], DECODERS[1]));
    assert!(
        no_guide.contains("guide") && no_guide.contains("attention"),
        "{no_guide}"
    );
    let foreign_grid = TARGETS[3].replace("patch_size = 8", "patch_size = 4");
    let foreign_grid = error(&parts(MASKERS[0], ENCODERS[0], &foreign_grid, DECODERS[1]));
    assert!(foreign_grid.contains("grid"), "{foreign_grid}");
    let no_weights = error("target = { type = \"features\" }\nscale = \"32px\"");
    assert!(
        no_weights.contains("clip-vit-base-patch16") && no_weights.contains("licence"),
        "{no_weights}"
    );
    let error = error(&format!(
        "objective = {{ type = \"cosine\" }}\n{}",
        parts(MASKERS[0], ENCODERS[0], TARGETS[5], DECODERS[1])
    ));
    assert!(!error.is_empty());
}
