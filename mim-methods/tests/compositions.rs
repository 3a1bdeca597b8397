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
use mim_methods::registry::{self, Registry};
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
/// Settings in place of those for 32-pixel images: what is cheaper, and what takes another way through a part.
const VARIANTS: &[(&str, &[&str])] = &[
    ("masker.cell", &["mask_patch_size = 16"]),
    (
        "masker.blockwise",
        &[
            "hidden = { type = \"ratio\", ratio = 0.5 }, min_block = 1, when_stuck = \"retry\"",
            "hidden = { type = \"ratio\", ratio = 0.5 }, min_block = 1, when_stuck = \"stop\"",
        ],
    ),
    (
        "masker.rolled_block",
        &[
            "hidden = { type = \"ratio\", ratio = 0.6 }, blocks = { hidden = { type = \"ratio\", ratio = 0.4 }, min_block = 1 }",
        ],
    ),
    (
        "masker.multi_block",
        &["min_keep = 1, targets = 2, target_scale = [0.2, 0.3], context_scale = [0.5, 0.7]"],
    ),
    ("masker.inverse_block", &["pred_ratio = 0.3"]),
    (
        "encoder.rope_vit",
        &[
            "patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2",
            "patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2, num_registers = 0",
        ],
    ),
    (
        "encoder.vit",
        &[
            "patch_size = 8, embed_dim = 16, depth = 2, num_heads = 2",
            "patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2, class_token = false",
            "patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2, rel_pos_bias = \"shared\"",
            "patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2, num_class_tokens = 3",
            "patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2, num_class_tokens = 0",
        ],
    ),
    (
        "encoder.swin",
        &["embed_dim = 8, depths = [1, 1], num_heads = [1, 2]"],
    ),
    (
        "encoder.pvt_v2",
        &["embed_dims = [8, 16], depths = [1, 1], num_heads = [1, 2], mlp_ratios = [2.0, 2.0]"],
    ),
    (
        "encoder.conv_mae",
        &["patch_sizes = [2, 2, 2], embed_dims = [8, 12, 16], depths = [1, 1, 1], num_heads = 2"],
    ),
    (
        "target.pixel",
        &[
            "",
            "order = \"channels_then_pixels\", patch_norm = { type = \"none\" }",
        ],
    ),
    ("target.hog", &["window = 16"]),
    (
        "target.features",
        &[
            "checkpoint = \"random\", encoder = { type = \"vit\", image_size = 32, patch_size = 8, embed_dim = 12, depth = 1, num_heads = 2 }",
        ],
    ),
    (
        "target.tokens",
        &[
            "checkpoint = \"random\", network = { n_hid = 4, n_blk_per_group = 1, vocab_size = 7 }",
            "checkpoint = \"random\", network = { type = \"peco\", levels = 3, hidden_dim = 4, codebook = { size = 7, dim = 3 } }",
        ],
    ),
    (
        "target.soft_tokens",
        &[
            "tokens = { checkpoint = \"random\", network = { n_hid = 4, n_blk_per_group = 1, vocab_size = 7 } }",
        ],
    ),
    ("decoder.mae", &["embed_dim = 8, depth = 1, num_heads = 2"]),
    ("decoder.light", &["embed_dim = 8, depth = 1"]),
    (
        "decoder.latent_regressor",
        &["embed_dim = 8, depth = 1, decoder_depth = 1, num_heads = 2"],
    ),
    (
        "decoder.cross",
        &["embed_dim = 8, depth = 1, num_heads = 2, layers = [0]"],
    ),
    (
        "decoder.predictor",
        &["embed_dim = 8, depth = 1, num_heads = 2"],
    ),
    (
        "decoder.prompt",
        &["embed_dim = 8, depth = 1, num_heads = 2"],
    ),
];

/// The table of a part, with its variant number `which`.
fn table(kind: &str, name: &str, which: usize) -> String {
    let variants = VARIANTS
        .iter()
        .find(|(part, _)| *part == format!("{kind}.{name}"));
    let variants = variants.map_or(&[""][..], |(_, variants)| *variants);
    let settings = match variants[which % variants.len()] {
        "" => String::new(),
        settings => format!(", {settings}"),
    };
    format!("{kind} = {{ type = \"{name}\"{settings} }}")
}

/// A part of each kind, and most of the objectives left out: few suit a target that they were not made for.
fn combination(rng: &mut dyn Rng) -> String {
    let mut one = |choices: &[&'static str]| choices[rng.random_range(0..choices.len())];
    let mut lines = vec!["scale = \"32px\"".to_owned()];
    lines.extend([MASKING, STRIDE].map(|choices| one(choices).to_owned()));
    for (kind, infos) in Registry::current().kinds() {
        if kind == "objective" && rng.random_range(0..8) > 0 {
            continue;
        }
        let name = &infos[rng.random_range(0..infos.len())].name;
        lines.push(table(kind, name, rng.random_range(0..60)));
    }
    lines.join("\n")
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
    assert!(trained > COMBINATIONS / 8, "only {trained} trained");
    assert!(refused > COMBINATIONS / 8, "only {refused} were refused");
}

#[test]
fn what_does_not_fit_and_what_would_is_said() {
    let error = |settings: &str| train(settings).unwrap_err().to_string();
    let parts = |masker: &str, encoder: &str, target: &str, decoder: &str| {
        [
            table("masker", masker, 0),
            table("encoder", encoder, 0),
            table("target", target, 0),
            table("decoder", decoder, 0),
        ]
        .join("\n")
            + "\nscale = \"32px\""
    };
    let drop_on_swin = error(&parts("random", "swin", "pixel", "mae"));
    assert!(
        drop_on_swin.contains("Swin") && drop_on_swin.contains("replace"),
        "{drop_on_swin}"
    );
    let no_guide = error(&parts("weighted", "vit", "pixel", "mae"));
    assert!(
        no_guide.contains("guide") && no_guide.contains("attention"),
        "{no_guide}"
    );
    let foreign_grid = parts("random", "vit", "features", "mae").replace(
        "image_size = 32, patch_size = 8",
        "image_size = 32, patch_size = 4",
    );
    let foreign_grid = error(&foreign_grid);
    assert!(foreign_grid.contains("grid"), "{foreign_grid}");
    let no_weights = error("target = { type = \"features\" }\nscale = \"32px\"");
    assert!(
        no_weights.contains("clip-vit-base-patch16") && no_weights.contains("licence"),
        "{no_weights}"
    );
    let error = error(&format!(
        "objective = {{ type = \"cosine\" }}\n{}",
        parts("random", "vit", "tokens", "mae")
    ));
    assert!(!error.is_empty());
}
