//! Training in two processes under `mpirun`: the gradients of one process, exact resume, and what is left when one
//! of them is killed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../mim-methods/tests/common/mod.rs"]
mod common;
#[path = "../mim-methods/tests/common/parallel.rs"]
mod parallel;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};

use common::compared;
use mim_core::comm::{Communicator, Mpi, Single};
use mim_core::data::{DataSource, LoaderConfig, Split};
use mim_core::train::{Checkpoint, EpochLog, Observer, Outcome, StepReport, TrainConfig, Trainer};
use parallel::{build, differences, first_step, rounded_steps};

/// Names the folder that [`worker`] shall fill.
const FOLDER: &str = "MIM_TEST_FOLDER";
/// Names what [`worker`] shall do.
const TASK: &str = "MIM_TEST_TASK";
/// How long anything here may take: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(600);

// ---- what runs under mpirun

/// Run by the tests below, in two processes.
#[test]
#[ignore = "a part of the other tests, under mpirun"]
fn worker() {
    let folder = PathBuf::from(std::env::var(FOLDER).unwrap());
    let comm: Arc<dyn Communicator> = Arc::new(Mpi::join().unwrap());
    assert_eq!(comm.world(), 2);
    match std::env::var(TASK).unwrap().as_str() {
        "gradients" => write_gradients(&folder, &comm),
        "resume" => write_runs(&folder, &comm),
        other => panic!("no task is called {other}"),
    }
    fs::write(folder.join(format!("done-{}", comm.rank())), "").unwrap();
    comm.leave();
}

/// Of each method and rank, a file.
fn write_gradients(folder: &Path, comm: &Arc<dyn Communicator>) {
    for tiny in &compared() {
        let found = first_step(tiny, &Device::Cpu, comm);
        let file = folder.join(format!("{}-{}.safetensors", tiny.file, comm.rank()));
        candle_core::safetensors::save(&found.into_iter().collect(), file).unwrap();
    }
}

/// Six steps at one go, and three and three.
fn write_runs(folder: &Path, comm: &Arc<dyn Communicator>) {
    for name in ["cmae", "ibot"] {
        let (whole, cut) = (
            folder.join(name).join("whole"),
            folder.join(name).join("cut"),
        );
        let finished = trainer(name, &whole)
            .parallel(comm.clone())
            .unwrap()
            .train(&mut ());
        assert_eq!(finished.unwrap(), Outcome::Finished);
        // One process that is asked to stop stops both.
        let steps = if comm.rank() == 1 { 3 } else { usize::MAX };
        let stopped = trainer(name, &cut)
            .parallel(comm.clone())
            .unwrap()
            .train(&mut StopAfter(steps));
        assert_eq!(stopped.unwrap(), Outcome::Stopped { step: 3 });
        // Rank 0 may still be writing.
        mim_core::comm::same(comm.as_ref(), "nothing", 0).unwrap();
        let mut trainer = trainer(name, &cut).parallel(comm.clone()).unwrap();
        trainer
            .resume(&Checkpoint::latest(&cut).unwrap().unwrap())
            .unwrap();
        trainer.train(&mut ()).unwrap();
    }
}

/// Six steps of two processes.
fn trainer(name: &str, run: &Path) -> Trainer {
    let data = DataSource::Embedded.open(Split::Train).unwrap();
    let config = TrainConfig {
        epochs: 1,
        batch_size: 40,
        accum_iter: 2,
        lr: Some(1e-3),
        ..TrainConfig::default()
    };
    let loading = LoaderConfig::default();
    let method = build(&common::tiny(name), &Device::Cpu);
    Trainer::new(method, (data, loading), config, run).unwrap()
}

/// Ends the run after a number of steps.
struct StopAfter(usize);

impl Observer for StopAfter {
    fn step(&mut self, _report: &StepReport) {
        self.0 -= 1;
    }

    fn stop(&self) -> bool {
        self.0 == 0
    }
}

// ---- what runs it

/// One test at a time: waiting processes of MPI keep a core busy.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two processes of a program, with what they print in files of `folder`.
fn mpirun(folder: &Path, program: impl AsRef<Path>, arguments: &[&str]) -> Child {
    let file = |name: &str| File::create(folder.join(name)).unwrap();
    let mut command = Command::new("mpirun");
    command
        .args(["-n", "2", "--oversubscribe", "--bind-to", "none"])
        .arg(program.as_ref())
        .args(arguments)
        // Containers often have no other user.
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("RAYON_NUM_THREADS", "1")
        .stdin(Stdio::null())
        .stdout(file("stdout"))
        .stderr(file("stderr"));
    command.spawn().unwrap()
}

