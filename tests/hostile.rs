//! The seed corpus of the fuzz targets: no file may panic, hang, or ask for much memory.
//!
//! The files: scripts/make_hostile_files.py. Every reader is bounded by some times the size of its file.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(unreachable_pub, reason = "the fuzz targets use it too")]
#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mim_core::weights::WeightFile;

/// More than any file of the corpus may take, on a slow and busy machine too.
const LONGEST: Duration = Duration::from_secs(20);
/// The bound that is stated for small files (64 MiB), three tries at one file, and the test itself.
const MOST_KIB: u64 = 400 << 10;

fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let files = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 5, "{target}");
    files
}

/// The most memory that this process has had, where the system says.
fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Names of the files in a folder of the fuzz targets, without their endings.
fn names(folder: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz")
        .join(folder);
    let files = std::fs::read_dir(folder).unwrap();
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let mut names: Vec<_> = files.map(|file| stem(file.unwrap().path())).collect();
    names.sort();
    names
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let targets: Vec<_> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
}

#[test]
fn the_corpus_ends_in_answers_or_errors_soon_and_in_bounds() {
    for (target, read) in fuzz::TARGETS {
        for path in corpus(target) {
            let bytes = std::fs::read(&path).unwrap();
            let start = Instant::now();
            read(&bytes);
            let took = start.elapsed();
            assert!(took < LONGEST, "{}: {took:?}", path.display());
            if let Some(peak) = peak_kib() {
                assert!(peak < MOST_KIB, "{}: {peak} KiB", path.display());
            }
        }
    }
}

/// What is whole in the corpus is read, and the rest is refused for its own reason.
#[test]
fn the_corpus_is_refused_for_what_is_wrong_with_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/torch");
    let open = |name: &str| WeightFile::open(folder.join(name), None);
    for name in [
        "whole.pth",
        "plain.pth",
        "zero_of_many.pth",
        "in_itself.pth",
    ] {
        open(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for (name, part) in [
        ("half.pth", "zip archive"),
        ("huge_shape.pth", "too large"),
        ("huge_stride.pth", "exceeds its storage"),
        ("huge_offset.pth", "exceeds its storage"),
        ("beyond.pth", "its storage has 4"),
        ("repeated.pth", "its storage has 4"),
        ("no_storage.pth", "m/data/0"),
        ("compressed_storage.pth", "compressed"),
        ("shared_by_many.pth", "times the size of the file"),
        ("overlapping.pth", "overlap"),
        ("zeros.npz", "times the size of the file"),
        ("huge.npz", "too large"),
        ("short.npz", "needs 16 bytes"),
        ("longer.npz", "and more"),
        ("long_header.npz", "header"),
        ("deep.pth", "cut short"),
    ] {
        let error = open(name).unwrap_err().to_string();
        assert!(error.contains(part), "{name}: `{part}` is not in: {error}");
    }
    let all = |name: &str| WeightFile::open(folder.join(name), Some(".")).unwrap_err();
    assert!(all("long_names.pth").to_string().contains("a name has"));
}
