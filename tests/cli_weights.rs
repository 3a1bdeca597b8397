//! The verbs about weights, as a user meets them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use mim::prelude::*;

const FIXTURES: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/mim-core/tests/fixtures/weights"
);

fn mim(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mim"));
    command.env("CUDA_VISIBLE_DEVICES", "");
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output and error of what must work.
fn succeeds(args: &[&str]) -> (String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = mim(args);
    assert!(status.success(), "{args:?}\n{}", text(&stderr));
    (text(&stdout), text(&stderr))
}

/// Runs what must fail with exit status 1.
fn fails(args: &[&str], parts: &[&str]) {
    let Output { status, stderr, .. } = mim(args);
    let error = text(&stderr);
    assert_eq!(status.code(), Some(1), "{args:?}\n{error}");
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in:\n{error}");
    }
    assert!(!error.contains("panicked"), "{error}");
}

fn fixture(name: &str) -> String {
    format!("{FIXTURES}/{name}")
}

/// The encoder of the fixtures.
const ENCODER: &str = "encoder={ image_size = 16, patch_size = 4, embed_dim = 16, depth = 2, num_heads = 2, mlp_ratio = 2, norm_eps = 1e-12 }";
const DECODER: &str =
    "decoder={ embed_dim = 8, depth = 1, num_heads = 2, mlp_ratio = 2, norm_eps = 1e-12 }";
/// A crop of the fixtures' size.
const VIEWS: &str =
    "views={ shared = [{ type = \"random_resized_crop\", size = 16 }], views = [[]] }";

/// A run of no use but for its weights, and its output on standard error.
fn pretrain(run: &Path, more: &[&str]) -> Output {
    let run = run.to_str().unwrap();
    let tiny = [
        "pretrain",
        "--output-dir",
        run,
        "--epochs",
        "1",
        "--batch-size",
        "500",
    ];
    let sets = [
        "--set",
        ENCODER,
        "--set",
        DECODER,
        "--set",
        VIEWS,
        "--lr",
        "1e-9",
        "--set",
        "eval.finetune_epochs=0",
    ];
    mim(&[&tiny[..], &sets, more].concat())
}

fn ran(output: Output) -> String {
    let error = text(&output.stderr);
    assert!(output.status.success(), "{error}");
    error
}

#[test]
fn runs_start_from_files_and_go_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let run = path("run");
    let hf = fixture("hf_vit_mae");
    let log = ran(pretrain(
        &run,
        &["--init", &hf, "--init-source", "hf_vit_mae"],
    ));
    assert!(log.contains("the whole model starts from"), "{log}");
    assert!(
        fs::read_to_string(run.join("init.txt"))
            .unwrap()
            .contains("hf_vit_mae")
    );
    let summary = fs::read_to_string(run.join("summary.json")).unwrap();
    assert!(summary.contains("the whole model starts from"), "{summary}");
    // The rate is so small that the weights are still those of the file, which thus come back.
    let out = path("hf");
    let checkpoint = run.to_str().unwrap();
    let to = |format: &str, folder: &Path| {
        let folder = folder.to_str().unwrap();
        succeeds(&[
            "export",
            "--checkpoint",
            checkpoint,
            "--format",
            format,
            "--output",
            folder,
        ])
        .0
    };
    assert!(to("hf", &out).contains("ViTMAEForPreTraining.from_pretrained"));
    let read = |folder: &Path| {
        Source::named("hf_vit_mae")
            .unwrap()
            .import(&WeightMap::read(folder).unwrap())
            .unwrap()
    };
    let (before, after) = (read(Path::new(&hf)), read(&out));
    close(&before, &after);
    let config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["decoder_num_hidden_layers"], 1);
    assert!(to("timm", &path("timm")).contains("timm.create_model"));
    assert!(
        WeightMap::read(path("timm"))
            .unwrap()
            .get("decoder_pred.weight")
            .is_none()
    );
    to("mae", &path("mae"));

    encoder_only(&run, &path("second"), &path("timm"));
    features(checkpoint, dir.path());
}

