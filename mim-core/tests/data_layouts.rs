//! How data sets may lie on a disk: folders with links and other files, lists, tar files, several of them.

#![expect(
    clippy::unwrap_used,
    reason = "functions beside the tests; the exception for tests covers test functions only"
)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use mim_core::augment::{Sample, ViewPlan};
use mim_core::data::{
    ArrayLayout, DataSource, Dataset, FolderDataset, ListDataset, Loader, LoaderConfig,
    Orientation, Reading, Split, TarDataset, ValueRange, decode,
};

/// A PNG of two by two pixels of one grey.
fn png(grey: u8) -> Vec<u8> {
    let mut bytes = vec![];
    let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    let pixels = [grey; 4];
    let kind = image::ExtendedColorType::L8;
    image::ImageEncoder::write_image(encoder, &pixels, 2, 2, kind).unwrap();
    bytes
}

fn put(path: impl AsRef<Path>, bytes: &[u8]) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Grey and class of each image.
fn seen(dataset: &dyn Dataset) -> Vec<(u8, String)> {
    let image = |index| {
        let label = dataset.label(index).map(|label| label as usize);
        let class = label.and_then(|label| dataset.class_names().get(label));
        let class = class.cloned().unwrap_or_default();
        (dataset.read(index).unwrap().pixels()[0], class)
    };
    (0..dataset.len()).map(image).collect()
}

fn of(grey: u8, class: &str) -> (u8, String) {
    (grey, class.to_owned())
}

fn has_note(dataset: &dyn Dataset, part: &str) -> bool {
    dataset.notes().iter().any(|note| note.contains(part))
}

#[test]
fn other_files_of_a_folder_are_counted_and_named() {
    let root = tempfile::tempdir().unwrap();
    put(root.path().join("a/0.png"), &png(1));
    put(root.path().join("a/1.JFIF"), &png(2));
    put(root.path().join("a/without_ending"), &png(3));
    put(root.path().join("b/0.xyz"), b"1 2 3");
    put(root.path().join("b/1.XYZ"), b"1 2 3");
    put(root.path().join("c/notes"), b"text");
    let folder = FolderDataset::open(root.path(), Split::Train).unwrap();
    assert_eq!(seen(&folder), [of(1, "a"), of(2, "a"), of(3, "a")]);
    assert!(
        has_note(&folder, "passed over 3 files of other kinds: 2 .xyz (as "),
        "{folder:?}"
    );
    assert!(has_note(&folder, "1 without an ending"), "{folder:?}");
    assert!(
        has_note(&folder, "no images in the folders b, c"),
        "{folder:?}"
    );
}

#[cfg(unix)]
#[test]
fn links_are_followed_once() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().unwrap();
    let pool = tempfile::tempdir().unwrap();
    put(pool.path().join("x/0.png"), &png(1));
    put(root.path().join("train/own/0.png"), &png(2));
    let train = root.path().join("train");
    symlink(pool.path().join("x"), train.join("linked")).unwrap();
    symlink(pool.path().join("x"), train.join("linked_again")).unwrap();
    symlink(&train, train.join("own/circle")).unwrap();
    symlink(train.join("own"), train.join("alias")).unwrap();
    symlink(root.path().join("gone.png"), train.join("own/gone.png")).unwrap();
    symlink(train.join("own/0.png"), train.join("own/1.png")).unwrap();
    let folder = FolderDataset::open(root.path(), Split::Train).unwrap();
    assert_eq!(seen(&folder), [of(1, "linked"), of(2, "own"), of(2, "own")]);
    assert!(
        has_note(&folder, "2 links to folders that are listed anyway"),
        "{folder:?}"
    );
    assert!(
        has_note(&folder, "1 folders that a link had led to before"),
        "{folder:?}"
    );
    assert!(has_note(&folder, "1 links that lead nowhere"), "{folder:?}");
}

