//! What fuzz targets do with bytes.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mim::RunConfig;
use mim::methods::parity::find;
use mim_core::data::{
    ArrayLayout, DataSource, Orientation, Reading, Split, TiffPages, ValueRange, decode,
};
use mim_core::hub::{Hub, HubPath, HubSettings, RepoKind};
use mim_core::weights::{Guess, Source, WeightFile, look};

/// What reads the bytes of a target.
type Target = fn(&[u8]);

/// All targets by name. Each has a file in `fuzz_targets` and a folder in `corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("cifar", cifar),
    ("clouds", clouds),
    ("deep_image", deep_image),
    ("golden", golden),
    ("hub", hub),
    ("idx", idx),
    ("image", image),
    ("image_list", image_list),
    ("index", index),
    ("safetensors", safetensors),
    ("settings", settings),
    ("tar", tar),
    ("torch", torch),
];

/// Stands between the files of a target that reads several.
const NEXT: &[u8] = b"\n=====\n";

/// A file of PyTorch or numpy, and whatever else may carry such a name.
pub fn torch(bytes: &[u8]) {
    weights("model.pth", bytes);
}

/// A file of safetensors.
pub fn safetensors(bytes: &[u8]) {
    weights("model.safetensors", bytes);
}

/// The index of weights in several files.
pub fn index(bytes: &[u8]) {
    weights("model.safetensors.index.json", bytes);
}

/// Reads `bytes` as a file of weights of this name, and goes on with what it holds as the program does.
fn weights(name: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    let opened = [None, Some("."), Some("model")].map(|key| WeightFile::open(&path, key));
    for file in opened.into_iter().flatten() {
        look(&file.weights);
        for guess in Guess::best(&file.weights).into_iter().take(3) {
            let _ = Source::named(guess.source).and_then(|source| source.import(&file.weights));
        }
    }
}

/// The settings of a run, as checkpoints and exports carry them (`config.json`).
pub fn settings(bytes: &[u8]) {
    let Ok(json) = serde_json::from_slice(bytes) else {
        return;
    };
    if let Ok(config) = RunConfig::from_json(&json) {
        let again = RunConfig::from_json(&config.to_json().unwrap());
        assert_eq!(again.unwrap(), config);
    }
}

/// An image of any format as RGB.
pub fn image(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    fs::write(&path, bytes).unwrap();
    if let Ok(sample) = decode(&path) {
        let (height, width) = sample.size();
        assert_eq!(sample.pixels().len(), height * width * 3);
    }
}

/// An image of any channels and depth: TIFF with all its pages, and arrays.
pub fn deep_image(bytes: &[u8]) {
    for (name, layout) in [
        ("a.tif", ArrayLayout::Hwc),
        ("a.npy", ArrayLayout::Chw),
        ("a.npz", ArrayLayout::Hwc),
    ] {
        let reading = Reading {
            orientation: Orientation::Turned,
            range: Some(ValueRange::Dtype),
            array_layout: Some(layout),
            tiff_pages: TiffPages::Channels,
            ..Reading::default()
        };
        data(
            "folder",
            "",
            &[(&format!("train/class/{name}"), bytes)],
            &reading,
        );
    }
}

/// A tar file of images and labels.
pub fn tar(bytes: &[u8]) {
    data(
        "tar",
        "train.tar",
        &[("train.tar", bytes)],
        &Reading::default(),
    );
}

/// Images of MNIST's format, then labels.
pub fn idx(bytes: &[u8]) {
    let names = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"];
    let files: Vec<_> = names.into_iter().zip(parts(bytes)).collect();
    data("idx", "", &files, &Reading::default());
}

/// Records of CIFAR-10 and of CIFAR-100.
pub fn cifar(bytes: &[u8]) {
    for name in ["data_batch_1.bin", "train.bin"] {
        data("cifar", "", &[(name, bytes)], &Reading::default());
    }
}

/// A list of images, of each kind, beside the one image `a.pgm`. Lists that could name other folders are not read: a
/// line may stand for all images below a folder.
pub fn image_list(bytes: &[u8]) {
    let is_part = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    if is_part(b"/") || is_part(b"..") || is_part(b"\\") {
        return;
    }
    for name in ["list.csv", "list.tsv", "list.jsonl", "list.txt"] {
        let files = [(name, bytes), ("a.pgm", b"P5 1 1 255 \0")];
        data("list", name, &files, &Reading::default());
    }
}

/// A point cloud of each kind.
pub fn clouds(bytes: &[u8]) {
    for kind in ["npy", "npz", "off", "ply", "xyz"] {
        let name = format!("train/class/cloud.{kind}");
        data("clouds", "", &[(&name, bytes)], &Reading::default());
    }
}

/// Opens the training images of a source with these files, and reads the first of them.
fn data(kind: &str, at: &str, files: &[(&str, &[u8])], reading: &Reading) {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let source = format!("{kind}:{}", folder.path().join(at).display());
    let source: DataSource = source.parse().unwrap();
    let Ok(images) = source.open_with(Split::Train, reading) else {
        return;
    };
    for index in 0..images.len().min(8) {
        let _ = images.read(index);
        if let Some(label) = images.label(index) {
            assert!((label as usize) < images.classes());
        }
        images.name_of(index);
    }
}

/// A golden case: its description, then its tensors.
pub fn golden(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in ["case.json", "case.safetensors"]
        .into_iter()
        .zip(parts(bytes))
    {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    for case in find(folder.path()).into_iter().flatten() {
        let _ = (case.name(), case.tolerance());
    }
}

/// Answers of a Hub to requests, in turn: about the list of files, then about one of them. No other address is asked:
/// answers lose the line that leads to another.
pub fn hub(bytes: &[u8]) {
    let answers: Vec<_> = parts(bytes).map(without_location).collect();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let seen_over = Arc::clone(&is_over);
    // No scoped thread: if the client panicked, its end would be waited for.
    let serving = std::thread::spawn(move || {
        for answer in answers.iter().cycle() {
            let (stream, _) = server.accept().unwrap();
            if seen_over.load(Ordering::SeqCst) {
                return;
            }
            // The client may have gone already.
            let _ = reply(stream, answer);
        }
    });
    ask(&format!("http://{address}"));
    is_over.store(true, Ordering::SeqCst);
    TcpStream::connect(address).unwrap();
    serving.join().unwrap();
}

fn ask(endpoint: &str) {
    let cache = tempfile::tempdir().unwrap();
    let mut settings = HubSettings::new(endpoint, cache.path());
    settings.first_wait = Duration::from_millis(1);
    settings.longest_stall = Duration::from_millis(100);
    let path = HubPath::parse("hf:owner/name/a.safetensors", RepoKind::Model).unwrap();
    let hub = Hub::new(settings).unwrap();
    let _ = hub.list(&path);
    if let Ok(file) = hub.file(&path) {
        assert!(Path::new(&file).starts_with(cache.path()));
    }
}

fn reply(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        request.extend(byte);
    }
    stream.write_all(answer)
}

fn without_location(answer: &[u8]) -> Vec<u8> {
    let is_location = |line: &&[u8]| line.to_ascii_lowercase().starts_with(b"location");
    let lines = answer.split_inclusive(|byte| *byte == b'\n');
    lines
        .filter(|line| !is_location(line))
        .flatten()
        .copied()
        .collect()
}

/// The files that `bytes` stand for.
fn parts(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let end = bytes.windows(NEXT.len()).position(|part| part == NEXT);
        let (part, after) = match end {
            Some(end) => (&bytes[..end], Some(&bytes[end + NEXT.len()..])),
            None => (bytes, None),
        };
        rest = after;
        Some(part)
    })
}
