//! What a run and its evaluations say: splits, features, and probes that cannot be made.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use image::{GrayImage, Luma, Rgb, RgbImage};
use mim::core::weights::WeightMap;

const CONFIG: &str = "method = \"mae\"\nmask_ratio = 0.5\nencoder = { image_size = 16, patch_size = 8, embed_dim = 8, \
    depth = 1, num_heads = 2 }\ndecoder = { embed_dim = 8, depth = 1, num_heads = 2 }\n[data]\nworkers = 0\n\
    [train]\nepochs = 1\nbatch_size = 4\nlr = 1e-3\n";

fn mim(args: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mim"));
    command.env("CUDA_VISIBLE_DEVICES", "");
    command.args(args).current_dir(dir).output().unwrap()
}

/// Standard output and error of what must end with this status.
fn ends(args: &[&str], dir: &Path, status: i32) -> (String, String) {
    let output = mim(args, dir);
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(output.status.code(), Some(status), "{args:?}\n{out}{err}");
    (out, err)
}

/// `count` images of one brightness, noisy enough to differ.
fn images(folder: &Path, count: u8, brightness: u8) {
    fs::create_dir_all(folder).unwrap();
    for number in 0..count {
        let pixel = |x: u32, y: u32| {
            let noise = u8::try_from((x * 7 + y * 3 + u32::from(number) * 5) % 17).unwrap();
            Rgb([brightness + noise; 3])
        };
        let image = RgbImage::from_fn(16, 16, pixel);
        image.save(folder.join(format!("{number}.png"))).unwrap();
    }
}

fn classes(split: &Path, count: u8) {
    images(&split.join("dark"), count, 20);
    images(&split.join("light"), count, 200);
}

fn pretrain(dir: &Path, run: &str) -> (String, serde_json::Value) {
    fs::write(dir.join("c.toml"), CONFIG).unwrap();
    let args = [
        "pretrain",
        "--config",
        "c.toml",
        "--data",
        "folder:photos",
        "--output-dir",
        run,
    ];
    let (_, err) = ends(&args, dir, 0);
    let summary = fs::read(dir.join(run).join("summary.json")).unwrap();
    (err, serde_json::from_slice(&summary).unwrap())
}

#[test]
fn splits_are_the_folders_of_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, photos) = (dir.path(), dir.path().join("photos"));
    classes(&photos.join("train"), 12);
    classes(&photos.join("Validation"), 3);
    classes(&photos.join("test"), 4);
    let (_, summary) = pretrain(dir, "run");
    assert_eq!(summary["split"], "val");
    assert_eq!(
        summary["probed_images"],
        serde_json::json!({ "train": 24, "held_out": 6 })
    );
    assert_eq!(
        (&summary["raw_linear_top1"], &summary["k"]),
        (&100.0.into(), &20.into())
    );
    for (split, rows) in [("train", 24), ("val", 6), ("test", 8)] {
        let args = [
            "features",
            "--checkpoint",
            "run",
            "--split",
            split,
            "--output",
            "f.npy",
        ];
        let (out, err) = ends(&args, dir, 0);
        assert!(
            out.contains(&format!("[{rows}, 8]")) && err.contains(split),
            "{out}{err}"
        );
    }
    let args = [
        "eval",
        "knn",
        "--checkpoint",
        "run",
        "--split",
        "test",
        "--json",
    ];
    let (out, _) = ends(&args, dir, 0);
    let results: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&results["split"], &results["encoder"]),
        (&"test".into(), &"student".into())
    );
    assert_eq!(results["probed_images"]["held_out"], 8);
}

#[test]
fn unreadable_images_have_no_row_and_names_stand_beside_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, photos) = (dir.path(), dir.path().join("photos"));
    classes(&photos.join("train"), 12);
    classes(&photos.join("val"), 3);
    pretrain(dir, "run");
    fs::write(photos.join("train/dark/0.png"), b"").unwrap();
    let features = ["features", "--checkpoint", "run", "--output"];
    let (out, err) = ends(&[&features[..], &["f.npy"]].concat(), dir, 0);
    assert!(
        out.contains("[23, 8]") && err.contains("1 images could not be read"),
        "{out}{err}"
    );
    let table = fs::read_to_string(dir.join("f.csv")).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!((lines[0], lines.len()), ("row,name,label,class", 24));
    assert!(
        lines[1].starts_with("0,photos/train/dark/1.png,0,dark"),
        "{}",
        lines[1]
    );
    let (_, err) = ends(&[&features[..], &["no/f.npy"]].concat(), dir, 1);
    assert!(err.contains("no/f.npy: its folder does not exist"), "{err}");
}