#[test]
fn classes_that_the_train_split_lacks_are_left_out() {
    let root = tempfile::tempdir().unwrap();
    put(root.path().join("train/b/0.png"), &png(1));
    put(root.path().join("val/a/0.png"), &png(2));
    put(root.path().join("val/b/0.png"), &png(3));
    let val = FolderDataset::open(root.path(), Split::Val).unwrap();
    assert_eq!(seen(&val), [of(3, "b")]);
    assert!(has_note(
        &val,
        "left out 1 images of classes that the train split does not have: a"
    ));
}

#[test]
fn lists_say_labels_and_splits() {
    let root = tempfile::tempdir().unwrap();
    for grey in 0..5 {
        put(root.path().join(format!("img/{grey}.png")), &png(grey));
    }
    let open =
        |name: &str, split| ListDataset::open(&root.path().join(name), split, &Reading::default());
    let csv = "\u{feff}Split;path;Label\r\ntrain;img/0.png;dog\r\n\"train\";\"img/1.png\";cat\r\nvalid;img/2.png;dog\r\nvalid;img/3.png;eel\r\nextra;img/4.png;cat\r\ntrain;img/9.png;cat\r\n";
    put(root.path().join("all.csv"), csv.as_bytes());
    let train = open("all.csv", Split::Train).unwrap();
    assert_eq!(seen(&train), [of(0, "dog"), of(1, "cat")]);
    assert_eq!(train.class_names(), ["cat", "dog"]);
    assert!(
        has_note(
            &train,
            "left out 1 files of 3 that are not there: img/9.png"
        ),
        "{train:?}"
    );
    assert!(has_note(&train, "such as \"extra\""), "{train:?}");
    let val = open("all.csv", Split::Val).unwrap();
    assert_eq!((seen(&val), val.label(0)), (vec![of(2, "dog")], Some(1)));
    assert!(has_note(&val, "does not have: eel"), "{val:?}");
    let none = open("all.csv", Split::Test).unwrap_err().to_string();
    assert!(none.contains("no test split"), "{none}");

    let jsonl = "{\"file_name\": \"img/0.png\", \"label\": 10}\n\n{\"file_name\": \"img/1.png\", \"label\": 9}\n";
    put(
        root.path().join("j/train.jsonl"),
        jsonl.replace("img", "../img").as_bytes(),
    );
    put(
        root.path().join("j/test.tsv"),
        b"file\tclass\n../img/2.png\t10\n",
    );
    assert_eq!(
        seen(&open("j", Split::Train).unwrap()),
        [of(0, "10"), of(1, "9")]
    );
    let test = open("j", Split::Test).unwrap();
    assert_eq!((seen(&test), test.label(0)), (vec![of(2, "10")], Some(1)));

    put(root.path().join("files.txt"), b"img/3.png\nimg\n");
    let plain = open("files.txt", Split::Train).unwrap();
    assert_eq!((plain.len(), plain.classes()), (6, 0));
    assert!(open("files.txt", Split::Val).is_err());
}

#[test]
fn what_is_wrong_with_a_list_is_named() {
    let root = tempfile::tempdir().unwrap();
    let error = |text: &str, reading: &Reading| {
        let path = root.path().join("list.csv");
        put(&path, text.as_bytes());
        ListDataset::open(&path, Split::Train, reading)
            .unwrap_err()
            .to_string()
    };
    let plain = Reading::default();
    for (text, part) in [
        ("a,b\n1,2\n", "no column of paths; its columns are a, b"),
        (
            "path\nx.png\ny.png\n",
            "none of its 2 files is there, such as x.png",
        ),
        (
            "path,label\nx.png\n",
            "line 2 has 1 cells, and the first line 2",
        ),
        ("path,label\n,cat\n", "line 2 has no path"),
        ("path,label\n", "lists no images"),
    ] {
        let error = error(text, &plain);
        assert!(error.contains(part), "{error}");
    }
    let named = Reading {
        label_column: Some("x".to_owned()),
        ..plain
    };
    let error = error("path,label\nx.png,1\n", &named);
    assert!(
        error.contains("`label_column` is x") && error.contains("path, label"),
        "{error}"
    );
}

