//! Folders of real image files and the loader over them.

#![expect(
    clippy::unwrap_used,
    reason = "functions beside the tests; the exception for tests covers test functions only"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mim_core::augment::{Augment, Pad, Sample, Solarize, ToChannels, ViewPlan};
use mim_core::data::{
    ArrayLayout, DataSource, Dataset, FolderDataset, Loader, LoaderConfig, MemoryDataset, Reading,
    Split, ValueRange, decode,
};
use mim_core::{Batch, Result};

fn images() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
}

fn copy(from: &str, to: impl AsRef<Path>) {
    fs::create_dir_all(to.as_ref().parent().unwrap()).unwrap();
    fs::copy(images().join(from), to).unwrap();
}

fn config(batch_size: usize, workers: usize) -> LoaderConfig {
    LoaderConfig {
        batch_size,
        workers,
        ..LoaderConfig::default()
    }
}

/// Bytes of each view, and the labels.
type Raw = (Vec<Vec<u8>>, Option<Vec<u32>>);

fn bytes(batches: impl Iterator<Item = Result<Batch>>) -> Vec<Raw> {
    let flat = |batch: Batch| {
        let pixels =
            |view: &mim_core::View| view.pixels().flatten_all().unwrap().to_vec1().unwrap();
        let labels = batch.labels.map(|labels| labels.to_vec1().unwrap());
        (batch.views.iter().map(pixels).collect(), labels)
    };
    batches.map(|batch| flat(batch.unwrap())).collect()
}

#[test]
fn reads_every_kind_of_file_as_pillow_does() {
    let expected = fs::read_to_string(images().join("rgb.json")).unwrap();
    let expected: BTreeMap<String, Vec<u8>> = serde_json::from_str(&expected).unwrap();
    assert_eq!(expected.len(), 11);
    for (name, expected) in expected {
        let sample = decode(&images().join(&name)).unwrap();
        assert_eq!((sample.size(), sample.channels()), ((9, 12), 3), "{name}");
        let pairs = sample.pixels().iter().zip(&expected);
        let differences: Vec<u8> = pairs.map(|(a, b)| a.abs_diff(*b)).collect();
        let worst = differences.iter().copied().max().unwrap();
        let total: u32 = differences.iter().copied().map(u32::from).sum();
        if name.ends_with("png") || name.ends_with("webp") {
            assert_eq!(worst, 0, "{name}");
        } else {
            // Decoders round the cosine transform and the upsampling of colour in their own ways.
            let mean = f64::from(total) / differences.len() as f64;
            assert!(
                worst <= 6 && mean < 1.,
                "{name}: at most {worst}, {mean} on average"
            );
        }
    }
}

#[test]
fn reads_every_format_by_its_content() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
    let expected = fs::read_to_string(folder.join("rgb.json")).unwrap();
    let expected: BTreeMap<String, Vec<u8>> = serde_json::from_str(&expected).unwrap();
    let mut wrong = vec![];
    for (name, expected) in &expected {
        // Decoders of JPEG round in their own ways.
        let allowed = if name == "trailer.jpg" { 6 } else { 0 };
        let close = |pixels: &[u8]| {
            let mut pairs = pixels.iter().zip(expected);
            pixels.len() == expected.len() && pairs.all(|(a, b)| a.abs_diff(*b) <= allowed)
        };
        match decode(&folder.join(name)) {
            Ok(sample) if close(sample.pixels()) => {}
            Ok(sample) => wrong.push(format!("{name}: {:?}", &sample.pixels()[..6])),
            Err(error) => wrong.push(error.to_string()),
        }
    }
    assert!(
        wrong.is_empty() && expected.len() > 30,
        "{}",
        wrong.join("\n")
    );
}

