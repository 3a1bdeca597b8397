//! `mim bench`.

mod data;
mod method;
mod op;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use crate::RunConfig;
use candle_core::{Device, Tensor};
use clap::Subcommand;
use cpu_time::ProcessTime;
use mim_core::ops::{Precision, launches, peak_memory};
use mim_core::rng::stream;
use mim_core::train::Stepper;
use mim_core::{Batch, Crop, Method, Purpose, Result, StepContext, View, settings};
use mim_methods::registry;
use rand::RngExt;
use serde_json::json;
use toml::Table;

use crate::cli::{device, examples};

/// Settings of `mim bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Time whole pre-training steps: forward, backward, AdamW on all parameters, new masks each step.
    #[command(after_help = examples::BENCH_STEP)]
    Step(Step),
    /// Time one operation, next to candle's own.
    #[command(after_help = examples::BENCH_OP)]
    Op(op::Op),
    /// Show where the time of a step goes: each operation with its shape, time and GFLOP/s.
    #[command(after_help = examples::BENCH_METHOD)]
    Method(Step),
    /// Time how fast images are read and augmented, from one source or from several in turns.
    #[command(after_help = examples::BENCH_DATA)]
    Data(data::Data),
}

/// Settings of `mim bench step`.
#[derive(Debug, clap::Args)]
struct Step {
    /// The method.
    #[arg(long, default_value = "mae")]
    method: String,
    /// Size of the encoder, as listed by `mim methods` [default: vit_base if the method has it].
    #[arg(long)]
    arch: Option<String>,
    /// Images per step.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Number of threads [default: all cores].
    #[arg(long)]
    threads: Option<usize>,
    /// Precision of matrix products: f32 or bf16.
    #[arg(long, default_value = "f32")]
    precision: Precision,
    /// Number of timed steps.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    steps: u16,
    /// Number of steps before the clock starts.
    #[arg(long, default_value_t = 2)]
    warmup: u16,
    /// Device.
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
    /// Print how many of mim's own kernels and matrix products a step launches. Launches by candle are not counted.
    #[arg(long)]
    count_launches: bool,
    /// A setting of the method, as dotted.key=value; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Args {
    pub(crate) fn threads(&self) -> Option<usize> {
        match &self.what {
            What::Step(step) | What::Method(step) => step.threads,
            What::Op(op) => op.threads,
            What::Data(_) => Some(1),
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Step(step) => println!("{}", step.time()?),
        What::Op(op) => println!("{}", op.run()?),
        What::Method(step) => println!("{}", method::table(step)?),
        What::Data(data) => {
            for line in data.time()? {
                println!("{line}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Step {
    /// The method with its optimizer, and a batch for it.
    fn prepare(&self, device: &Device) -> Result<(Box<dyn Method>, Stepper, Batch)> {
        self.precision.check(device)?;
        let config = self.config()?;
        let method = config.build(device)?;
        let stepper = Stepper::new(
            method.as_ref(),
            config.train.optimizer.clone(),
            config.train.clip,
        )?
        .precision(self.precision)
        .recompute(config.train.recompute);
        let batch = self.images(method.as_ref(), device)?;
        Ok((method, stepper, batch))
    }

    /// The place of step `iter` of the benchmark.
    fn place(&self, iter: usize) -> StepContext {
        StepContext {
            iter,
            iters_per_epoch: usize::from(self.warmup + self.steps),
            ..StepContext::new(0)
        }
    }

    fn time(&self) -> Result<serde_json::Value> {
        let device = device::open(&self.device)?;
        let (method, mut stepper, batch) = self.prepare(&device)?;
        let batch = [batch];
        let (mut wall, mut cpu, mut losses) = (Vec::new(), Vec::new(), Vec::new());
        let mut launched = 0;
        for iter in 0..usize::from(self.warmup + self.steps) {
            let place = self.place(iter);
            device.synchronize()?;
            launched = launches();
            let (start, busy) = (Instant::now(), ProcessTime::now());
            let started = stepper.start(method.as_ref(), &batch, &place, 1.5e-4)?;
            device.synchronize()?;
            let spent = (start.elapsed().as_secs_f64(), busy.elapsed().as_secs_f64());
            let report = started.wait()?;
            if iter >= usize::from(self.warmup) {
                wall.push(spent.0);
                cpu.push(spent.1);
                losses.push(report.loss);
            }
        }
        let (wall_median, wall_min) = spread(&mut wall);
        let (cpu_median, cpu_min) = spread(&mut cpu);
        let parameters: usize = method
            .stores()
            .iter()
            .map(|(_, store)| store.trainable_values())
            .sum();
        Ok(json!({
            "framework": concat!("mim ", env!("CARGO_PKG_VERSION")),
            "method": self.method, "arch": self.arch()?, "batch": self.batch, "threads": threads(),
            "device": self.device, "bf16": self.precision == Precision::Bf16, "compile": false, "parameters": parameters, "steps": self.steps,
            "wall_s_median": wall_median, "wall_s_min": wall_min, "cpu_s_median": cpu_median, "cpu_s_min": cpu_min,
            "images_per_s": self.batch as f64 / wall_median, "peak_mib": peak_mib(&device)?,
            "launches": self.count_launches.then(|| launches() - launched),
            "first_loss": losses.first(), "last_loss": losses.last(),
        }))
    }

    /// The encoder's size; none for a method without sizes, unless one is asked for.
    fn arch(&self) -> Result<Option<&str>> {
        const BASE: &str = "vit_base";
        let archs = registry::method(&self.method)?.archs;
        let default = archs
            .contains(&BASE)
            .then_some(BASE)
            .or(archs.first().copied());
        Ok(self.arch.as_deref().or(default))
    }

    fn config(&self) -> Result<RunConfig> {
        let mut table = Table::new();
        table.insert("method".to_owned(), self.method.clone().into());
        if let Some(arch) = self.arch()? {
            table.insert("arch".to_owned(), arch.into());
        }
        for setting in &self.set {
            settings::set(&mut table, setting)?;
        }
        RunConfig::from_table(table)
    }

    /// Random images, as bytes, or clouds, as large as each of the method's views.
    fn images(&self, method: &dyn Method, device: &Device) -> Result<Batch> {
        let (input, plan) = (method.input(), method.views(0));
        let mut rng = stream(0, Purpose::Augment, [0, 0]);
        let (height, width) = input.size.into();
        let blank = plan.blank((height, width))?;
        let side = |pixels| u32::try_from(pixels).unwrap_or(u32::MAX);
        let whole = Crop::whole((side(height), side(width)));
        let mut views = Vec::new();
        for sample in plan.apply(blank, &mut rng)? {
            let (height, width) = sample.size();
            if sample.is_cloud() {
                let count = self.batch * height * 3;
                let values: Vec<f32> = (0..count).map(|_| rng.random_range(-1f32..1.)).collect();
                let points = Tensor::from_vec(values, (self.batch, height, 3), device)?;
                views.push(View::of_points(points)?);
                continue;
            }
            let shape = (self.batch, input.channels(), height, width);
            let count = shape.0 * shape.1 * height * width;
            let values: Vec<u8> = (0..count).map(|_| rng.random()).collect();
            let pixels = Tensor::from_vec(values, shape, device)?;
            views.push(View::new(pixels, vec![whole; self.batch])?);
        }
        Ok(Batch {
            views,
            indices: Vec::new(),
            labels: None,
            extras: BTreeMap::new(),
        })
    }
}

/// (median, minimum) of some times.
fn spread(times: &mut [f64]) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    let middle = times.len() / 2;
    let median = if times.len().is_multiple_of(2) {
        (times[middle - 1] + times[middle]) / 2.
    } else {
        times[middle]
    };
    (median, times[0])
}

fn threads() -> usize {
    candle_core::utils::get_num_threads()
}

/// Peak memory in MiB, where the system tells: that of tensors on a GPU, else that of the program.
fn peak_mib(device: &Device) -> Result<Option<f64>> {
    let kib = match device.is_cuda() {
        true => peak_memory(device)?.map(|bytes| bytes as f64 / 1024.),
        false => resident_kib(),
    };
    Ok(kib.map(|kib| (kib / 1024. * 10.).round() / 10.))
}

fn resident_kib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers_of_times() {
        assert_eq!(spread(&mut [3., 1., 2.]), (2., 1.));
        assert_eq!(spread(&mut [4., 1., 2., 3.]), (2.5, 1.));
    }
}
