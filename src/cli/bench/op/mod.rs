//! `mim bench op`.

mod depthwise;
mod matmul;

use std::time::Instant;

use mim_core::ops::Precision;
use mim_core::rng::stream;
use mim_core::{Purpose, Result};
use rand::RngExt;
use rand_distr::StandardNormal;

/// Settings of `mim bench op`.
#[derive(Debug, clap::Args)]
pub(super) struct Op {
    /// The operation.
    #[arg(value_enum)]
    op: Kind,
    /// Images per batch.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// How often mim and candle each run, in turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Number of threads [default: all cores].
    #[arg(long)]
    pub(super) threads: Option<usize>,
    /// Size of the ViT whose products `matmul` times [default: vit_base].
    #[arg(long, value_enum)]
    arch: Option<matmul::Arch>,
    /// Precision of `matmul`: f32 or bf16; candle runs in f32 [default: f32].
    #[arg(long)]
    precision: Option<Precision>,
    /// Try several sizes of blocks for `matmul`, and print the time of each.
    #[arg(long)]
    tune: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// 5x5 depth-wise convolution, forward and backward, at the shapes of ConvMAE base.
    Depthwise,
    /// Matrix products of a training step of a ViT, forward and backward.
    Matmul,
}

impl Op {
    pub(super) fn run(&self) -> Result<String> {
        match self.op {
            Kind::Matmul => matmul::run(self),
            Kind::Depthwise => {
                self.only_matmul()?;
                depthwise::run(self)
            }
        }
    }

    fn precision(&self) -> Precision {
        self.precision.unwrap_or_default()
    }

    /// Refuses settings that nobody would read.
    fn only_matmul(&self) -> Result<()> {
        let unread = [
            ("--tune", self.tune),
            ("--precision", self.precision.is_some()),
            ("--arch", self.arch.is_some()),
        ];
        match unread.iter().find(|(_, set)| *set) {
            None => Ok(()),
            Some((name, _)) => Err(mim_core::Error::config(
                "command line",
                *name,
                "set",
                "only `mim bench op matmul` reads it",
                "leave it out",
            )),
        }
    }
}

/// Seconds of each of the runs, which take turns. The first round warms up.
fn in_turns(runs: &[&dyn Fn() -> Result<()>], rounds: u16) -> Result<Vec<Vec<f64>>> {
    let mut times = vec![Vec::new(); runs.len()];
    for round in 0..=rounds {
        for (run, times) in runs.iter().zip(&mut times) {
            let start = Instant::now();
            run()?;
            if round > 0 {
                times.push(start.elapsed().as_secs_f64());
            }
        }
    }
    Ok(times)
}

fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut rng = stream(seed, Purpose::Augment, [0, 0]);
    (0..count).map(|_| rng.sample(StandardNormal)).collect()
}