#[test]
fn images_of_values_have_all_channels() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
    let expected = fs::read_to_string(folder.join("values.json")).unwrap();
    let expected: BTreeMap<String, ([usize; 3], Vec<f64>)> =
        serde_json::from_str(&expected).unwrap();
    assert_eq!(expected.len(), 7);
    let root = tempfile::tempdir().unwrap();
    for name in expected.keys() {
        fs::copy(folder.join(name), root.path().join(name)).unwrap();
    }
    let open = |range, array_layout| {
        let reading = Reading {
            range: Some(range),
            array_layout,
            ..Reading::default()
        };
        FolderDataset::open_with(root.path(), Split::Train, &reading).unwrap()
    };
    let all = open(ValueRange::Dtype, Some(ArrayLayout::Hwc));
    assert_eq!(all.len(), 7);
    for (index, (name, ([height, width, channels], values))) in expected.iter().enumerate() {
        let sample = all.read(index).unwrap();
        assert!(all.name_of(index).ends_with(name) && sample.is_deep());
        let shape = (sample.size(), sample.channels());
        assert_eq!(shape, ((*height, *width), *channels), "{name}");
        for (value, expected) in sample.values().iter().zip(values) {
            let difference = (f64::from(*value) - expected).abs();
            assert!(
                difference <= 1e-6 * expected.abs().max(1.),
                "{name}: {value} {expected}"
            );
        }
    }
    // Without the order of axes arrays are other files; a range of its own scales.
    let scaled = open(ValueRange::Bounds([-100., 300.]), None);
    assert_eq!(scaled.len(), 5);
    assert!(scaled.notes()[0].contains("2 .npy"), "{scaled:?}");
    let (own, wide) = (all.read(0).unwrap(), scaled.read(0).unwrap());
    let want = (own.values()[0] + 100.) / 400.;
    assert!((wide.values()[0] - want).abs() < 1e-6);
    let error = decode(&folder.join("bands_f32.tif"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("data.range"), "{error}");
}

#[test]
fn images_of_values_go_through_views() {
    let deep = |index: usize| {
        let values = (0..12 * 10 * 12).map(|at| (at + index) as f32 / 2000.);
        Sample::of_values(values.collect(), (12, 10), 12)
    };
    let mut plan = ViewPlan::mae(8);
    plan.shared
        .push(Augment::ToChannels(ToChannels { channels: 12 }));
    plan.shared.push(Augment::Solarize(Solarize {
        p: 1.,
        ..Solarize::default()
    }));
    let batch = |plan| {
        let loader = Loader::new(Arc::new(Odd(deep)), plan, config(4, 1), 0).unwrap();
        loader.sequential().unwrap().next().unwrap()
    };
    let view = batch(plan.clone()).unwrap().views.remove(0);
    assert_eq!(view.pixels().dims(), [4, 12, 8, 8]);
    let unit = view.unit().unwrap().flatten_all().unwrap();
    let values: Vec<f32> = unit.to_vec1().unwrap();
    assert!(values.iter().all(|value| (-0.2..1.).contains(value)));
    // Channel c of every pixel is c / 2000 more than channel 0.
    for place in 0..64 {
        assert!((values[11 * 64 + place] - values[place] - 11. / 2000.).abs() < 1e-5);
    }
    // A border of white, and the middle of an image that is smaller than the crop.
    let border = Augment::Pad(Pad {
        pixels: 1,
        fill: 255,
    });
    let middle = ViewPlan::evaluation(12, 16).shared.remove(1);
    let channels = plan.shared[2].clone();
    let view = batch(ViewPlan::single(vec![border, middle, channels]))
        .unwrap()
        .views
        .remove(0);
    let unit: Vec<f32> = view
        .unit()
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();
    // 12x10 pixels, a border of 1, and black around 14x12.
    assert_eq!(unit[..16], [0.; 16]);
    assert_eq!(
        unit[16..][..16],
        [&[0.; 2][..], &[1.; 12], &[0.; 2]].concat()
    );
    assert_eq!(unit[2 * 16 + 3], 0.);
    assert_eq!(unit[256 + 2 * 16 + 3], 1. / 2000.);
}

#[test]
fn folders_are_labelled_by_their_first_level() {
    let root = tempfile::tempdir().unwrap();
    copy("rgb.png", root.path().join("train/b/deep/1.png"));
    copy("grey.png", root.path().join("train/a/2.PNG"));
    copy("grey.png", root.path().join("train/c/2.png"));
    copy("colour.JPG", root.path().join("val/b/3.JPG"));
    fs::write(root.path().join("train/a/notes.txt"), "text").unwrap();
    fs::write(root.path().join("train/a/.hidden.png"), "text").unwrap();
    fs::create_dir(root.path().join("train/empty")).unwrap();
    let train = FolderDataset::open(root.path(), Split::Train).unwrap();
    assert_eq!(train.class_names(), ["a", "b", "c"]);
    assert_eq!((train.len(), train.label(1)), (3, Some(1)));
    assert!(train.name_of(1).ends_with("1.png"));
    let test = FolderDataset::open(root.path(), Split::Val).unwrap();
    assert_eq!((test.len(), test.classes(), test.label(0)), (1, 3, Some(1)));

    fs::rename(root.path().join("val/b"), root.path().join("val/d")).unwrap();
    let error = FolderDataset::open(root.path(), Split::Val)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no class of the names"), "{error}");
}