#[test]
#[cfg(target_os = "linux")]
fn devices_are_not_read_as_data() {
    let root = tempfile::tempdir().unwrap();
    for (name, source) in [("list.csv", "list"), ("a.tar", "tar")] {
        let path = root.path().join(name);
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let source: DataSource = format!("{source}:{}", path.display()).parse().unwrap();
        let error = source.open(Split::Train).err().unwrap().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}

/// A tar file of (name, bytes).
fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    builder(files).into_inner().unwrap()
}

/// The same, to be continued.
fn builder(files: &[(String, Vec<u8>)]) -> tar::Builder<Vec<u8>> {
    let mut builder = tar::Builder::new(vec![]);
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder
}

/// Shards of ten images each, `train-00.tar` and on, with labels by turns.
fn shards(root: &Path, count: u8) {
    for shard in 0..count {
        let mut files = vec![];
        for place in 0..10 {
            let (grey, class) = (shard * 10 + place, ["dog", "cat"][usize::from(place % 2)]);
            files.push((format!("{shard}/{grey:04}.cls"), class.as_bytes().to_vec()));
            files.push((format!("{shard}/{grey:04}.png"), png(grey)));
            files.push((format!("{shard}/{grey:04}.txt"), b"a caption".to_vec()));
        }
        put(root.join(format!("train-{shard:02}.tar")), &tar(&files));
    }
}

#[test]
fn samples_of_tar_files_are_read_by_index() {
    let root = tempfile::tempdir().unwrap();
    shards(root.path(), 3);
    let pattern = root.path().join("train-{00..02}.tar").display().to_string();
    let source: DataSource = pattern.parse().unwrap();
    let train = source.open(Split::Train).unwrap();
    assert_eq!(
        (train.len(), train.class_names()),
        (30, &["cat".to_owned(), "dog".to_owned()][..])
    );
    assert_eq!(seen(train.as_ref())[11..13], [of(11, "cat"), of(12, "dog")]);
    assert!(
        train.name_of(11).ends_with("train-01.tar#1/0011"),
        "{}",
        train.name_of(11)
    );
    assert!(has_note(train.as_ref(), "30 .txt"), "{train:?}");
    assert!(
        source
            .open(Split::Val)
            .unwrap_err()
            .to_string()
            .contains("no val split")
    );

    let missing: DataSource = pattern.replace("02}", "04}").parse().unwrap();
    let error = missing.open(Split::Train).unwrap_err().to_string();
    assert!(
        error.contains("2 of its 5 files are not there") && error.contains("train-03.tar"),
        "{error}"
    );
    let whole = fs::read(root.path().join("train-01.tar")).unwrap();
    put(
        root.path().join("train-01.tar"),
        &whole[..whole.len() / 2 + 700],
    );
    let error = source.open(Split::Train).unwrap_err().to_string();
    assert!(error.contains("train-01.tar"), "{error}");
}

#[test]
fn labels_of_tar_files_are_chosen_by_name() {
    let root = tempfile::tempdir().unwrap();
    let json = |label: &str| format!("{{\"label\": {label}, \"other\": true}}").into_bytes();
    let file = |name: &str, bytes: Vec<u8>| (name.to_owned(), bytes);
    let files = [
        file("a.jpg.png", png(1)),
        file("a.json", json("7")),
        file("b.png", png(2)),
        file("b.depth.png", png(3)),
        file("b.json", json("\"7\"")),
        file("c.json", json("8")),
    ];
    put(root.path().join("x.tar"), &tar(&files));
    let open = |reading: &Reading| TarDataset::open(root.path(), Split::Train, reading).unwrap();
    let plain = open(&Reading::default());
    assert_eq!(seen(&plain), [of(1, "7"), of(2, "7")]);
    assert!(
        has_note(&plain, "1 further images of samples, .depth.png"),
        "{plain:?}"
    );
    assert!(has_note(&plain, "1 samples without an image"), "{plain:?}");
    let other = open(&Reading {
        image_column: Some("depth.png".to_owned()),
        label_column: Some("other".to_owned()),
        ..Reading::default()
    });
    assert_eq!(seen(&other), [of(3, "true")]);
}