#[test]
fn a_file_of_weights_gives_the_features_of_its_run() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    classes(&dir.join("photos/train"), 12);
    classes(&dir.join("photos/val"), 3);
    pretrain(dir, "run");
    let data = ["--data", "folder:photos", "--output"];
    ends(
        &[&["features", "--checkpoint", "run"], &data[..], &["a.npy"]].concat(),
        dir,
        0,
    );
    let file = "run/checkpoints/step-6/student.safetensors";
    let of_file = [
        "features",
        "--weights",
        file,
        "--set",
        "encoder.num_heads=2",
    ];
    let (_, err) = ends(&[&of_file[..], &data[..], &["b.npy"]].concat(), dir, 0);
    assert!(
        err.contains("images of 16x16 pixels") && err.contains("tensors set"),
        "{err}"
    );
    let [a, b] = ["a.npy", "b.npy"].map(|name| fs::read(dir.join(name)).unwrap());
    assert_eq!(a, b);
    // The file itself stands for its checkpoint.
    ends(&["eval", "knn", "--checkpoint", file, "--k", "5"], dir, 0);
    let bad = ["eval", "knn", "--weights", file, "--set", "train.epochs=1"];
    let (_, err) = ends(&bad, dir, 1);
    assert!(err.contains("under encoder, norm, eval and data"), "{err}");
}

#[test]
fn runs_are_trained_further_on_images_that_moved_or_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, photos) = (dir.path(), dir.path().join("photos"));
    classes(&photos.join("train"), 12);
    classes(&photos.join("val"), 3);
    pretrain(dir, "runs/mae-1");
    let resume = ["pretrain", "--resume", "auto"];
    let (_, err) = ends(&resume, dir, 1);
    assert!(err.contains("no unfinished run of mae"), "{err}");
    let (_, err) = ends(
        &[&resume[..], &["--output-dir", "runs/mae-1"]].concat(),
        dir,
        0,
    );
    assert!(
        err.contains("the run is finished") && !err.contains("probing"),
        "{err}"
    );
    let log = || {
        fs::read_to_string(dir.join("runs/mae-1/log.jsonl"))
            .unwrap()
            .lines()
            .count()
    };
    assert_eq!(log(), 1);
    fs::rename(&photos, dir.join("moved")).unwrap();
    images(&dir.join("moved/train/light"), 16, 200);
    let further = [
        "--output-dir",
        "runs/mae-1",
        "--epochs",
        "2",
        "--data",
        "folder:moved",
    ];
    let (_, err) = ends(&[&resume[..], &further[..]].concat(), dir, 0);
    for said in [
        "trained on 24 images, and now there are 28",
        "train.epochs was 1 and is now 2",
        "now read from folder:moved",
    ] {
        assert!(err.contains(said), "`{said}` is not in {err}");
    }
    assert_eq!(log(), 2);
    let fewer = ["--output-dir", "runs/mae-1", "--epochs", "1"];
    let (_, err) = ends(&[&resume[..], &fewer[..]].concat(), dir, 1);
    assert!(err.contains("has trained 2 epochs"), "{err}");
}

#[test]
fn a_share_is_held_out_where_there_is_no_other_split() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, photos) = (dir.path(), dir.path().join("photos"));
    classes(&photos, 30);
    let (err, summary) = pretrain(dir, "run");
    assert!(
        err.contains("60 images") && err.contains("6 of them held out"),
        "{err}"
    );
    assert_eq!(
        (&summary["split"], &summary["images"]),
        (&"0.1 of train".into(), &54.into())
    );
    assert_eq!(summary["probed_images"]["held_out"], 6);
    let (out, _) = ends(&["eval", "knn", "--checkpoint", "run", "--json"], dir, 0);
    let results: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(results["knn_top1"], summary["knn_top1"]);
}

