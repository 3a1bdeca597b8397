//! `mim bench method`.

use std::fmt::Write;
use std::time::Instant;

use candle_core::{DType, Tensor, Var};
use mim_core::ops::{self, Cost, Pass, Profile, profiled};
use mim_core::{Error, Result};

use super::Step;
use crate::cli::device;

/// Where the time of the timed steps goes, as a table: the largest part first.
pub(super) fn table(step: &Step) -> Result<String> {
    let device = device::open(&step.device)?;
    if !device.is_cpu() {
        return Err(Error::unsupported(
            "the parts of a step on a GPU",
            "a GPU works on it after the call has returned",
            "use --device cpu, or a GPU profiler such as nsys",
        ));
    }
    let (method, mut stepper, batch) = step.prepare(&device)?;
    let batch = [batch];
    let mut run = |iter: usize| stepper.step(method.as_ref(), &batch, &step.place(iter), 1.5e-4);
    for iter in 0..usize::from(step.warmup) {
        run(iter)?;
    }
    let start = Instant::now();
    let (done, profile) = profiled(|| {
        for iter in 0..usize::from(step.steps) {
            run(usize::from(step.warmup) + iter)?;
        }
        Ok::<_, Error>(())
    });
    done?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(format(&profile, seconds, f64::from(step.steps), peak()?))
}

/// GFLOP/s of a large matrix product.
fn peak() -> Result<f64> {
    let square = |seed: f32| -> Result<Tensor> {
        let values = Tensor::full(seed, (1024, 1024), &candle_core::Device::Cpu)?;
        Ok(values.to_dtype(DType::F32)?)
    };
    let (xs, weight) = (square(0.5)?, Var::from_tensor(&square(0.25)?)?);
    let mut best = 0f64;
    for _ in 0..5 {
        let (ys, profile) = profiled(|| ops::linear(&xs, &weight, None));
        ys?;
        let rate = |cost: &Cost| cost.flop / cost.seconds / 1e9;
        best = profile.values().map(rate).fold(best, f64::max);
    }
    Ok(best)
}

fn format(profile: &Profile, seconds: f64, steps: f64, peak: f64) -> String {
    let mut rows: Vec<_> = profile.iter().collect();
    rows.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    let mut text = format!(
        "a step takes {:.1} ms; a large matrix product runs at {peak:.0} GFLOP/s\n{:<16} {:<9} {:<20} {:>7} {:>9} {:>7} {:>9} {:>8}\n",
        seconds / steps * 1e3,
        "operation",
        "pass",
        "first operand",
        "calls",
        "ms",
        "share",
        "GFLOP/s",
        "of peak"
    );
    for ((op, pass, dims), cost) in rows {
        let pass = match pass {
            Pass::Forward => "forward",
            Pass::Backward => "backward",
            Pass::Update => "update",
        };
        let dims: Vec<_> = dims.iter().map(usize::to_string).collect();
        let rate = cost.flop / cost.seconds / 1e9;
        let rates = match cost.flop > 0. {
            true => format!("{rate:>9.1} {:>7.0}%", 100. * rate / peak),
            false => format!("{:>9} {:>8}", "-", "-"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{op:<16} {pass:<9} {:<20} {:>7.1} {:>9.2} {:>6.1}% {rates}",
            dims.join("x"),
            cost.calls as f64 / steps,
            cost.seconds / steps * 1e3,
            100. * cost.seconds / seconds,
        );
    }
    let known: f64 = profile.values().map(|cost| cost.seconds).sum();
    let rest = (seconds - known).max(0.);
    let _ = write!(
        text,
        "{:<54} {:>9.2} {:>6.1}%",
        "everything else (candle's own operations and its gradients)",
        rest / steps * 1e3,
        100. * rest / seconds
    );
    text
}