#[test]
fn arrays_in_tar_files_are_images_if_their_axes_are_known() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
    let read = |name: &str| fs::read(fixtures.join(name)).unwrap();
    let root = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: Vec<u8>| (name.to_owned(), bytes);
    let files = [
        file("a.npy", read("hwc_f32.npy")),
        file("a.cls", b"7".to_vec()),
        file("b.npz", read("arrays.npz")),
        file("b.cls", b"8".to_vec()),
        file("c.png", png(5)),
        file("c.npy", read("grey_f64.npy")),
        file("c.cls", b"8".to_vec()),
    ];
    put(root.path().join("x.tar"), &tar(&files));
    let source = DataSource::Tar(root.path().to_owned());
    let open = |reading: &Reading| source.open_with(Split::Train, reading);
    let values = Reading {
        range: Some(ValueRange::Dtype),
        ..Reading::default()
    };
    let arrays = Reading {
        array_layout: Some(ArrayLayout::Hwc),
        array_key: Some("bands".to_owned()),
        ..values.clone()
    };
    let found = open(&arrays).unwrap();
    assert_eq!(
        (found.len(), found.class_names()),
        (3, &["7".to_owned(), "8".to_owned()][..])
    );
    // The same as from a folder.
    let copies = tempfile::tempdir().unwrap();
    put(copies.path().join("a.npy"), &read("hwc_f32.npy"));
    put(copies.path().join("b.npz"), &read("arrays.npz"));
    let folder = DataSource::Folder(copies.path().to_owned());
    let folder = folder.open_with(Split::Train, &arrays).unwrap();
    for index in 0..2 {
        let (one, other) = (found.read(index).unwrap(), folder.read(index).unwrap());
        assert_eq!(one.values(), other.values());
        assert_eq!(
            (one.size(), one.channels(), one.depth()),
            (other.size(), other.channels(), other.depth())
        );
    }
    assert_eq!(found.read(0).unwrap().channels(), 12);
    assert_eq!(found.read(2).unwrap().channels(), 1);
    assert!(
        has_note(found.as_ref(), "1 further images of samples, .npy"),
        "{found:?}"
    );
}