#[test]
fn probes_that_cannot_be_made_do_not_cost_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, photos) = (dir.path(), dir.path().join("photos"));
    // Fewer images than the 20 neighbours of k-NN.
    classes(&photos.join("train"), 5);
    classes(&photos.join("val"), 2);
    let (err, summary) = pretrain(dir, "few");
    assert!(
        err.contains("no k-NN of pretrained encoder") && summary["knn_top1"].is_null(),
        "{err}"
    );
    assert!(
        summary["linear_top1"].is_number() && summary["problems"][0].is_string(),
        "{summary}"
    );
    ends(&["eval", "linear", "--checkpoint", "few"], dir, 0);
    let (_, err) = ends(&["eval", "knn", "--checkpoint", "few"], dir, 1);
    assert!(err.contains("`k` is 20"), "{err}");
    // One class, and val images without classes.
    fs::remove_dir_all(photos.join("train/light")).unwrap();
    fs::remove_dir_all(photos.join("val")).unwrap();
    images(&photos.join("val"), 3, 9);
    let (err, summary) = pretrain(dir, "one");
    assert!(err.contains("no probes of pretrained encoder"), "{err}");
    assert!(
        summary["linear_top1"].is_null() && summary["final_loss"].is_number(),
        "{summary}"
    );
}

#[test]
fn a_run_has_a_page_and_several_have_one_together() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    classes(&dir.join("photos/train"), 12);
    classes(&dir.join("photos/test"), 4);
    pretrain(dir, "first");
    pretrain(dir, "second");
    let page = fs::read_to_string(dir.join("first/report.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("reconstruction.png"));
    let (out, _) = ends(&["report", "first", "second"], dir, 0);
    assert_eq!(out.trim(), "report.html");
    let page = fs::read_to_string(dir.join("report.html")).unwrap();
    assert!(page.contains("<h1>2 runs</h1>") && page.contains("<td>second</td>"));
    let (_, err) = ends(&["report", "photos"], dir, 1);
    assert!(err.contains("this is not a run"), "{err}");
    ends(
        &["report", "first", "--output", "nowhere/page.html"],
        dir,
        1,
    );
}

#[test]
fn every_protocol_measures_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    classes(&dir.join("photos/train"), 24);
    classes(&dir.join("photos/test"), 8);
    pretrain(dir, "run");
    let eval = |more: &[&str], status| {
        ends(
            &[&["eval"], more, &["--checkpoint", "run"]].concat(),
            dir,
            status,
        )
    };
    for (args, wanted) in [
        (
            &["linear", "--set", "c_sweep=[0.1, 1.0]"][..],
            &["linear_top1 ", "linear_top1_low ", "linear_c "][..],
        ),
        (
            &["knn", "--set", "k_sweep=[1, 3]", "--layers", "0"],
            &["knn_top5 ", "knn_k "],
        ),
        (
            &["lowshot", "--set", "per_class=2"],
            &["lowshot_top1 ", "lowshot_images 4\n"],
        ),
        (
            &["lowshot", "--set", "linear.c=2.0"],
            &["lowshot_images 2\n"],
        ),
        (
            &["retrieval", "--set", "recall_at=[1]"],
            &["retrieval_recall_at_1 ", "retrieval_map "],
        ),
        (
            &["signals"],
            &[
                "signals_rankme ",
                "signals_effective_rank ",
                "signals_feature_std ",
            ],
        ),
        (
            &["signals", "--format", "csv"],
            &["figure,value\nsignals_rankme,"],
        ),
        (
            &["signals", "--format", "markdown"],
            &["| figure | value |\n|---|---|\n| signals_rankme |"],
        ),
    ] {
        let (out, _) = eval(args, 0);
        assert!(
            wanted.iter().all(|part| out.contains(part)),
            "{args:?}: {out}"
        );
    }
    let (out, _) = eval(&["knn", "--json"], 0);
    let all: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(all["confusion"].as_array().unwrap().len(), 2);
}

