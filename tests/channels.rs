//! Images of other channels and depths, as a user meets them.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Two classes of images in `train` and `val`, made by `content` from the class and a number.
struct Images {
    dir: TempDir,
}

impl Images {
    fn new(ending: &str, content: impl Fn(bool, u8) -> Vec<u8>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (split, count) in [("train", 6), ("val", 2)] {
            for (class, second) in [("a", false), ("b", true)] {
                let folder = dir.path().join("data").join(split).join(class);
                fs::create_dir_all(&folder).unwrap();
                for index in 0..count {
                    let file = folder.join(format!("{index}.{ending}"));
                    fs::write(file, content(second, index)).unwrap();
                }
            }
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `mim pretrain` with MAE for one epoch of three steps.
    fn pretrain(&self, run: &str, settings: &[&str]) -> Command {
        self.pretrain_with(run, "mae_32px", settings)
    }

    /// The same with another recipe.
    fn pretrain_with(&self, run: &str, recipe: &str, settings: &[&str]) -> Command {
        let data = format!("folder:{}", self.path("data").display());
        let run = self.path(run);
        let mut command = mim(&["pretrain", "--config", recipe, "--data", &data]);
        command.args(["--epochs", "1"]);
        command.args(["--output-dir", run.to_str().unwrap(), "--batch-size", "4"]);
        let all = ["eval.knn.k=3", "eval.finetune_epochs=0"];
        for setting in all.iter().chain(settings) {
            command.args(["--set", setting]);
        }
        command
    }
}

fn mim(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mim"));
    command.env("CUDA_VISIBLE_DEVICES", "");
    command.args(args).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output and error of what must work.
fn succeeds(mut command: Command) -> (String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    assert!(status.success(), "{command:?}\n{}", text(&stderr));
    (text(&stdout), text(&stderr))
}

/// Runs what must fail with exit status 1 and an error that has `parts`.
fn fails(mut command: Command, parts: &[&str]) {
    let output = command.output().unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{command:?}\n{error}");
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in:\n{error}");
    }
    assert!(!error.contains("panicked"), "{error}");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

const VIT: &str = "encoder={ image_size = 32, patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2, in_channels = 12 }";
const DECODER: &str = "decoder={ embed_dim = 8, depth = 1, num_heads = 2 }";

/// A `.npy` file of f32 `[12, 16, 16]`: a ramp in each channel, or its opposite.
fn npy(inverted: bool, seed: u8) -> Vec<u8> {
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (12, 16, 16), }";
    let header = format!("{header:117}\n");
    let mut bytes = [b"\x93NUMPY\x01\0\x76\0", header.as_bytes()].concat();
    for at in 0..12 * 256usize {
        let (channel, row, col) = (at / 256, at / 16 % 16, at % 16);
        let noise = (at * 31 + usize::from(seed) * 17) % 97;
        let value = (row * channel + col * (12 - channel)) as f32 / 180. + noise as f32 / 970.;
        let value = if inverted { 1. - value } else { value };
        bytes.extend(value.to_le_bytes());
    }
    bytes
}

#[test]
fn arrays_of_twelve_channels_train_and_are_probed_and_drawn() {
    let images = Images::new("npy", npy);
    let settings = ["data.range=dtype", "data.array_layout=chw", VIT, DECODER];
    let (rows, said) = succeeds(images.pretrain("run", &settings));
    assert!(
        said.contains("16x16 pixels (height x width), 12 channels"),
        "{said}"
    );
    for row in ["raw pixels", "pretrained encoder"] {
        assert!(rows.contains(row), "{rows}{said}");
    }
    assert!(images.path("run/reconstruction.png").exists(), "{said}");
    let config = read(&images.path("run/config.toml"));
    for part in ["range = \"dtype\"", "in_channels = 12"] {
        assert!(config.contains(part), "{config}");
    }

    fails(
        images.pretrain("none", &[]),
        &["only 12 files of other kinds", ".npy"],
    );
    fails(
        images.pretrain("three", &settings[..2]),
        &["has 12", "encoder.in_channels = 12"],
    );
    fails(
        images.pretrain("axes", &settings[1..]),
        &["array_layout", "data.range"],
    );
    fails(
        images.pretrain("low", &["data.range=[3, 1]"]),
        &["`range` is [3, 1]"],
    );
}

/// An uncompressed TIFF of f32 `[side, side, bands]`.
fn tiff(side: u16, bands: u16, value: impl Fn(usize, usize) -> f32) -> Vec<u8> {
    let (pixels, count) = (usize::from(side).pow(2), usize::from(bands));
    let length = (pixels * count * 4) as u32;
    let mut file = b"II*\0".to_vec();
    file.extend((8 + length).to_le_bytes());
    for pixel in 0..pixels {
        for band in 0..count {
            file.extend(value(pixel, band).to_le_bytes());
        }
    }
    const SHORT: u16 = 3;
    const LONG: u16 = 4;
    let lists = 8 + length + 2 + 12 * 12 + 4;
    let size = 2 * u32::from(bands);
    let (side, many) = (u32::from(side), u32::from(bands));
    let entries = [
        (256, LONG, 1, side),
        (257, LONG, 1, side),
        (258, SHORT, many, lists),
        (259, SHORT, 1, 1),
        (262, SHORT, 1, 1),
        (273, LONG, 1, 8),
        (277, SHORT, 1, many),
        (278, LONG, 1, side),
        (279, LONG, 1, length),
        (284, SHORT, 1, 1),
        (338, SHORT, many - 1, lists + 2 * size),
        (339, SHORT, many, lists + size),
    ];
    file.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        file.extend((tag as u16).to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend(u32::to_le_bytes(count));
        file.extend(u32::to_le_bytes(value));
    }
    file.extend([0; 4]);
    for (value, count) in [(32u16, bands), (3, bands), (0, bands - 1)] {
        (0..count).for_each(|_| file.extend(value.to_le_bytes()));
    }
    file
}

/// 12 bands of 64 pixels: band b is about b / 20, but in the second class band 0 is bright.
fn tile(second: bool, seed: u8) -> Vec<u8> {
    tiff(64, 12, |pixel, band| match (band, second) {
        (0, true) => 0.9 + noise(pixel, seed),
        _ => band as f32 / 20. + noise(pixel, seed),
    })
}

/// From 0 to 0.02.
fn noise(pixel: usize, seed: u8) -> f32 {
    ((pixel * 31 + usize::from(seed) * 17) % 101) as f32 / 5000.
}

const RANGE: &str = "data.range=dtype";
const TINY_VIT: &str = "encoder={ image_size = 64, patch_size = 16, embed_dim = 16, depth = 1, num_heads = 2, in_channels = 12 }";
const TINY_SWIN: &str = "encoder={ type = \"swin\", image_size = 64, patch_size = 4, embed_dim = 8, depths = [1, 1], num_heads = [1, 2], window_size = 4, in_channels = 12 }";
const TINY_HYBRID: &str = "encoder={ image_size = 64, patch_sizes = [4, 2, 2], embed_dims = [4, 6, 8], depths = [1, 1, 2], num_heads = 2, mlp_ratios = [2.0, 2.0, 2.0], in_channels = 12 }";

/// The encoder of a run as timm reads it.
fn to_timm(images: &Images, run: &str, channels: usize) {
    let (from, to) = (images.path(run), images.path("timm"));
    let [from, to] = [&from, &to].map(|path| path.to_str().unwrap());
    succeeds(mim(&[
        "export",
        "--checkpoint",
        from,
        "--format",
        "timm",
        "--output",
        to,
    ]));
    let config: serde_json::Value =
        serde_json::from_str(&read(&images.path("timm/config.json"))).unwrap();
    assert_eq!(config["model_args"]["in_chans"], channels, "{config}");
    let size = &config["pretrained_cfg"]["input_size"][0];
    assert_eq!(*size, channels, "{config}");
}

#[test]
fn tiles_of_twelve_bands_train_with_mae_and_are_drawn_and_exported() {
    let images = Images::new("tif", tile);
    let shown = "data.shown_channels=[11, 6, 1]";
    let (rows, said) = succeeds(images.pretrain(
        "mae",
        &[RANGE, TINY_VIT, DECODER, shown, "norm_pix_loss=false"],
    ));
    assert!(
        said.contains("64x64 pixels (height x width), 12 channels of f32"),
        "{said}"
    );
    assert!(rows.contains("pretrained encoder"), "{rows}{said}");
    // Below the heading stands the first original.
    let drawn = image::open(images.path("mae/reconstruction.png")).unwrap();
    let near = |pixel: image::Rgb<u8>| {
        let wanted = [11., 6., 1.].map(|band| band / 20. * 255.);
        let far = pixel.0.iter().zip(wanted).map(|(a, b)| f32::from(*a) - b);
        far.map(f32::abs).fold(0., f32::max) < 8.
    };
    let found = drawn
        .to_rgb8()
        .pixels()
        .filter(|pixel| near(**pixel))
        .count();
    assert!(found > 1000, "{found} pixels of the shown bands");
    to_timm(&images, "mae", 12);
    timm_names_give_equal_features(&images, "mae");

    fails(
        images.pretrain(
            "shown",
            &[RANGE, TINY_VIT, DECODER, "data.shown_channels=[0, 1, 12]"],
        ),
        &["`shown_channels` is [0, 1, 12]", "from 0 to 11"],
    );
}

/// The encoder of a run and the same in timm's names, which `to_timm` wrote, give the same bytes.
fn timm_names_give_equal_features(images: &Images, run: &str) {
    let file = images.path("timm/model.safetensors");
    let weights = mim::prelude::WeightMap::read(&file).unwrap();
    let found: Vec<String> = weights
        .iter()
        .map(|(name, tensor)| format!("{name} {:?}", tensor.dims()))
        .collect();
    assert_eq!(found, TIMM_NAMES);

    let config: toml::Table = read(&images.path(&format!("{run}/config.toml")))
        .parse()
        .unwrap();
    let data = format!("folder:{}", images.path("data").display());
    let features = |name: &str, of: &[&str]| {
        let output = images.path(name);
        let mut command = mim(&["features", "--data", &data, "--threads", "1", "--output"]);
        command.arg(&output).args(of);
        succeeds(command);
        fs::read(output).unwrap()
    };
    let run = images.path(run);
    let own = features("own.npy", &["--checkpoint", run.to_str().unwrap()]);
    let norm = |key: &str| format!("norm.{key}={}", config["norm"][key]);
    let (mean, std) = (norm("mean"), norm("std"));
    let mut of = vec!["--weights", file.to_str().unwrap(), "--source", "timm"];
    // A file of weights says nothing of the recipe's views, heads and normalisation.
    let views = "eval.views={ views = [[]], shared = [{ type = \"resize\", size = [64, 64] }] }";
    let others = ["encoder.num_heads=2", "eval.batch_size=250", views];
    for setting in [&mean, &std, RANGE].into_iter().chain(others) {
        of.extend(["--set", setting]);
    }
    assert!(features("timm.npy", &of) == own);
}

/// Names and shapes of timm's ViT of [`TINY_VIT`] without a head.
const TIMM_NAMES: [&str; 18] = [
    "blocks.0.attn.proj.bias [16]",
    "blocks.0.attn.proj.weight [16, 16]",
    "blocks.0.attn.qkv.bias [48]",
    "blocks.0.attn.qkv.weight [48, 16]",
    "blocks.0.mlp.fc1.bias [64]",
    "blocks.0.mlp.fc1.weight [64, 16]",
    "blocks.0.mlp.fc2.bias [16]",
    "blocks.0.mlp.fc2.weight [16, 64]",
    "blocks.0.norm1.bias [16]",
    "blocks.0.norm1.weight [16]",
    "blocks.0.norm2.bias [16]",
    "blocks.0.norm2.weight [16]",
    "cls_token [1, 1, 16]",
    "norm.bias [16]",
    "norm.weight [16]",
    "patch_embed.proj.bias [16]",
    "patch_embed.proj.weight [16, 12, 16, 16]",
    "pos_embed [1, 17, 16]",
];

#[test]
fn operations_on_colours_are_left_out_of_twelve_bands_and_said_once() {
    let images = Images::new("tif", tile);
    let views = "views.shared=[{ type = \"random_resized_crop\", size = \"image_size\" }, { type = \"color_jitter\" }, { type = \"grayscale\" }, { type = \"solarize\" }]";
    let settings = [RANGE, TINY_VIT, DECODER, views];
    let (_, said) = succeeds(images.pretrain("colours", &settings));
    let warnings = said
        .matches("colour operations of views are left out")
        .count();
    assert!(warnings == 1 && said.contains("12 channels"), "{said}");
}

#[test]
fn tiles_of_twelve_bands_train_with_swin_and_histograms() {
    let images = Images::new("tif", tile);
    let swin = [RANGE, TINY_SWIN, "mask_patch_size=16"];
    let (rows, said) = succeeds(images.pretrain_with("swin", "simmim_swin_32px", &swin));
    assert!(rows.contains("pretrained encoder"), "{rows}{said}");
    assert!(images.path("swin/reconstruction.png").exists(), "{said}");
    to_timm(&images, "swin", 12);

    let hybrid = [
        RANGE,
        TINY_HYBRID,
        "decoder={ embed_dim = 8, depth = 1, num_heads = 2 }",
        "cell=4",
    ];
    let (rows, said) = succeeds(images.pretrain_with("dmjd", "dmjd_32px", &hybrid));
    assert!(rows.contains("pretrained encoder"), "{rows}{said}");
}

/// One channel of 16 bits, of which 12 are used.
fn x_ray(second: bool, seed: u8) -> Vec<u8> {
    let image = image::ImageBuffer::from_fn(16, 16, |x, y| {
        let value = (x * 200 + y * 50 * u32::from(second) + u32::from(seed)).min(4095);
        image::Luma([value as u16])
    });
    let mut file = std::io::Cursor::new(vec![]);
    image.write_to(&mut file, image::ImageFormat::Png).unwrap();
    file.into_inner()
}

#[test]
fn one_channel_of_sixteen_bits_is_read_whole() {
    let images = Images::new("png", x_ray);
    let grey = VIT.replace("12", "1");
    let (rows, said) = succeeds(images.pretrain("grey", &[RANGE, &grey, DECODER]));
    assert!(said.contains("1 channel of u16"), "{said}");
    assert!(
        said.contains("nearly black") && said.contains("[0, 4095]"),
        "{said}"
    );
    assert!(rows.contains("pretrained encoder"), "{rows}{said}");
    to_timm(&images, "grey", 1);

    // Said, or measured, there is nothing to warn of.
    let (_, said) = succeeds(images.pretrain("said", &["data.range=[0, 4095]", &grey, DECODER]));
    assert!(!said.contains("nearly black"), "{said}");
    let (_, said) =
        succeeds(images.pretrain("measured", &["data.range=percentile", &grey, DECODER]));
    assert!(
        said.contains("data.range = \"percentile\": [") && !said.contains("nearly black"),
        "{said}"
    );
    let config = read(&images.path("measured/config.toml"));
    assert!(
        config.contains("range = [") && !config.contains("percentile"),
        "{config}"
    );
    // Without a range, as bytes.
    let (_, said) = succeeds(images.pretrain(
        "bytes",
        &[&VIT.replace("in_channels = 12", "in_channels = 3"), DECODER],
    ));
    assert!(
        said.contains("of u16, read as u8") && said.contains("nearly black"),
        "{said}"
    );
}

#[test]
fn statistics_are_those_of_all_images() {
    let images = Images::new("tif", tile);
    let data = format!("folder:{}", images.path("data").display());
    let file = images.path("norm.toml");
    let stats = |more: &[&str]| {
        let mut command = mim(&["data", "stats", &data]);
        command.args(more);
        command
    };
    let write = ["--set", RANGE, "--write", file.to_str().unwrap()];
    let (table, said) = succeeds(stats(&write));
    assert!(said.contains("12 images of 12 channels"), "{said}");
    assert_eq!(read(&file), table);
    let table: toml::Table = table.parse().unwrap();
    let of = |key: &str, channel: usize| table["norm"][key][channel].as_float().unwrap();
    // Over two classes of six images: band 0 is 0 or 0.9, and noise.
    let noise: Vec<f64> = (0..6)
        .flat_map(|seed| (0..64 * 64).map(move |pixel| f64::from(noise(pixel, seed))))
        .collect();
    let mean = noise.iter().sum::<f64>() / noise.len() as f64;
    let square = noise
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>();
    let variance = square / noise.len() as f64;
    for (found, wanted) in [
        (of("mean", 0), 0.45 + mean),
        (of("std", 0), (0.45f64.powi(2) + variance).sqrt()),
        (of("mean", 10), 0.5 + mean),
        (of("std", 10), variance.sqrt()),
    ] {
        assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
    }
    // A norm is not written twice, and a recipe keeps what it has.
    fails(stats(&write), &["norm.toml", "has a `norm` already"]);
    fs::write(&file, "# mine\nmask_ratio = 0.5").unwrap();
    succeeds(stats(&write));
    assert!(read(&file).starts_with("# mine\nmask_ratio = 0.5\n\n[norm]\n"));
    fails(
        stats(&["--set", "train.epochs=3"]),
        &["no setting of the data"],
    );
}

#[test]
fn weights_of_three_channels_start_a_run_of_twelve() {
    let (photos, tiles) = (Images::new("png", x_ray), Images::new("tif", tile));
    let rgb = VIT.replace("in_channels = 12", "in_channels = 3");
    succeeds(photos.pretrain("rgb", &[&rgb, DECODER]));
    let from = photos.path("rgb");
    let start = |run: &str, more: &[&str]| {
        let mut command = tiles.pretrain(run, &[RANGE, VIT, DECODER]);
        command.args([
            "--init",
            from.to_str().unwrap(),
            "--lr",
            "1e-9",
            "--no-eval",
        ]);
        command.args(more);
        command
    };
    let zero = ["--init-channels", "zero"];
    fails(
        start("whole", &zero),
        &["decoder_pred.weight", "--allow-missing"],
    );
    let (_, said) = succeeds(start(
        "zero",
        &[&zero[..], &["--allow-missing", "decoder_pred*"]].concat(),
    ));
    assert!(
        said.contains("kernels fitted, [16, 3, 8, 8] to [16, 12, 8, 8]"),
        "{said}"
    );
    let kernels = |run: &Path| -> Vec<f32> {
        let file = run.join("checkpoints/step-3/student.safetensors");
        let weights = mim::prelude::WeightMap::read(file).unwrap();
        let kernels = weights.get("patch_embed.proj.weight").unwrap();
        kernels.flatten_all().unwrap().to_vec1().unwrap()
    };
    let (before, after) = (kernels(&from), kernels(&tiles.path("zero")));
    for (old, new) in before.chunks(3 * 64).zip(after.chunks(12 * 64)) {
        let wanted = old.iter().chain(&[0.; 9 * 64]);
        assert!(new.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6));
    }
    let output = start("none", &["--init-channels", "red"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}