fn close(before: &WeightMap, after: &WeightMap) {
    let values = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(before.names().eq(after.names()));
    for (name, tensor) in before.iter() {
        let far = values(tensor)
            .into_iter()
            .zip(values(after.get(name).unwrap()));
        assert!(
            far.map(|(a, b)| (a - b).abs()).fold(0., f32::max) < 1e-5,
            "{name}"
        );
    }
}

/// The encoder alone, from a run of another image size; what does not fit is named.
fn encoder_only(run: &Path, second: &Path, timm: &Path) {
    let larger = ENCODER.replace("image_size = 16", "image_size = 32");
    let size = VIEWS.replace("size = 16", "size = 32");
    let wider = ["--set", &larger, "--set", &size, "--overwrite"];
    let from = |path: &Path| path.to_str().unwrap().to_owned();
    let log = ran(pretrain(
        second,
        &[&wider[..], &["--init", &from(run)]].concat(),
    ));
    assert!(
        log.contains("the whole model") && log.contains("recomputed"),
        "{log}"
    );
    let log = ran(pretrain(
        second,
        &[
            &wider[..],
            &["--init", &from(timm), "--init-source", "timm"],
        ]
        .concat(),
    ));
    assert!(
        log.contains("the encoder starts from") && log.contains("keep their initial values"),
        "{log}"
    );

    let refused = |more: &[&str], parts: &[&str]| {
        let output = pretrain(second, &[&["--overwrite"], more].concat());
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in:\n{error}");
        }
    };
    let beit = fixture("hf_beit");
    refused(&["--init", &beit], &["missing", "--init-source hf_beit"]);
    refused(
        &["--init", &beit, "--init-source", "hf_beit"],
        &["blocks.0.attn.qkv.bias", "--allow-missing"],
    );
    refused(
        &["--init", &beit, "--init-source", "beat"],
        &["beat", "hf_beit"],
    );
    refused(&["--init", "no-such-file.pth"], &["no-such-file.pth"]);
    let wide = ENCODER.replace("embed_dim = 16", "embed_dim = 32");
    let hf = fixture("hf_vit_mae");
    let as_hf = ["--init", &hf, "--init-source", "hf_vit_mae", "--set", &wide];
    refused(&as_hf, &["the model has [32]", "the weights [16]"]);
    // Missing by permission: the model has layer scale, the file has none.
    let scaled = ENCODER.replace(" }", ", layer_scale_init = 0.1 }");
    let with = [
        "--set",
        &scaled,
        "--init",
        &hf,
        "--init-source",
        "hf_vit_mae",
    ];
    refused(&with, &["blocks.0.gamma_1"]);
    let allowed = [&with[..], &["--allow-missing", "*.gamma_*", "--overwrite"]].concat();
    assert!(ran(pretrain(second, &allowed)).contains("4 keep their initial values"));
}

fn features(checkpoint: &str, dir: &Path) {
    let photos = dir.join("photos");
    fs::create_dir(&photos).unwrap();
    for shade in 0..3u8 {
        let name = photos.join(format!("{shade}.png"));
        image::RgbImage::from_pixel(20, 20, image::Rgb([shade * 80; 3]))
            .save(name)
            .unwrap();
    }
    let data = format!("folder:{}", photos.display());
    let (npy, tensors) = (dir.join("x.npy"), dir.join("x.safetensors"));
    let of = ["features", "--checkpoint", checkpoint];
    let write = |more: &[&str]| succeeds(&[&of[..], more].concat()).0;
    // Without labels.
    assert!(write(&["--data", &data, "--output", npy.to_str().unwrap()]).contains("[3, 16]"));
    assert!(fs::read(&npy).unwrap().starts_with(b"\x93NUMPY"));
    // With labels, the class token.
    write(&[
        "--split",
        "test",
        "--pooling",
        "cls",
        "--output",
        tensors.to_str().unwrap(),
    ]);
    let read = WeightMap::read(&tensors).unwrap();
    let count = read.get("features").unwrap().dims()[0];
    assert_eq!(read.get("labels").unwrap().dims(), [count]);
    fails(
        &[&of[..], &["--output", "x.txt"]].concat(),
        &[".npy or .safetensors"],
    );
}