#[test]
fn protocols_name_what_they_refuse() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    classes(&dir.join("photos/train"), 24);
    classes(&dir.join("photos/test"), 8);
    pretrain(dir, "run");
    let eval = |more: &[&str], status| {
        ends(
            &[&["eval"], more, &["--checkpoint", "run"]].concat(),
            dir,
            status,
        )
    };
    for (args, wanted) in [
        (&["linaer"][..], "did you mean linear?"),
        (&["knn", "--set", "kk=3"], "`protocol.kk`"),
        (&["knn", "--k", "1000"], "there are only 48 training images"),
        (&["linear", "--k", "3"], "linear has no neighbours"),
        (&["linear", "--layers", "7"], "does not have this block"),
        (
            &["linear", "--set", "encoder.depth=3"],
            "leave it out, or give a file by --weights",
        ),
        (
            &["retrieval", "--set", "recall_at=[]"],
            "nothing to choose from",
        ),
    ] {
        let (_, err) = eval(args, 1);
        assert!(err.contains(wanted), "{args:?}: {err}");
    }
    // Signals need no labels; the others do.
    images(&dir.join("plain"), 6, 90);
    let plain = ["--data", "folder:plain"];
    let (out, _) = eval(&[&["signals"], &plain[..]].concat(), 0);
    assert!(out.contains("signals_rankme "), "{out}");
    let (_, err) = eval(&[&["knn"], &plain[..]].concat(), 1);
    assert!(err.contains("val"), "{err}");
    let few = ["lowshot", "--set", "per_class=25"];
    let (_, err) = eval(&few, 1);
    assert!(err.contains("class 0 has 24 training images"), "{err}");
    // Features that are no numbers are neither measured nor written.
    let step = fs::read_dir(dir.join("run/checkpoints")).unwrap().next();
    let step = step.unwrap().unwrap().path();
    without_checksums(&step.join("state.json"));
    let file = step.join("student.safetensors");
    let (mut weights, name) = (WeightMap::read(&file).unwrap(), "patch_embed.proj.bias");
    let broken = (weights.get(name).unwrap() * f64::NAN).unwrap();
    weights.insert(name, broken);
    weights.write(&file, Some(("format", "mim"))).unwrap();
    let (_, err) = eval(&["knn", "--k", "1"], 1);
    assert!(err.contains("of image 0 is not finite"), "{err}");
    let write = ["features", "--checkpoint", "run", "--output", "x.npy"];
    let (_, err) = ends(&write, dir, 1);
    assert!(
        err.contains("of image 0 (photos/train/dark/0.png) is not finite"),
        "{err}"
    );
    assert!(!dir.join("x.npy").exists());
}

/// Makes a checkpoint one of an older version, whose files can be changed.
fn without_checksums(file: &Path) {
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let entries = state.as_object_mut().unwrap();
    assert!(entries.remove("files").is_some() && entries.remove("crc32").is_some());
    fs::write(file, state.to_string()).unwrap();
}

#[test]
fn one_class_is_trained_on_and_not_measured() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    images(&dir.join("photos/train/one"), 24, 90);
    images(&dir.join("photos/test/one"), 4, 90);
    let (err, summary) = pretrain(dir, "run");
    for probe in ["linear probe", "k-NN"] {
        let line = format!("no {probe} of pretrained encoder: ");
        let found = err.lines().find(|text| text.contains(&line));
        assert!(
            found.is_some_and(|text| text.contains("of one class")),
            "{err}"
        );
    }
    assert!(summary["knn_top1"].is_null() && summary["problems"].is_array());
    for protocol in ["linear", "knn", "lowshot", "retrieval"] {
        let (_, err) = ends(&["eval", protocol, "--checkpoint", "run"], dir, 1);
        assert!(err.contains("of one class"), "{protocol}: {err}");
    }
}

/// `count` images of two brightnesses, 24 x 16 pixels, with masks of which is where.
fn masked(split: &Path, count: u32) {
    let (images, masks) = (split.join("images"), split.join("masks"));
    fs::create_dir_all(&images).unwrap();
    fs::create_dir_all(&masks).unwrap();
    for number in 0..count {
        let bright = |x: u32| x > 4 + number;
        let pixel = |x: u32, y: u32| {
            Rgb([if bright(x) { 180 } else { 30 } + u8::try_from((x * 7 + y * 3) % 17).unwrap(); 3])
        };
        RgbImage::from_fn(24, 16, pixel)
            .save(images.join(format!("{number}.png")))
            .unwrap();
        let mask = GrayImage::from_fn(24, 16, |x, _| Luma([u8::from(bright(x))]));
        mask.save(masks.join(format!("{number}.png"))).unwrap();
    }
}

/// `mim eval segment` of the run.
fn segment(dir: &Path, more: &[&str], status: i32) -> (String, String) {
    let args = ["eval", "segment", "--checkpoint", "run"];
    ends(&[&args[..], more].concat(), dir, status)
}

/// Two passes over the images of [`masked`].
const MASKED: [&str; 6] = [
    "--data",
    "masked",
    "--set",
    "batch_size=4",
    "--set",
    "epochs=2",
];

/// A run, and images with masks.
fn run_and_masks(dir: &Path) {
    classes(&dir.join("photos/train"), 24);
    classes(&dir.join("photos/test"), 4);
    pretrain(dir, "run");
    masked(&dir.join("masked/train"), 8);
    masked(&dir.join("masked/val"), 3);
}

