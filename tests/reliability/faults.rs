//! A run keeps what it has when any of its changes of a file fails, or the process ends there.
//!
//! `preload.c` is loaded into the program and lets one change fail. The short form takes a few of them; all are
//! tried by `scripts/attack/faults.sh`.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{content, images, log, mim, preload, succeeds};

/// Methods with their sizes: an encoder alone, and one with a teacher.
const METHODS: [(&str, &[&str]); 2] = [
    ("mae", &[DECODER]),
    ("bootmae", &[DECODER, FEATURE_DECODER, MASKER]),
];
const DECODER: &str = "decoder={ embed_dim = 8, depth = 1, num_heads = 2 }";
const FEATURE_DECODER: &str = "feature_decoder={ embed_dim = 8, depth = 1, num_heads = 2 }";
const MASKER: &str = "masker={ hidden = { type = \"patches\", count = 2 }, blocks = { hidden = { type = \"patches\", count = 2 }, min_block = 1, max_block = 2 } }";
const ENCODER: &str =
    "encoder={ image_size = 16, patch_size = 8, embed_dim = 8, depth = 1, num_heads = 2 }";
/// An epoch is so many steps, and a run so many epochs.
const STEPS: usize = 2;
const EPOCHS: usize = 3;

/// What a run does where the fault meets it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Course {
    /// It starts.
    Fresh,
    /// It goes on after an epoch.
    Resumed,
    /// It replaces another one.
    Overwriting,
    /// It is asked to end when an epoch has ended.
    Stopped,
}

/// Images, programs and reference runs of one method.
struct Bench {
    dir: tempfile::TempDir,
    library: PathBuf,
    method: usize,
    keep: usize,
}

impl Bench {
    fn new(method: usize, keep: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let library = preload(dir.path());
        images(&dir.path().join("images"));
        let bench = Self {
            dir,
            library,
            method,
            keep,
        };
        bench.prepare();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The reference, a run of another seed, and one that ended after an epoch.
    fn prepare(&self) {
        for (name, seed) in [("whole", "0"), ("other", "1")] {
            let done = self.command(&self.path(name), &["--seed", seed]).output();
            succeeds(&done.unwrap());
        }
        let part = self.path("part");
        let whole = self.count(&["--seed", "0"]);
        let end = position(&whole, "rename", &format!("checkpoints/step-{STEPS}"));
        let mut command = self.command(&part, &["--seed", "0"]);
        self.fault(&mut command, &part, ("stop", end), None);
        assert_eq!(command.output().unwrap().status.code(), Some(130));
        assert_eq!(log(&part).len(), 1);
    }

    /// The changes that a run from scratch makes.
    fn count(&self, more: &[&str]) -> Vec<String> {
        let run = self.path("counted");
        self.changes(&run, more)
    }

    fn changes(&self, run: &Path, more: &[&str]) -> Vec<String> {
        let log = self.path("changes");
        let mut command = self.command(run, more);
        command.env("LD_PRELOAD", &self.library);
        command.env("FAULT_UNDER", run).env("FAULT_LOG", &log);
        succeeds(&command.output().unwrap());
        let text = fs::read_to_string(&log).unwrap();
        fs::remove_file(log).unwrap();
        fs::remove_dir_all(run).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn command(&self, run: &Path, more: &[&str]) -> Command {
        let (method, settings) = METHODS[self.method];
        let mut command = mim(&["pretrain", "--method", method, "--threads", "1"]);
        command.args(["--epochs", &EPOCHS.to_string(), "--batch-size", "4"]);
        command.args(["--workers", "0", "--set", ENCODER]);
        for sizes in settings {
            command.args(["--set", sizes]);
        }
        let images = format!("folder:{}", self.path("images").display());
        command.args(["--data", &images, "--set"]);
        command.arg(format!("train.keep_checkpoints={}", self.keep));
        command.arg("--output-dir").arg(run).args(more);
        command
    }

    fn fault(
        &self,
        command: &mut Command,
        run: &Path,
        (kind, at): (&str, usize),
        then: Option<usize>,
    ) {
        command.env("LD_PRELOAD", &self.library);
        command.env("FAULT_UNDER", run).env("FAULT_KIND", kind);
        command.env("FAULT_AT", at.to_string());
        if let Some(then) = then {
            command.env("FAULT_THEN", then.to_string());
        }
    }

    /// Lets the change number `at` of a course fail, resumes, and compares with the reference.
    fn attack(&self, course: Course, kind: &str, at: usize, end: usize) {
        let name = format!(
            "{:?} keep {} {course:?} {kind} {at}",
            METHODS[self.method].0, self.keep
        );
        let run = self.path("run");
        let before = match course {
            Course::Resumed => Some("part"),
            Course::Overwriting => Some("other"),
            Course::Fresh | Course::Stopped => None,
        };
        if let Some(before) = before {
            copy(&self.path(before), &run);
        }
        let mut command = self.command(&run, course.arguments());
        match course {
            Course::Stopped => self.fault(&mut command, &run, ("stop", end), Some(at)),
            _ => self.fault(&mut command, &run, (kind, at), None),
        }
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let killed = output.status.signal() == Some(9);
        let told = match output.status.code() {
            _ if kind == "kill" => killed || course == Course::Stopped,
            Some(1) => errors.contains("error: ") && errors.contains("/run"),
            Some(0) => errors.contains("warning: ") && errors.contains("/run"),
            _ => false,
        };
        assert!(told && !errors.contains("panicked"), "{name}\n{errors}");
        self.resume(&run, &name);
        fs::remove_dir_all(&run).unwrap();
    }

    fn resume(&self, run: &Path, name: &str) {
        let mut resume = self.command(run, &["--seed", "0", "--resume", "auto"]);
        let output = resume.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        if errors.contains("was started with other settings") {
            // It had not begun to replace the other run.
            let last = format!("checkpoints/step-{}", EPOCHS * STEPS);
            assert!(content(&run.join(&last)) == content(&self.path("other").join(&last)));
            let overwrite = self.command(run, Course::Overwriting.arguments()).output();
            succeeds(&overwrite.unwrap());
        } else {
            assert!(output.status.success(), "{name}\n{errors}");
        }
        let whole = self.path("whole");
        assert_eq!(log(run), log(&whole), "{name}");
        for file in ["checkpoints", "loss.svg", "config.toml"] {
            assert!(
                content(&run.join(file)) == content(&whole.join(file)),
                "{name}: {file}\n{errors}"
            );
        }
        for (path, _) in content(run) {
            let path = path.display().to_string();
            let left = [".tmp", ".old", ".removed", "clearing"];
            assert!(!left.iter().any(|end| path.contains(end)), "{name}: {path}");
        }
    }
}

impl Course {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Fresh | Self::Stopped => &["--seed", "0"],
            Self::Resumed => &["--seed", "0", "--resume", "auto"],
            Self::Overwriting => &["--seed", "0", "--overwrite"],
        }
    }