#[test]
fn splits_have_their_usual_names_in_any_case() {
    for (train, val) in [
        ("training", "validation"),
        ("Train", "Val"),
        ("TRAIN", "dev"),
    ] {
        let root = tempfile::tempdir().unwrap();
        for (folder, count) in [(train, 3), (val, 2), ("test", 1)] {
            for index in 0..count {
                copy(
                    "rgb.png",
                    root.path().join(format!("{folder}/a/{index}.png")),
                );
            }
        }
        for (split, count) in [(Split::Train, 3), (Split::Val, 2), (Split::Test, 1)] {
            let images = FolderDataset::open(root.path(), split).unwrap();
            assert_eq!(images.len(), count, "{train} {val} {split}");
        }
    }
    let root = tempfile::tempdir().unwrap();
    copy("rgb.png", root.path().join("train/a/0.png"));
    copy("rgb.png", root.path().join("training/a/0.png"));
    let error = FolderDataset::open(root.path(), Split::Train).unwrap_err();
    assert!(
        error.to_string().contains("named like the train split"),
        "{error}"
    );
}

#[test]
fn a_run_among_the_images_is_no_data() {
    let root = tempfile::tempdir().unwrap();
    copy("rgb.png", root.path().join("a/0.png"));
    copy("rgb.png", root.path().join("runs/mae-1/reconstruction.png"));
    fs::write(root.path().join("runs/mae-1/config.toml"), "").unwrap();
    fs::write(root.path().join("runs/mae-1/log.jsonl"), "").unwrap();
    let images = FolderDataset::open(root.path(), Split::Train).unwrap();
    assert_eq!((images.len(), images.class_names().len()), (1, 1));
}

#[test]
fn flat_folders_are_an_unlabelled_train_split() {
    let root = tempfile::tempdir().unwrap();
    for name in ["rgb.png", "cmyk.jpg", "lossless.webp"] {
        copy(name, root.path().join(name));
    }
    let source: DataSource = root.path().display().to_string().parse().unwrap();
    let dataset = source.open(Split::Train).unwrap();
    assert_eq!(
        (dataset.len(), dataset.classes(), dataset.label(0)),
        (3, 0, None)
    );
    assert!(dataset.name_of(0).ends_with("cmyk.jpg"));
    let error = source.open(Split::Test).unwrap_err().to_string();
    assert!(error.contains("no test split"), "{error}");
}

#[test]
fn folders_without_images_say_so() {
    let root = tempfile::tempdir().unwrap();
    let message = || {
        FolderDataset::open(root.path(), Split::Train)
            .unwrap_err()
            .to_string()
    };
    assert!(message().contains("only 0 files"), "{}", message());
    fs::write(root.path().join("a.txt"), "text").unwrap();
    fs::write(root.path().join("b.csv"), "text").unwrap();
    assert!(
        message().contains("only 2 files of other kinds"),
        "{}",
        message()
    );
}

#[test]
fn bytes_do_not_depend_on_the_number_of_workers() {
    let dataset = DataSource::Embedded.open(Split::Train).unwrap();
    let mut plan = ViewPlan::mae((20, 24));
    plan.views.push(ViewPlan::mae(12).shared);
    let epoch = |workers, epoch, start| {
        let loader = Loader::new(dataset.clone(), plan.clone(), config(40, workers), 7).unwrap();
        assert_eq!(loader.iterations(), 25);
        bytes(loader.epoch(epoch, start).unwrap())
    };
    let alone = epoch(0, 2, 0);
    assert_eq!(alone.len(), 25);
    assert_eq!(alone[0].0[0].len(), 40 * 20 * 24);
    assert_eq!(alone[0].1.as_ref().unwrap().len(), 40);
    assert!(alone == epoch(1, 2, 0));
    assert!(alone == epoch(3, 2, 0));
    assert!(alone[20..] == epoch(3, 2, 20)[..]);
    assert!(alone != epoch(0, 3, 0));
}

