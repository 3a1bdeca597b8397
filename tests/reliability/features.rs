//! `mim features` goes on where it was interrupted, to the same bytes.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{content, errors, mim, preload, pretrain, succeeds};

/// A trained encoder of batches of two, and seven images and one that cannot be read.
struct Bench {
    dir: tempfile::TempDir,
    library: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = ["--epochs", "1", "--no-eval", "--set", "eval.batch_size=2"];
        succeeds(&pretrain(dir.path(), "run", &settings).output().unwrap());
        fs::write(dir.path().join("images/train/a/2.png"), "none").unwrap();
        let library = preload(dir.path());
        Self { dir, library }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes features into an own folder.
    fn features(&self, name: &str, more: &[&str]) -> Command {
        let output = self.path("out").join(name);
        fs::create_dir_all(output.parent().unwrap()).unwrap();
        let mut command = mim(&["features", "--checkpoint"]);
        command.arg(self.path("run")).arg("--output").arg(output);
        command.args(["--threads", "1"]).args(more);
        command
    }

    /// The same, of which the change number `at` below the folder fails.
    fn faulty(&self, name: &str, kind: &str, at: usize) -> Command {
        let mut command = self.features(name, &[]);
        command.env("LD_PRELOAD", &self.library);
        command.env("FAULT_UNDER", self.path("out"));
        command.env("FAULT_KIND", kind);
        command.env("FAULT_AT", at.to_string());
        command
    }

    /// What lies in the folder, which is emptied.
    fn take(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let found = content(&self.path("out"));
        fs::remove_dir_all(self.path("out")).unwrap();
        found
    }

    /// What an undisturbed command writes, and the number of its changes.
    fn whole(&self, name: &str) -> (Vec<(PathBuf, Vec<u8>)>, usize) {
        let log = self.path("changes");
        let mut command = self.faulty(name, "none", 0);
        command.env("FAULT_LOG", &log);
        succeeds(&command.output().unwrap());
        let changes = fs::read_to_string(&log).unwrap().lines().count();
        fs::remove_file(log).unwrap();
        (self.take(), changes)
    }
}

#[test]
fn interrupted_features_are_those_of_one_command() {
    let bench = Bench::new();
    for (name, step) in [("f.npy", 1), ("f.safetensors", 5)] {
        let (whole, changes) = bench.whole(name);
        let names: Vec<_> = whole.iter().map(|(path, _)| path.clone()).collect();
        assert_eq!(names, [Path::new("f.csv"), Path::new(name)]);
        let mut went_on = 0;
        for (shift, kind) in ["kill", "full", "error"].into_iter().enumerate() {
            let step = if kind == "kill" { step } else { 3 * step };
            for at in (shift..changes).step_by(step) {
                let output = bench.faulty(name, kind, at).output().unwrap();
                let told = errors(&output);
                let ended = match kind {
                    "kill" => output.status.signal() == Some(9),
                    // After the last write a full disk does no harm.
                    "full" if output.status.success() => true,
                    _ => output.status.code() == Some(1) && told.contains("/out"),
                };
                assert!(ended, "{kind} {at}: {:?} {told}", output.status);
                let again = succeeds(&bench.features(name, &[]).output().unwrap());
                went_on += usize::from(again.contains("continuing after"));
                assert!(again.contains("1 images could not be read"), "{again}");
                assert!(bench.take() == whole, "{name} {kind} {at}: {again}");
            }
        }
        assert!(went_on > 4, "{went_on}");
    }
}

#[test]
fn rows_of_other_settings_are_not_mixed() {
    let bench = Bench::new();
    let (whole, changes) = bench.whole("f.npy");
    let interrupt = || bench.faulty("f.npy", "kill", changes / 2).status().unwrap();
    let again = |more: &[&str]| succeeds(&bench.features("f.npy", more).output().unwrap());
    let part = bench.path("out/f.npy.part");
    let refused = |more: &[&str], what: &str| {
        let before = fs::read(&part).unwrap();
        let output = bench.features("f.npy", more).output().unwrap();
        let told = errors(&output);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            told.contains(what) && told.contains("remove this file"),
            "{told}"
        );
        assert!(fs::read(&part).unwrap() == before);
    };

    // With other settings nothing is lost.
    interrupt();
    refused(&["--tokens"], "other pooling left these rows");
    again(&[]);
    assert!(bench.take() == whole);

    // A byte of a row has changed.
    interrupt();
    let mut bytes = fs::read(&part).unwrap();
    bytes[130] ^= 1;
    fs::write(&part, bytes).unwrap();
    let said = again(&[]);
    assert!(
        said.contains("are damaged, so all of them are computed again"),
        "{said}"
    );
    assert!(bench.take() == whole);

    // The images have changed.
    interrupt();
    let image = bench.path("images/train/b/0.png");
    let old = fs::read(&image).unwrap();
    fs::copy(bench.path("images/train/b/1.png"), &image).unwrap();
    refused(&[], "other images left these rows");
    fs::write(&image, old).unwrap();
    bench.take();

    // A table of somebody else is no table of rows.
    fs::create_dir_all(bench.path("out")).unwrap();
    fs::write(bench.path("out/f.csv"), "path,label\na.png,cat\n").unwrap();
    let output = bench.features("f.npy", &[]).output().unwrap();
    let told = errors(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        told.contains("f.csv") && told.contains("another --output"),
        "{told}"
    );
    assert_eq!(bench.take().len(), 1);

    // Another process is at it.
    interrupt();
    let file = fs::File::open(&part).unwrap();
    file.lock().unwrap();
    let output = bench.features("f.npy", &[]).output().unwrap();
    let told = errors(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("another process writes this file"), "{told}");
}

#[test]
fn tokens_have_the_features_as_their_mean() {
    let bench = Bench::new();
    let read = |more: &[&str]| {
        succeeds(&bench.features("f.safetensors", more).output().unwrap());
        let file = bench.path("out/f.safetensors");
        let read = mim::prelude::WeightMap::read(file).unwrap();
        bench.take();
        read.get("features").unwrap().clone()
    };
    let (features, tokens) = (read(&[]), read(&["--tokens"]));
    assert_eq!(
        (features.dims(), tokens.dims()),
        (&[7, 8][..], &[7, 4, 8][..])
    );
    let means = tokens.mean(1).unwrap();
    let far = (means - features)
        .unwrap()
        .abs()
        .unwrap()
        .max_all()
        .unwrap();
    assert!(far.to_scalar::<f32>().unwrap() < 1e-6);
}