#[test]
fn arrays_in_tar_files_are_other_files_if_their_axes_are_not_known() {
    let root = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: Vec<u8>| (name.to_owned(), bytes);
    let files = [
        file("a.npy", vec![1]),
        file("b.npz", vec![2]),
        file("c.png", png(5)),
        file("c.npy", vec![3]),
    ];
    let source = DataSource::Tar(root.path().to_owned());
    let values = Reading {
        range: Some(ValueRange::Dtype),
        ..Reading::default()
    };
    let open = || source.open_with(Split::Train, &values);
    put(root.path().join("x.tar"), &tar(&files));
    let plain = open().unwrap();
    assert_eq!(plain.len(), 1);
    for part in ["2 .npy", "1 .npz"] {
        assert!(has_note(plain.as_ref(), part), "{plain:?}");
    }
    put(root.path().join("x.tar"), &tar(&files[..1]));
    let error = open().unwrap_err().to_string();
    for part in ["1 .npy", "data.array_layout"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_missing_label_and_links_are_named() {
    let root = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    let files = [
        file("a.png", &png(1)),
        file("a.cls", b"7"),
        file("b.png", &png(2)),
    ];
    let mut builder = builder(&files);
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "c.png", "a.png").unwrap();
    put(root.path().join("x.tar"), &builder.into_inner().unwrap());
    let found = TarDataset::open(root.path(), Split::Train, &Reading::default()).unwrap();
    assert_eq!((found.len(), found.classes()), (2, 0));
    assert!(has_note(&found, "1 images have no label"), "{found:?}");
    assert!(has_note(&found, "1 links and other entries"), "{found:?}");
}

#[test]
fn shards_are_read_in_windows_by_each_process_its_own() {
    let root = tempfile::tempdir().unwrap();
    shards(root.path(), 4);
    let dataset: Arc<dyn Dataset> =
        Arc::new(TarDataset::open(root.path(), Split::Train, &Reading::default()).unwrap());
    let order = |rank, start, workers| -> Vec<u32> {
        let config = LoaderConfig {
            batch_size: 5,
            workers,
            shuffle_window: Some(4),
            ..LoaderConfig::default()
        };
        let loader = Loader::new(dataset.clone(), ViewPlan::default(), config, 3).unwrap();
        let loader = loader.sharded(rank, 2).unwrap();
        let batches = loader.epoch(1, start).unwrap();
        batches.flat_map(|batch| batch.unwrap().indices).collect()
    };
    let (first, second) = (order(0, 0, 2), order(1, 0, 0));
    assert_eq!(order(0, 2, 1), first[10..]);
    let shards_of = |order: &[u32]| {
        order
            .iter()
            .map(|index| index / 10)
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert!(shards_of(&first).is_disjoint(&shards_of(&second)));
    assert_ne!(first, {
        let mut sorted = first.clone();
        sorted.sort_unstable();
        sorted
    });
    let embedded = DataSource::Embedded.open(Split::Train).unwrap();
    let config = LoaderConfig {
        shuffle_window: Some(4),
        ..LoaderConfig::default()
    };
    let error = Loader::new(embedded, ViewPlan::default(), config, 3)
        .unwrap_err()
        .to_string();
    assert!(error.contains("shuffle_window"), "{error}");
}

#[test]
fn sources_are_joined_by_the_names_of_their_classes() {
    let root = tempfile::tempdir().unwrap();
    put(root.path().join("x/train/b/0.png"), &png(1));
    put(root.path().join("x/val/b/0.png"), &png(2));
    put(root.path().join("y/a/0.png"), &png(3));
    put(root.path().join("y/b/0.png"), &png(4));
    let text = format!("{0}/x + folder:{0}/y", root.path().display());
    let both: DataSource = text.parse().unwrap();
    let train = both.open(Split::Train).unwrap();
    assert_eq!(seen(train.as_ref()), [of(1, "b"), of(3, "a"), of(4, "b")]);
    let val = both.open(Split::Val).unwrap();
    assert_eq!(
        (seen(val.as_ref()), val.label(0)),
        (vec![of(2, "b")], Some(1))
    );
    assert!(has_note(val.as_ref(), "has no val split"), "{val:?}");
    assert!(both.open(Split::Test).is_err());
}

#[test]
fn choices_without_a_use_are_refused() {
    let column = Reading {
        image_column: Some("x".to_owned()),
        ..Reading::default()
    };
    let error = DataSource::Embedded
        .open_with(Split::Train, &column)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("image_column") && error.contains("embedded has no columns"),
        "{error}"
    );
    let turned = Reading {
        orientation: Orientation::Turned,
        ..Reading::default()
    };
    let error = DataSource::Embedded
        .open_with(Split::Train, &turned)
        .unwrap_err()
        .to_string();
    assert!(error.contains("orientation"), "{error}");
}

#[test]
fn images_are_turned_if_that_is_asked_for() {
    // Black above white, noted to be shown a quarter turn to the right.
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("a/0.png");
    let exif = [
        b"MM\0\x2a\0\0\0\x08\0\x01".as_slice(),
        b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
    ]
    .concat();
    let mut bytes = vec![];
    let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    image::ImageEncoder::set_exif_metadata(&mut encoder, exif).unwrap();
    let kind = image::ExtendedColorType::L8;
    image::ImageEncoder::write_image(encoder, &[0, 255], 1, 2, kind).unwrap();
    put(&file, &bytes);
    let stored = decode(&file).unwrap();
    assert_eq!((stored.size(), stored.pixels()[0]), ((2, 1), 0));
    let reading = Reading {
        orientation: Orientation::Turned,
        ..Reading::default()
    };
    let turned: Sample = FolderDataset::open_with(root.path(), Split::Train, &reading)
        .unwrap()
        .read(0)
        .unwrap();
    assert_eq!((turned.size(), turned.pixels()[0]), ((1, 2), 255));
}
