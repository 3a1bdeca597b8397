//! Parquet files as PyArrow writes them, in the layout of Hugging Face's data sets.
//!
//! `fixtures/parquet/data`: image i is 2 x 3 pixels of (i, 2 i, 255 - i), its label i modulo 3; five images in groups
//! of two with snappy and dictionaries, three with zstd, two of the test split with gzip and pages of version 2.
//! `labels`: see `scripts/make_parquet_fixtures.py`. `plain.parquet`: images 0, none and 2 as plain bytes, labels 7, -1, 0, lz4. `none.parquet`: no image.

#![cfg(feature = "parquet")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[cfg(feature = "hub")]
mod mock_hub;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mim_core::augment::{Augment, ToChannels, ViewPlan};
use mim_core::data::{
    DataSource, Dataset, Loader, LoaderConfig, Orientation, ParquetDataset, Reading, Split,
};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet")
}

/// Checks that `dataset` holds images `first..`, by their colour.
fn holds_images_from(first: u8, count: usize, dataset: &dyn Dataset) {
    assert_eq!((dataset.len(), dataset.classes()), (count, 3));
    // Last to first: groups are not read in order.
    for index in (0..count).rev() {
        let image = dataset.read(index).unwrap();
        let i = first + u8::try_from(index).unwrap();
        assert_eq!((image.size(), image.channels()), ((2, 3), 3));
        assert_eq!(
            image.pixels()[..3],
            [i, 2 * i, 255 - i],
            "{}",
            dataset.name_of(index)
        );
        assert_eq!(dataset.label(index), Some(u32::from(i % 3)));
    }
    assert!(dataset.read(count).is_err());
}

#[test]
fn splits_shards_groups_and_class_names_are_read() {
    let train = ParquetDataset::open(&fixtures().join("data"), Split::Train).unwrap();
    holds_images_from(0, 8, &train);
    assert_eq!(train.class_names(), ["cat", "dog", "eel"]);
    assert!(train.name_of(6).ends_with("train-00001-of-00002.parquet#1"));
    let test = ParquetDataset::open(&fixtures().join("data"), Split::Test).unwrap();
    holds_images_from(8, 2, &test);
}

#[test]
fn a_folder_is_recognised_and_a_file_can_be_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    for entry in std::fs::read_dir(fixtures().join("data")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, data.join(path.file_name().unwrap())).unwrap();
    }
    let source: DataSource = folder.path().to_str().unwrap().parse().unwrap();
    holds_images_from(0, 8, &*source.open(Split::Train).unwrap());
    let file = data.join("test-00000-of-00001.parquet");
    let source: DataSource = format!("parquet:{}", file.display()).parse().unwrap();
    holds_images_from(8, 2, &*source.open(Split::Test).unwrap());
    std::fs::remove_file(data.join("train-00001-of-00002.parquet")).unwrap();
    let error = ParquetDataset::open(&data, Split::Train)
        .unwrap_err()
        .to_string();
    assert!(error.contains("only 1 of 2 files"), "{error}");
}