fn printed(folder: &Path) -> String {
    let read = |name| fs::read_to_string(folder.join(name)).unwrap();
    format!("{}{}", read("stdout"), read("stderr"))
}

fn end_of(child: &mut Child, folder: &Path) -> ExitStatus {
    let status = until(|| child.try_wait().unwrap());
    status.unwrap_or_else(|| {
        child.kill().unwrap();
        panic!("it did not end:\n{}", printed(folder));
    })
}

/// What `ready` gives, when it gives something in time.
fn until<T>(mut ready: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        let found = ready();
        if found.is_some() || Instant::now() > end {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a task of [`worker`].
fn work(task: &str, folder: &Path) {
    let program = std::env::current_exe().unwrap();
    let variables = [(TASK, task), (FOLDER, folder.to_str().unwrap())];
    let settings = variables.map(|(name, value)| format!("{name}={value}"));
    let mut arguments: Vec<&str> = settings.iter().map(String::as_str).collect();
    arguments.push(program.to_str().unwrap());
    arguments.extend(["--ignored", "--exact", "worker", "--nocapture"]);
    let mut child = mpirun(folder, "env", &arguments);
    end_of(&mut child, folder);
    // Not its status: where mpirun is kept from running for two seconds, it takes an orderly end for another.
    let done = |rank: usize| folder.join(format!("done-{rank}")).exists();
    assert!(done(0) && done(1), "{}", printed(folder));
}

#[test]
fn two_processes_give_the_gradients_of_one() {
    let _turn = alone();
    let folder = tempfile::tempdir().unwrap();
    work("gradients", folder.path());
    let mut wrong = Vec::new();
    for tiny in &compared() {
        let one: Arc<dyn Communicator> = Arc::new(Single);
        let wanted = first_step(tiny, &Device::Cpu, &one);
        let rounded = rounded_steps(tiny, &Device::Cpu);
        for rank in 0..2 {
            let file = format!("{}-{rank}.safetensors", tiny.file);
            let file = folder.path().join(file);
            let read = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
            let found: BTreeMap<String, Tensor> = read.into_iter().collect();
            let found: Vec<_> = wanted
                .iter()
                .map(|(name, _)| (name.clone(), found[name].clone()))
                .collect();
            wrong.extend(differences(tiny, &found, &wanted, &rounded));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Names and bytes of a checkpoint.
fn content(checkpoint: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(checkpoint)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let found: BTreeMap<_, _> = files
        .map(|path| (path.file_name().unwrap().into(), fs::read(&path).unwrap()))
        .collect();
    assert!(found.len() >= 3, "{found:?}");
    found
}

#[test]
fn a_resumed_run_of_two_processes_equals_an_uninterrupted_one() {
    let _turn = alone();
    let folder = tempfile::tempdir().unwrap();
    work("resume", folder.path());
    for name in ["cmae", "ibot"] {
        let run = |which: &str| folder.path().join(name).join(which);
        let [whole, cut] =
            ["whole", "cut"].map(|which| content(&run(which).join("checkpoints/step-6")));
        // Not assert_eq: a failure would print the files.
        assert!(whole == cut, "{name}");
        let logs = ["whole", "cut"].map(|which| EpochLog::new(&run(which)).read().unwrap());
        assert_eq!([logs[0].len(), logs[1].len()], [1, 1]);
        assert_eq!(logs[0][0].train_loss, logs[1][0].train_loss);
    }
    // One process goes on at the same image: six of its twelve steps are done after three of both.
    let cut = folder.path().join("cmae/cut/checkpoints/step-3");
    let run = folder.path().join("alone");
    let mut trainer = trainer("cmae", &run);
    trainer.resume(&Checkpoint::open(cut).unwrap()).unwrap();
    assert_eq!(trainer.iters_per_epoch(), 12);
    trainer.train(&mut ()).unwrap();
    let state = Checkpoint::latest(&run).unwrap().unwrap().state().clone();
    assert_eq!((state.world, state.epoch, state.step), (1, 1, 3 + 6));
}

/// Arguments of a run of two processes, five steps an epoch.
fn pretrain<'a>(run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec![
        "pretrain",
        "--device",
        "cpu",
        "--output-dir",
        run,
        "--set",
        "encoder={ image_size = 32, patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2 }",
        "--set",
        "decoder={ embed_dim = 8, depth = 1, num_heads = 2 }",
        "--batch-size",
        "100",
        "--threads",
        "1",
        "--set",
        "train.keep_checkpoints=1000",
        "--set",
        "eval.finetune_epochs=0",
    ];
    arguments.extend(more);
    arguments
}

/// The process of `mpirun` with this rank.
#[cfg(target_os = "linux")]
fn process_of(mpirun: u32, rank: usize) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{mpirun}/task/{mpirun}/children")).ok()?;
    let mut children = children.split_whitespace().filter_map(|id| id.parse().ok());
    let variable = format!("OMPI_COMM_WORLD_RANK={rank}").into_bytes();
    children.find(|id: &u32| {
        let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|entry| entry == variable)
    })
}

#[cfg(target_os = "linux")]
#[test]
fn a_killed_process_ends_the_run_which_then_goes_on() {
    let _turn = alone();
    let mim = env!("CARGO_BIN_EXE_mim");
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (whole, cut) = (run("whole"), run("cut"));
    let mut child = mpirun(folder.path(), mim, &pretrain(&whole, &["--epochs", "12"]));
    assert!(
        end_of(&mut child, folder.path()).success(),
        "{}",
        printed(folder.path())
    );
    // Said once, by rank 0.
    let said = printed(folder.path());
    assert_eq!(
        said.matches("12 epochs of 5 steps in 2 processes").count(),
        1,
        "{said}"
    );
    assert_eq!(said.matches("epoch 12/12").count(), 1, "{said}");
    assert_eq!(said.matches("top-1 in percent").count(), 1, "{said}");
    let written = |run: &str| Checkpoint::latest(Path::new(run)).unwrap();
    let mut child = mpirun(folder.path(), mim, &pretrain(&cut, &["--epochs", "12"]));
    until(|| written(&cut)).unwrap();
    let victim = process_of(child.id(), 1).unwrap();
    let killed = Command::new("kill")
        .args(["-9", &victim.to_string()])
        .status();
    assert!(killed.unwrap().success());
    let status = end_of(&mut child, folder.path());
    let said = printed(folder.path());
    assert!(!status.success(), "{said}");
    assert!(said.contains("exited on signal 9"), "{said}");
    let left = written(&cut).unwrap();
    assert!(left.state().step < 60, "it was killed too late");
    assert_eq!(left.state().world, 2);
    let mut child = mpirun(folder.path(), mim, &pretrain(&cut, &["--resume", "auto"]));
    assert!(
        end_of(&mut child, folder.path()).success(),
        "{}",
        printed(folder.path())
    );
    let [whole, cut] =
        [&whole, &cut].map(|run| content(&Path::new(run).join("checkpoints/step-60")));
    assert!(whole == cut);
}

#[cfg(target_os = "linux")]
#[test]
fn one_interrupted_process_ends_the_run_with_a_checkpoint() {
    let _turn = alone();
    let mim = env!("CARGO_BIN_EXE_mim");
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let arguments = pretrain(run.to_str().unwrap(), &["--epochs", "10000"]);
    let mut child = mpirun(folder.path(), mim, &arguments);
    until(|| Checkpoint::latest(&run).unwrap()).unwrap();
    let asked = process_of(child.id(), 1).unwrap();
    let sent = Command::new("kill")
        .args(["-INT", &asked.to_string()])
        .status();
    assert!(sent.unwrap().success());
    let status = end_of(&mut child, folder.path());
    let said = printed(folder.path());
    // That of the interrupted process.
    assert_eq!(status.code(), Some(130), "{said}");
    let step = Checkpoint::latest(&run).unwrap().unwrap().state().step;
    let stopped = format!("stopped after step {step}; resume with --resume auto");
    assert_eq!(said.matches(&stopped).count(), 1, "{said}");
}

#[test]
fn an_error_of_one_process_ends_all() {
    let _turn = alone();
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    // Rank 1 finds other settings.
    let script = format!(
        "exec {} pretrain --device cpu --seed $OMPI_COMM_WORLD_RANK --epochs 1 --output-dir {}",
        env!("CARGO_BIN_EXE_mim"),
        run.display()
    );
    let mut child = mpirun(folder.path(), "sh", &["-c", &script]);
    let status = end_of(&mut child, folder.path());
    let said = printed(folder.path());
    assert!(!status.success(), "{said}");
    // The first one to say so may end the other one before it does.
    let says = |rank: usize| {
        let why = "training in several processes: the settings of rank 1 differ";
        said.contains(&format!("error: rank {rank}: {why}"))
    };
    assert!(says(0) || says(1), "{said}");
    assert!(!run.exists());
}
