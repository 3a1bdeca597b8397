//! The program `mim`, for programs with methods and parts of their own.
//!
//! ```no_run
//! use mim::methods::registry::Registry;
//!
//! fn main() -> std::process::ExitCode {
//!     // A registry with own parts has them in every command.
//!     mim::cli::main(Registry::default())
//! }
//! ```

// Its macros replace those of std, which panic on a closed pipe.
#[macro_use]
mod stream;

mod bench;
mod browse;
mod compare;
mod convert;
mod data;
mod device;
mod doctor;
#[cfg(feature = "hub")]
mod download;
mod drawing;
mod eval;
mod examples;
mod export;
mod features;
mod finetune;
mod folder;
mod info;
mod interrupt;
mod logging;
mod machine;
mod manual;
mod methods;
mod mlflow;
mod model;
mod options;
mod outcome;
mod parity;
mod parts;
mod plot;
mod pretrain;
mod progress;
mod replay;
mod report;
mod segment;
mod sweep;
mod visualize;
mod zoo;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use mim_methods::registry::Registry;

/// Masked image modeling: pre-train, probe, picture and benchmark vision transformers.
///
/// Results go to standard output; logs and progress go to standard error. Exit status: 0 for success, 1 for an error,
/// 2 for a wrong command line, 130 or 143 for a run that SIGINT or SIGTERM interrupted and that can be resumed.
#[derive(Debug, Parser)]
#[command(name = "mim", version, max_term_width = 110, after_help = examples::MIM)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pre-train a method, then probe its encoder.
    #[command(after_help = examples::PRETRAIN)]
    Pretrain(Box<pretrain::Args>),
    /// Draw augmented images as a method sees them, before any training.
    #[command(after_help = examples::BROWSE)]
    Browse(Box<browse::Args>),
    /// Train an encoder further with labels, or the same network from scratch.
    #[command(after_help = examples::FINETUNE)]
    Finetune(Box<finetune::Args>),
    /// Repeat a step whose loss was not finite, and find the term and the image.
    #[command(after_help = examples::REPLAY)]
    Replay(replay::Args),
    /// Probe the encoder of a run: linear classifier, nearest neighbours, segmentation and more.
    Eval(eval::Args),
    /// Draw reconstructions, masks, attention, features or neighbours of images, or the schedules of a run.
    #[command(after_help = examples::VISUALIZE)]
    Visualize(visualize::Args),
    /// Train many runs from one file, then compare them.
    Sweep(sweep::Args),
    /// Print a table of runs, with mean and deviation over seeds.
    #[command(after_help = examples::COMPARE)]
    Compare(compare::Args),
    /// Write an HTML page about a run, or one that compares several.
    #[command(after_help = examples::REPORT)]
    Report(report::Args),
    /// List the methods with their sizes, papers and recipes.
    #[command(after_help = examples::METHODS)]
    Methods(methods::Args),
    /// List the parts that the method `custom` combines, with papers, settings and defaults.
    #[command(after_help = examples::PARTS)]
    Parts(parts::Args),
    /// Show what a weights file or a checkpoint holds.
    #[command(after_help = examples::INFO)]
    Info(info::Args),
    /// Write the features of images to a file.
    #[command(after_help = examples::FEATURES)]
    Features(features::Args),
    /// Write a trained model in a format that timm or transformers can load.
    #[command(after_help = examples::EXPORT)]
    Export(export::Args),
    /// List published weights that fit, with their addresses and licences.
    #[command(after_help = examples::ZOO)]
    Zoo(zoo::Args),
    /// Measure data sets.
    #[command(after_help = examples::DATA)]
    Data(data::Args),
    /// Rename weights for another project.
    #[command(after_help = examples::CONVERT)]
    Convert(convert::Args),
    /// Compare methods with values recorded from the authors' code.
    #[command(after_help = examples::PARITY)]
    Parity(parity::Args),
    /// Measure speed.
    #[command(after_help = examples::BENCH)]
    Bench(bench::Args),
    /// Show what this build and machine can do, for bug reports.
    #[command(after_help = examples::DOCTOR)]
    Doctor(doctor::Args),
    /// Print the completion script of a shell.
    #[command(after_help = examples::COMPLETIONS)]
    Completions(manual::Completions),
    /// Print the manual, or write its pages.
    #[command(after_help = examples::MAN)]
    Man(manual::Man),
}

/// The command line with all its options, for completions, manuals, and checks of a line without running it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// candle walks deep graphs recursively, so the work runs on a thread with a large stack.
const STACK: usize = 256 << 20;

/// Runs the command line of the program; configs can name the methods and parts of `registry`.
///
/// Returns the exit status: 0 for success, 1 for an error, 130 or 143 for an interrupted run. A wrong command line ends
/// the program with 2.
pub fn main(registry: Registry) -> ExitCode {
    if let Err(error) = registry.install() {
        return outcome::failed(&error.to_string());
    }
    if std::env::args_os().len() == 1 {
        eprint!("{}", examples::FIRST);
        return ExitCode::from(2);
    }
    let cli = Cli::parse();
    logging::start();
    #[cfg(feature = "hub")]
    download::show();
    if let Err(error) = device::pin_threads(cli.threads()).and_then(|()| device::set_blocks()) {
        return outcome::failed(&error.to_string());
    }
    let work = std::thread::Builder::new()
        .name("mim".to_owned())
        .stack_size(STACK)
        .spawn(move || run(cli));
    let code = match work.map(std::thread::JoinHandle::join) {
        Ok(Ok(code)) => code,
        Ok(Err(_)) => outcome::failed("internal error: please report it with the message above"),
        Err(error) => outcome::failed(&format!("cannot start a thread: {error}")),
    };
    stream::finish(code)
}

fn run(cli: Cli) -> ExitCode {
    device::join_pool();
    let done = match cli.command {
        Command::Pretrain(args) => pretrain::run(&args),
        Command::Browse(args) => browse::run(&args),
        Command::Finetune(args) => finetune::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Visualize(args) => visualize::run(&args),
        Command::Sweep(args) => sweep::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Methods(args) => methods::run(&args),
        Command::Parts(args) => parts::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Features(args) => features::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Zoo(args) => zoo::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Parity(args) => parity::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => manual::complete(&args),
        Command::Man(args) => manual::man(&args),
    };
    done.unwrap_or_else(|error| outcome::failed(&error.to_string()))
}

impl Cli {
    /// The requested number of threads.
    fn threads(&self) -> Option<usize> {
        match &self.command {
            Command::Pretrain(args) => args.options.threads,
            Command::Finetune(args) => args.options.threads,
            Command::Browse(args) => args.threads(),
            Command::Replay(args) => args.threads,
            Command::Eval(args) => args.threads,
            Command::Features(args) => args.threads,
            Command::Data(args) => args.threads(),
            Command::Bench(args) => args.threads(),
            _ => None,
        }
    }
}