#[test]
fn rows_without_image_are_unreadable_and_negative_labels_are_none() {
    let dataset = ParquetDataset::open(&fixtures().join("plain.parquet"), Split::Train).unwrap();
    assert_eq!(
        (dataset.len(), dataset.classes(), dataset.label(0)),
        (3, 0, None)
    );
    assert_eq!(dataset.read(2).unwrap().pixels()[..3], [2, 4, 253]);
    let error = dataset.read(1).unwrap_err().to_string();
    assert!(
        error.contains("plain.parquet#1: the row holds no image"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_read_is_named() {
    let error = |path: &Path, split| ParquetDataset::open(path, split).unwrap_err().to_string();
    let none = error(&fixtures().join("none.parquet"), Split::Train);
    assert!(
        none.contains("no column of images; its columns are image, x"),
        "{none}"
    );
    let test = error(&fixtures().join("plain.parquet"), Split::Test);
    assert!(test.contains("no test split"), "{test}");
    let folder = tempfile::tempdir().unwrap();
    let empty = error(folder.path(), Split::Train);
    assert!(empty.contains("no parquet files"), "{empty}");
    let whole = std::fs::read(fixtures().join("plain.parquet")).unwrap();
    let cut = folder.path().join("cut.parquet");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let cut = error(&cut, Split::Train);
    assert!(cut.contains("cannot be read as parquet"), "{cut}");
    let missing: DataSource = "parquet:/no/such".parse().unwrap();
    let missing = missing.open(Split::Train).unwrap_err().to_string();
    assert!(missing.contains("does not exist"), "{missing}");
}

#[test]
fn labels_may_be_text_or_booleans() {
    let open = |name: &str, split| {
        let folder = fixtures().join("labels").join(name);
        ParquetDataset::open(&folder, split).unwrap()
    };
    let train = open("text", Split::Train);
    assert_eq!(train.class_names(), ["cat", "dog"]);
    let labels: Vec<_> = (0..3).map(|index| train.label(index)).collect();
    assert_eq!(labels, [Some(1), Some(0), Some(1)]);
    // Of two images the first is of a class that the train split lacks.
    let val = open("text", Split::Val);
    assert_eq!((val.len(), val.label(0), val.classes()), (1, Some(1), 2));
    assert_eq!(val.read(0).unwrap().pixels()[0], 4);
    assert!(val.name_of(0).ends_with("validation.parquet#1"));
    assert!(val.notes()[0].contains("does not have: eel"), "{val:?}");
    assert!(val.read(1).is_err());
    let bools = open("bool", Split::Train);
    assert_eq!(bools.class_names(), ["false", "true"]);
    assert_eq!((bools.label(0), bools.label(1)), (Some(1), Some(0)));
    // Images of parquet files are turned as they note.
    assert_eq!(bools.read(1).unwrap().size(), (1, 2));
    assert_eq!(bools.read(1).unwrap().pixels()[..3], [255; 3]);
    let stored = Reading {
        orientation: Orientation::Stored,
        ..Reading::default()
    };
    let folder = fixtures().join("labels/bool");
    let bools = ParquetDataset::open_with(&folder, Split::Train, &stored).unwrap();
    assert_eq!(bools.read(1).unwrap().size(), (2, 1));
}

#[test]
fn columns_are_chosen_by_their_order_or_by_name_and_that_is_said() {
    let folder = fixtures().join("labels/two");
    let two = ParquetDataset::open(&folder, Split::Train).unwrap();
    assert_eq!(two.read(0).unwrap().pixels()[0], 5);
    let notes = two.notes().join("; ");
    for part in [
        "column `source`",
        "another: `edited`",
        "`label` holds no number",
    ] {
        assert!(notes.contains(part), "{notes}");
    }
    let named = |name: &str| Reading {
        image_column: Some(name.to_owned()),
        ..Reading::default()
    };
    let edited = ParquetDataset::open_with(&folder, Split::Train, &named("edited")).unwrap();
    assert_eq!(edited.read(0).unwrap().pixels()[0], 6);
    let error = ParquetDataset::open_with(&folder, Split::Train, &named("x")).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("`image_column` is x") && error.contains("edited.bytes"),
        "{error}"
    );
    let path = ParquetDataset::open(&fixtures().join("labels/path"), Split::Train).unwrap();
    let error = path.read(0).unwrap_err().to_string();
    assert!(error.contains("only the path far/away.png"), "{error}");
}

#[test]
fn workers_read_the_same_file_at_once() {
    let train = ParquetDataset::open(&fixtures().join("data"), Split::Train).unwrap();
    let plan = ViewPlan {
        shared: vec![],
        views: vec![vec![Augment::ToChannels(ToChannels { channels: 3 })]],
    };
    let batches = |workers| {
        let config = LoaderConfig {
            batch_size: 4,
            workers,
            ..LoaderConfig::default()
        };
        let dataset = ParquetDataset::open(&fixtures().join("data"), Split::Train).unwrap();
        let loader = Loader::new(Arc::new(dataset), plan.clone(), config, 0).unwrap();
        let epoch = loader.epoch(0, 0).unwrap();
        let pixels = |view: &mim_core::View| view.pixels().flatten_all().unwrap().to_vec1::<u8>();
        epoch
            .map(|batch| pixels(&batch.unwrap().views[0]).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(batches(0), batches(4));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| holds_images_from(0, 8, &train));
        }
    });
}