#[test]
fn augmentation_follows_the_sample_not_its_place() {
    let dataset = DataSource::Embedded.open(Split::Test).unwrap();
    let samples = |batch_size, world: usize| -> Vec<Vec<u8>> {
        let mut all = vec![];
        for rank in 0..world {
            let loader = Loader::new(dataset.clone(), ViewPlan::mae(8), config(batch_size, 2), 7);
            let loader = loader.unwrap().sharded(rank, world).unwrap();
            for (views, _) in bytes(loader.epoch(0, 0).unwrap()) {
                all.extend(views[0].chunks(64).map(<[u8]>::to_vec));
            }
        }
        all.sort();
        all
    };
    let whole = samples(50, 1);
    assert_eq!(whole.len(), 500);
    assert!(whole == samples(10, 2));
}

#[test]
fn a_sequential_pass_serves_every_sample_once_in_order() {
    let dataset = DataSource::Embedded.open(Split::Test).unwrap();
    let loader = Loader::new(dataset.clone(), ViewPlan::default(), config(64, 2), 0).unwrap();
    let batches = bytes(loader.sequential().unwrap());
    assert_eq!(batches.len(), 8);
    let labels: Vec<u32> = batches
        .iter()
        .flat_map(|(_, labels)| labels.clone().unwrap())
        .collect();
    let expected: Vec<u32> = (0..500)
        .map(|index| dataset.label(index).unwrap())
        .collect();
    assert_eq!(labels, expected);
    let pixels: Vec<u8> = batches
        .into_iter()
        .flat_map(|(mut views, _)| views.remove(0))
        .collect();
    assert_eq!(pixels[499 * 784..], *dataset.read(499).unwrap().pixels());
}

/// Ten good files with the corrupt ones of `names` among them.
fn folder_with(names: &[&str], corrupt: &[u8]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for index in 0..10 {
        copy("colour.JPG", root.path().join(format!("{index}.jpg")));
    }
    for name in names {
        fs::write(root.path().join(name), corrupt).unwrap();
    }
    root
}

#[test]
fn an_unreadable_file_is_replaced_by_the_next_one() {
    let whole = fs::read(images().join("colour.JPG")).unwrap();
    for corrupt in [&b"no picture"[..], &whole[..whole.len() / 2], b""] {
        let root = folder_with(&["3.jpg"], corrupt);
        let dataset = Arc::new(FolderDataset::open(root.path(), Split::Train).unwrap());
        let replacement = dataset.read(4).unwrap();
        for workers in [0, 2] {
            let loader = Loader::new(dataset.clone(), ViewPlan::default(), config(5, workers), 0);
            let loader = loader.unwrap();
            let mut batches = loader.sequential().unwrap();
            let first = batches.next().unwrap().unwrap();
            let row: Vec<u8> = first.views[0]
                .pixels()
                .get(3)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap();
            let mut planes = vec![];
            replacement.append_planes(&mut planes);
            assert_eq!(row, planes);
            assert!(batches.all(|batch| batch.is_ok()));
            assert_eq!(bytes(loader.epoch(0, 0).unwrap()).len(), 2);
        }
    }
}

/// Values of three channels, but of two in image 3.
#[derive(Debug)]
struct OneOfTwoChannels;

impl Dataset for OneOfTwoChannels {
    fn len(&self) -> usize {
        10
    }

    fn read(&self, index: usize) -> Result<Sample> {
        let channels = if index == 3 { 2 } else { 3 };
        Sample::of_values(vec![index as f32; 4 * channels], (2, 2), channels)
    }

    fn label(&self, _index: usize) -> Option<u32> {
        None
    }

    fn classes(&self) -> usize {
        0
    }
}

#[test]
fn an_image_of_other_channels_is_replaced_or_left_out() {
    let plan = ViewPlan::single(vec![Augment::ToChannels(ToChannels { channels: 3 })]);
    let loader = |left_out: bool| {
        let config = LoaderConfig {
            leave_out_unreadable: left_out,
            ..config(10, 0)
        };
        Loader::new(Arc::new(OneOfTwoChannels), plan.clone(), config, 0).unwrap()
    };
    for left_out in [false, true] {
        let mut batches = loader(left_out).sequential().unwrap();
        let batch = batches.next().unwrap().unwrap();
        assert_eq!(batches.unreadable(), 1);
        let used: Vec<u32> = batch.indices;
        match left_out {
            true => assert_eq!(used, [0, 1, 2, 4, 5, 6, 7, 8, 9]),
            false => assert_eq!(used, [0, 1, 2, 4, 4, 5, 6, 7, 8, 9]),
        }
    }
}