    /// The changes that it makes, and where it is asked to end.
    fn changes(self, bench: &Bench) -> (usize, usize) {
        let run = bench.path("run");
        match self {
            Self::Resumed => copy(&bench.path("part"), &run),
            Self::Overwriting => copy(&bench.path("other"), &run),
            Self::Fresh | Self::Stopped => {}
        }
        let all = bench.changes(&run, self.arguments());
        let end = match self {
            Self::Stopped => position(&all, "rename", &format!("checkpoints/step-{STEPS}")),
            _ => 0,
        };
        (all.len(), end)
    }
}

fn position(changes: &[String], what: &str, end: &str) -> usize {
    let is_it = |change: &String| change.contains(what) && change.ends_with(end);
    changes.iter().position(is_it).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &to),
            false => fs::copy(&path, &to).map(drop).unwrap(),
        }
    }
}

const COURSES: [Course; 4] = [
    Course::Fresh,
    Course::Resumed,
    Course::Overwriting,
    Course::Stopped,
];

/// Tries `most` changes of each course and kind of fault, spread over all.
fn attack(method: usize, keep: usize, most: usize) -> usize {
    let bench = Bench::new(method, keep);
    let mut tries = 0;
    for course in COURSES {
        let (changes, end) = course.changes(&bench);
        let kinds: &[&str] = match course {
            Course::Stopped => &["kill"],
            _ => &["kill", "full", "error"],
        };
        for (shift, kind) in kinds.iter().enumerate() {
            let first = match course {
                // What follows the signal.
                Course::Stopped => end + 1,
                _ => 0,
            };
            let step = (changes - first).div_ceil(most).max(1);
            for at in (first + (shift + keep) % step..changes).step_by(step) {
                bench.attack(course, kind, at, end);
                tries += 1;
            }
        }
    }
    tries
}

#[test]
fn some_faults_lose_nothing() {
    assert!(attack(0, 1, 2) > 15);
}

#[test]
#[ignore = "long: scripts/attack/faults.sh"]
fn no_fault_loses_anything() {
    let only = std::env::var("FAULTS_OF").ok();
    for (method, (name, _)) in METHODS.iter().enumerate() {
        if only.as_deref().is_some_and(|only| only != *name) {
            continue;
        }
        for keep in [1, 2] {
            let tries = attack(method, keep, usize::MAX);
            println!("{name}, keep {keep}: {tries} faults");
        }
    }
}