#[cfg(feature = "hub")]
mod on_the_hub {
    use mim_core::hub::{Hub, HubPath, HubSettings, RepoKind};
    use mock_hub::{MockHub, Reply, Repository};

    use super::*;

    fn repository(folder: &str) -> Repository {
        let files = std::fs::read_dir(fixtures().join("data")).unwrap();
        files.fold(Repository::default(), |all, entry| {
            let entry = entry.unwrap();
            let name = format!("{folder}/{}", entry.file_name().into_string().unwrap());
            all.small(&name, std::fs::read(entry.path()).unwrap())
        })
    }

    fn path(text: &str) -> HubPath {
        HubPath::parse(text, RepoKind::Dataset).unwrap()
    }

    #[test]
    fn a_split_is_downloaded_and_then_read_offline() {
        let hub = MockHub::of(repository("data").small("README.md", "text"));
        let cache = tempfile::tempdir().unwrap();
        let mut settings = HubSettings::new(&hub.endpoint, cache.path());
        let client = Hub::new(settings.clone()).unwrap();
        let test = ParquetDataset::open_hub(&client, &path("hf:o/n"), Split::Test).unwrap();
        holds_images_from(8, 2, &test);
        let requests = hub.requests();
        assert_eq!(requests[0], "GET /api/datasets/o/n/revision/main");
        assert!(
            requests[1].starts_with("HEAD /datasets/o/n/resolve/"),
            "{requests:?}"
        );
        assert_eq!(
            requests.len(),
            3,
            "only the files of the split are asked for"
        );
        settings.offline = true;
        let offline = Hub::new(settings).unwrap();
        let test = ParquetDataset::open_hub(&offline, &path("hf:o/n"), Split::Test).unwrap();
        holds_images_from(8, 2, &test);
        let train = ParquetDataset::open_hub(&offline, &path("hf:o/n"), Split::Train);
        let error = train.unwrap_err().to_string();
        assert!(
            error.contains("no train split") && error.contains("cache"),
            "{error}"
        );
    }

    #[test]
    fn other_kinds_are_read_as_the_hub_converts_them() {
        let (own, converted) = (
            Repository::default().small("images.zip", "zip"),
            repository("default/x"),
        );
        let hub = MockHub::start(move |request| {
            let is_list = request.path.starts_with("/api/");
            match request.path.ends_with("refs%2Fconvert%2Fparquet") || !is_list {
                true => converted.answer(request),
                false => own.answer(request),
            }
        });
        let cache = tempfile::tempdir().unwrap();
        let client = Hub::new(HubSettings::new(&hub.endpoint, cache.path())).unwrap();
        let train = ParquetDataset::open_hub(&client, &path("hf:o/n"), Split::Train).unwrap();
        holds_images_from(0, 8, &train);
        let named = path("hf:o/n@refs/convert/parquet/default");
        assert!(ParquetDataset::open_hub(&client, &named, Split::Test).is_ok());
        let other = path("hf:o/n@refs/convert/parquet/other");
        let error = ParquetDataset::open_hub(&client, &other, Split::Test).unwrap_err();
        assert!(error.to_string().contains("no parquet files"), "{error}");
    }

    #[test]
    fn a_data_set_that_is_not_there_is_named() {
        let hub = MockHub::start(|_| Reply::new(404, "").with("X-Error-Code", "RepoNotFound"));
        let cache = tempfile::tempdir().unwrap();
        let client = Hub::new(HubSettings::new(&hub.endpoint, cache.path())).unwrap();
        let error = ParquetDataset::open_hub(&client, &path("hf:o/n"), Split::Train).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("hf:o/n") && error.contains("no such repository"),
            "{error}"
        );
    }
}