#[test]
fn weights_change_their_names_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let hf = fixture("hf_vit_mae");
    let (ours, back) = (path("ours.safetensors"), path("back"));
    succeeds(&["convert", "--from", "hf_vit_mae", &hf, &ours]);
    succeeds(&[
        "convert",
        "--from",
        "mae",
        "--to",
        "hf_vit_mae",
        "--shard-size",
        "4000",
        &ours,
        &back,
    ]);
    assert!(
        Path::new(&back)
            .join("model.safetensors.index.json")
            .exists()
    );
    let read = |path: &str| {
        Source::named("hf_vit_mae")
            .unwrap()
            .import(&WeightMap::read(path).unwrap())
            .unwrap()
    };
    let (first, second) = (read(&hf), read(&back));
    assert!(first.names().eq(second.names()));
    for (name, tensor) in first.iter() {
        let values = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(tensor), values(second.get(name).unwrap()), "{name}");
    }
    let half = path("half.safetensors");
    let to_timm = [
        "convert",
        "--from",
        "hf_vit_mae",
        "--to",
        "timm",
        "--encoder-only",
        "--dtype",
        "f16",
    ];
    succeeds(&[&to_timm[..], &[&hf, &half]].concat());
    let (info, _) = succeeds(&["info", &half]);
    assert!(info.contains("f16") && !info.contains("decoder"), "{info}");

    fails(&["convert", "--from", "hf_beat", &hf, &ours], &["hf_beit"]);
    fails(
        &["convert", "--from", "hf_clip", &hf, &ours],
        &["look like those of hf_vit_mae"],
    );
    fails(
        &["convert", "--from", "hf_vit_mae", &hf, &path("x.pth")],
        &["only .safetensors"],
    );
}

#[test]
fn published_weights_are_called_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let named = format!("zoo:mae_base_hf={}", fixture("hf_vit_mae"));
    let log = ran(pretrain(&dir.path().join("run"), &["--init", &named]));
    assert!(
        log.contains("the whole model starts from") && log.contains("hf_vit_mae"),
        "{log}"
    );
    fails(
        &["pretrain", "--init", "zoo:mae_base"],
        &["not on the Hugging Face Hub", "zoo:mae_base=PATH"],
    );
    fails(&["pretrain", "--init", "zoo:mea_base"], &["mae_base_hf"]);
    // A tiny file is not ViT-B.
    let eval = ["eval", "knn", "--checkpoint", &named];
    fails(&eval, &["the model has [768]", "the weights [16]"]);
    fails(
        &["eval", "knn", "--checkpoint", "zoo:cmae_base"],
        &["cmae.s3.us-west-1.amazonaws.com"],
    );
}

#[test]
fn any_file_is_described() {
    let (info, _) = succeeds(&["info", &fixture("hf_vit_mae")]);
    for part in [
        "names of hf_vit_mae",
        "looks like ViT: width 16, depth 2",
        "decoder: width 8",
        "[1, 17, 16]",
    ] {
        assert!(info.contains(part), "`{part}` is not in:\n{info}");
    }
    let (info, _) = succeeds(&["info", &fixture("formats/student_teacher.pth")]);
    assert!(
        info.contains("under the key `teacher` (others with weights: student)"),
        "{info}"
    );
    let (info, _) = succeeds(&[
        "info",
        "--key",
        "student",
        &fixture("formats/student_teacher.pth"),
    ]);
    assert!(info.contains("1 tensors, 2 values"), "{info}");
    fails(
        &["info", &fixture("formats/legacy.pth")],
        &["before version 1.6", "save_file"],
    );
    let (zoo, _) = succeeds(&["zoo"]);
    assert!(
        zoo.contains("facebook/vit-mae-base") && zoo.contains("CC-BY-NC-4.0"),
        "{zoo}"
    );
}
