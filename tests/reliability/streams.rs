//! Standard output and standard error may be closed or full, and signals end a run.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{errors, mim, pretrain, succeeds};

fn full() -> Stdio {
    File::options()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .into()
}

/// A reader that has gone.
fn gone() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_run_does_not_end_because_nobody_reads_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    for (name, stream) in [("full", full as fn() -> Stdio), ("gone", gone)] {
        let mut command = pretrain(dir.path(), name, &["--epochs", "2"]);
        let status = command.stderr(stream()).stdout(Stdio::null()).status();
        assert_eq!(status.unwrap().code(), Some(0), "{name}");
        assert!(dir.path().join(name).join("summary.json").exists());
    }
    // Results that cannot be printed are an error; one who does not want them is not.
    for (name, stream, code) in [("full2", full as fn() -> Stdio, 1), ("gone2", gone, 0)] {
        let mut command = pretrain(dir.path(), name, &["--epochs", "2"]);
        let output = command.stdout(stream()).output().unwrap();
        let error = errors(&output);
        assert_eq!(output.status.code(), Some(code), "{name}: {error}");
        assert_eq!(
            error.contains("cannot write to standard output: No space"),
            code == 1
        );
        assert!(dir.path().join(name).join("summary.json").exists());
    }
}

#[test]
fn results_that_cannot_be_printed_are_an_error() {
    for args in [
        &["methods"][..],
        &["pretrain", "--print-config"],
        &["--help"],
    ] {
        let output = mim(args).stdout(full()).output().unwrap();
        errors(&output);
        if args != ["--help"] {
            assert_eq!(output.status.code(), Some(1), "{args:?}");
        }
        succeeds(&mim(args).stdout(gone()).output().unwrap());
    }
}

/// Waits for a run to come to an end, and gives its exit status.
fn ends(mut child: Child, most: u64) -> Option<i32> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(start.elapsed() < Duration::from_secs(most), "it hangs");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(child: &Child, name: &str) {
    let mut kill = Command::new("kill");
    let sent = kill.args([name, &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn the_first_signal_ends_with_a_checkpoint_and_the_second_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for (name, status) in [("-INT", 130), ("-TERM", 143)] {
        for times in [1, 2] {
            let run = format!("run{name}-{times}");
            let mut command = pretrain(dir.path(), &run, &["--epochs", "100000"]);
            let child = command.stderr(Stdio::null()).spawn().unwrap();
            let run = dir.path().join(run);
            let start = Instant::now();
            while !run.join("log.jsonl").exists() {
                assert!(start.elapsed() < Duration::from_secs(60));
                std::thread::sleep(Duration::from_millis(10));
            }
            (0..times).for_each(|_| signal(&child, name));
            assert_eq!(ends(child, 60), Some(status));
            let checkpoints = fs::read_dir(run.join("checkpoints")).unwrap();
            assert!(checkpoints.count() > 0);
        }
    }
}