#[test]
fn objects_without_masks_are_pasted_on_textures() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run_and_masks(dir);
    let made = "--data embedded --set epochs=1 --set max_train=64";
    let made: Vec<&str> = made.split(' ').collect();
    let (out, err) = segment(dir, &made, 0);
    for part in ["miou ", "pixel_accuracy ", "iou_0 ", "random_miou_low "] {
        assert!(out.contains(&format!("segment_{part}")), "{out}");
    }
    assert!(err.contains("embedded has no masks"), "{err}");
    assert!(err.contains("classes 1 to 10"), "{err}");
    let (_, err) = segment(dir, &[], 1);
    assert!(err.contains("not dark"), "{err}");
}

#[test]
fn segmentation_stands_beside_a_random_encoder_and_names_what_it_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run_and_masks(dir);
    let eval = |more: &[&str], status| segment(dir, &[&MASKED[..], more].concat(), status);
    let upernet = ["--set", "head=upernet", "--set", "channels=4", "--json"];
    let (out, _) = eval(&upernet, 0);
    let all: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(all["settings"]["head"], "upernet");
    assert_eq!(all["split"], "val");
    let images = serde_json::json!({ "train": 8, "held_out": 3 });
    assert_eq!(all["probed_images"], images);
    let rows = all["confusion"].as_array().unwrap().iter();
    let cells = rows.flat_map(|row| row.as_array().unwrap());
    let pixels: u64 = cells.map(|cell| cell.as_u64().unwrap()).sum();
    assert_eq!(pixels, 3 * 24 * 16);
    assert!(all["segment_miou"].is_number(), "{out}");
    assert!(all["segment_random_iou_1"].is_number(), "{out}");
    let (out, err) = eval(&["--set", "random=false", "--layers", "0"], 0);
    let said = out + &err;
    assert!(!said.contains("random"), "{said}");

    for (args, wanted) in [
        (&["--pooling", "max"][..], "segmentation reads every patch"),
        (&["--k", "3"], "segment has no neighbours"),
        (&["--set", "finetune=true"], "`protocol.finetune`"),
        (&["--set", "channels=8"], "use head=upernet"),
        (&["--set", "classes=1"], "masks must have 2 to 256"),
        (&["--split", "test"], "there is no test split"),
    ] {
        let (_, err) = eval(args, 1);
        assert!(err.contains(wanted), "{args:?}: {err}");
    }
    fs::remove_file(dir.join("masked/train/masks/3.png")).unwrap();
    let (_, err) = eval(&[], 1);
    let wanted = "1 images without a mask (masks/NAME.png): 3";
    assert!(err.contains(wanted), "{err}");
}

#[test]
fn a_sweep_trains_what_is_missing_and_compares_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    classes(&dir.join("photos/train"), 12);
    classes(&dir.join("photos/test"), 4);
    fs::write(dir.join("c.toml"), CONFIG).unwrap();
    let sweep = "recipes = [\"c.toml\", \"nowhere.toml\"]\nseeds = [0, 1]\n[set]\n\
        data.source = \"folder:photos\"\n[vary]\nmask_ratio = [0.25, 0.5]\n";
    fs::write(dir.join("s.toml"), sweep).unwrap();
    let (out, err) = ends(&["sweep", "s.toml"], dir, 1);
    assert!(
        err.contains("failed: nowhere-mask_ratio_0.25-seed_0"),
        "{err}"
    );
    let rows: Vec<&str> = out
        .lines()
        .filter(|line| line.starts_with("| c-mask"))
        .collect();
    assert_eq!(rows.len(), 2, "{out}");
    assert!(
        rows[1].starts_with("| c-mask_ratio_0.5-seed_0 | mae | 2 | 0.5 |"),
        "{out}"
    );
    let folder = dir.join("sweeps/s");
    for file in [
        "results.csv",
        "report.html",
        "c-mask_ratio_0.25-seed_1/summary.json",
    ] {
        assert!(folder.join(file).exists(), "{file}");
    }
    // One run is lost: the same command trains that one alone.
    fs::remove_dir_all(folder.join("c-mask_ratio_0.5-seed_1")).unwrap();
    fs::write(dir.join("s.toml"), sweep.replace(", \"nowhere.toml\"", "")).unwrap();
    let (again, err) = ends(&["sweep", "s.toml"], dir, 0);
    assert_eq!(err.matches("is done").count(), 3, "{err}");
    // All but the seconds, which come last.
    let figures = |text: &str| {
        text.lines()
            .nth(3)
            .unwrap()
            .rsplit_once(" | ")
            .unwrap()
            .0
            .to_owned()
    };
    assert_eq!(figures(&out), figures(&again));
}