#[test]
fn too_many_unreadable_files_end_the_epoch_with_an_error() {
    let names: Vec<String> = (0..7).map(|index| format!("{index}.jpg")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let root = folder_with(&names, b"no picture");
    let dataset = Arc::new(FolderDataset::open(root.path(), Split::Train).unwrap());
    let loader = Loader::new(dataset.clone(), ViewPlan::default(), config(10, 2), 0).unwrap();
    let mut batches = loader.epoch(0, 0).unwrap();
    let error = batches.next().unwrap().unwrap_err().to_string();
    assert!(
        error.contains("max_bad_share") && error.contains(".jpg"),
        "{error}"
    );
    assert!(batches.next().is_none());

    let strict = LoaderConfig {
        max_bad_share: 0.,
        ..config(10, 0)
    };
    let root = folder_with(&["9.jpg"], b"");
    let dataset = Arc::new(FolderDataset::open(root.path(), Split::Train).unwrap());
    let loader = Loader::new(dataset, ViewPlan::default(), strict, 0).unwrap();
    assert!(loader.epoch(0, 0).unwrap().next().unwrap().is_err());
}

#[test]
fn a_folder_of_unreadable_files_is_an_error_that_names_one() {
    let names: Vec<String> = (0..10).map(|index| format!("{index}.jpg")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let root = folder_with(&names, b"no picture");
    let dataset = Arc::new(FolderDataset::open(root.path(), Split::Train).unwrap());
    let loader = Loader::new(dataset, ViewPlan::default(), config(2, 3), 0).unwrap();
    let error = loader
        .epoch(0, 0)
        .unwrap()
        .next()
        .unwrap()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(".jpg") && error.contains("samples after it"),
        "{error}"
    );
}

/// A data set that misbehaves in the ways a data set can.
#[derive(Debug)]
struct Odd(fn(usize) -> Result<Sample>);

impl Dataset for Odd {
    fn len(&self) -> usize {
        4
    }

    fn read(&self, index: usize) -> Result<Sample> {
        (self.0)(index)
    }

    fn label(&self, _index: usize) -> Option<u32> {
        None
    }

    fn classes(&self) -> usize {
        0
    }
}

fn first_error(read: fn(usize) -> Result<Sample>, plan: ViewPlan) -> String {
    let loader = Loader::new(Arc::new(Odd(read)), plan, config(4, 1), 0).unwrap();
    let mut batches = loader.sequential().unwrap();
    batches.next().unwrap().unwrap_err().to_string()
}

#[test]
fn different_sizes_or_channels_in_a_batch_name_the_operation_to_add() {
    let growing = |index: usize| Sample::new(vec![0; index + 1], (1, index + 1), 1);
    let error = first_error(growing, ViewPlan::default());
    assert!(error.contains("random_resized_crop"), "{error}");
    let mixed = |index: usize| Sample::new(vec![0; [1, 3][index % 2]], (1, 1), [1, 3][index % 2]);
    let error = first_error(mixed, ViewPlan::default());
    assert!(error.contains("to_channels"), "{error}");
    let plan = ViewPlan::single(vec![Augment::ToChannels(ToChannels { channels: 3 })]);
    let loader = Loader::new(Arc::new(Odd(mixed)), plan, config(4, 1), 0).unwrap();
    assert!(loader.sequential().unwrap().next().unwrap().is_ok());
}

#[test]
fn a_panicking_data_set_is_an_error() {
    let error = first_error(|_| panic!("out of luck"), ViewPlan::default());
    assert!(error.contains("out of luck"), "{error}");
}

#[test]
fn a_batch_larger_than_the_data_set_is_an_error() {
    let dataset = Arc::new(MemoryDataset::new(vec![0; 12], (2, 2), 1).unwrap());
    let loader = Loader::new(dataset, ViewPlan::default(), config(4, 0), 0).unwrap();
    let error = loader.epoch(0, 0).unwrap_err().to_string();
    assert!(
        error.contains("3 samples") && error.contains("smaller batch_size"),
        "{error}"
    );
    assert_eq!(loader.sequential().unwrap().count(), 1);
}