#[test]
fn runs_are_compared_by_the_results_that_they_have() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    classes(&dir.join("photos/train"), 12);
    classes(&dir.join("photos/test"), 4);
    pretrain(dir, "first");
    pretrain(dir, "second");
    let compare = |more: &[&str], status| {
        ends(
            &[&["compare", "first", "second"], more].concat(),
            dir,
            status,
        )
    };
    let (json, _) = compare(&["--metrics", "final_loss", "--format", "json"], 0);
    let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(rows[0]["runs"], serde_json::json!(["first", "second"]));
    assert_eq!(rows[0]["results"]["final_loss"]["deviation"], 0.);
    assert!(
        compare(&["--metrics", "foo"], 1)
            .1
            .contains("no run has this result")
    );
}

#[test]
fn views_are_drawn_before_any_training() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    classes(&dir.join("photos/train"), 3);
    fs::write(dir.join("c.toml"), CONFIG).unwrap();
    let args = [
        "browse",
        "--config",
        "c.toml",
        "--data",
        "folder:photos",
        "--count",
        "2",
    ];
    let (out, _) = ends(&args, dir, 0);
    assert_eq!(out.trim(), "batch.png");
    // Two images of 16 pixels, enlarged sixfold, below a heading.
    let size = image::open(dir.join("batch.png"))
        .unwrap()
        .into_rgb8()
        .dimensions();
    assert_eq!(size, (13 * 8 + 4 + 96, 14 + 2 * 100 - 4));
    let args = ["browse", "--config", "c.toml", "--output", "nowhere/x.png"];
    assert!(ends(&args, dir, 1).1.contains("its folder does not exist"));
}

#[test]
fn a_run_is_drawn_in_many_ways() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    classes(&dir.join("photos/train"), 6);
    classes(&dir.join("photos/test"), 3);
    pretrain(dir, "run");
    let draw = |what: &str| {
        let args = [
            "visualize",
            "--checkpoint",
            "run",
            "--what",
            what,
            "--count",
            "2",
        ];
        let (out, _) = ends(&args, dir, 0);
        dir.join(out.trim())
    };
    // Two rows of 96 pixels; a column for the image, and one for each of what is drawn.
    for (what, columns) in [
        ("masks", 2),
        ("attention", 3),
        ("pca", 2),
        ("neighbours", 6),
    ] {
        let size = image::open(draw(what)).unwrap().into_rgb8().dimensions();
        assert_eq!(size, (columns * 100 - 4, 14 + 2 * 100 - 4), "{what}");
    }
    let schedule = fs::read_to_string(draw("schedule")).unwrap();
    assert!(schedule.contains("<svg") && schedule.contains("learning rate"));
}

#[test]
fn hog_targets_are_drawn_beside_their_views() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let config = "method = \"custom\"\nencoder = { image_size = 16, patch_size = 8, embed_dim = 8, depth = 1, num_heads = 2 }\n\
        target = { type = \"hog\", cell = 4, window = 0 }\ndecoder = { type = \"linear\" }\n[data]\nworkers = 0\n\
        [train]\nepochs = 1\nbatch_size = 4\nlr = 1e-3\n";
    fs::write(dir.join("hog.toml"), config).unwrap();
    classes(&dir.join("photos/train"), 6);
    let run = [
        "pretrain",
        "--config",
        "hog.toml",
        "--data",
        "photos",
        "--no-eval",
        "--output-dir",
        "hog",
    ];
    ends(&run, dir, 0);
    let draw = |run: &'static str| {
        [
            "visualize",
            "--checkpoint",
            run,
            "--what",
            "hog",
            "--count",
            "2",
        ]
    };
    let (out, _) = ends(&draw("hog"), dir, 0);
    let picture = image::open(dir.join(out.trim())).unwrap().into_rgb8();
    // Cells of 4 pixels have glyphs of 16, and 64 pixels a side are doubled.
    assert_eq!(picture.dimensions(), (2 * 128 + 4, 14 + 2 * 132 - 4));
    let first = |x: u32, y: u32| x >= 132 && (14..142).contains(&y);
    let lines = picture.enumerate_pixels().filter(|(x, y, _)| first(*x, *y));
    let bright = lines.filter(|(.., pixel)| pixel.0[0] > 200).count();
    assert!((20..128 * 128).contains(&bright), "{bright}");
    pretrain(dir, "mae");
    let (_, err) = ends(&draw("mae"), dir, 1);
    assert!(
        err.contains("HOG targets of mae") && err.contains("target.type=hog"),
        "{err}"
    );
}
