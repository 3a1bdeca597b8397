//! `mim bench op`.

use std::time::Instant;

use candle_core::{Device, Tensor, Var};
use mim_core::rng::stream;
use mim_core::{Purpose, Result, ops};
use rand::RngExt;
use rand_distr::StandardNormal;
use serde_json::{Value, json};

/// Settings of `mim bench op`.
#[derive(Debug, clap::Args)]
pub(super) struct Op {
    /// The operation.
    #[arg(value_enum)]
    op: Kind,
    /// Images per batch.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// How often mim and candle each run, in turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Number of threads [default: all cores].
    #[arg(long)]
    pub(super) threads: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// 5x5 depth-wise convolution, forward and backward, at the shapes of ConvMAE base.
    Depthwise,
}

/// (side of the map, channels) of the first two stages of ConvMAE base.
const SHAPES: [(usize, usize); 2] = [(56, 256), (28, 384)];

/// Side of the kernel.
const KERNEL: usize = 5;

impl Op {
    pub(super) fn run(&self) -> Result<String> {
        let Kind::Depthwise = self.op;
        let shapes = SHAPES.map(|shape| self.depthwise(shape));
        let mut lines = Vec::new();
        for shape in shapes {
            lines.push(shape?);
        }
        if self.json {
            let all = json!({ "op": "depthwise", "batch": self.batch, "rounds": self.rounds,
                "threads": super::threads(), "shapes": lines });
            return Ok(all.to_string());
        }
        let line = |shape: &Value| {
            let number = |key: &str| shape[key].as_f64().unwrap_or(f64::NAN);
            format!(
                "depthwise {}x{0}x{}, kernel {KERNEL}, batch {}: mim {:.2} ms, candle {:.2} ms, {:.1} times as fast",
                shape["side"],
                shape["channels"],
                self.batch,
                number("mim_s_median") * 1e3,
                number("candle_s_median") * 1e3,
                number("ratio"),
            )
        };
        Ok(lines.iter().map(line).collect::<Vec<_>>().join("\n"))
    }

    /// Times both at one shape, in turns: ours with its bias on channels-last maps, candle's grouped
    /// convolution without a bias on channels-first ones.
    fn depthwise(&self, (side, channels): (usize, usize)) -> Result<Value> {
        let last = random(1, &[self.batch, side, side, channels])?;
        let first = last.permute((0, 3, 1, 2))?.contiguous()?;
        let (last, first) = (Var::from_tensor(&last)?, Var::from_tensor(&first)?);
        let weight = Var::from_tensor(&random(2, &[channels, 1, KERNEL, KERNEL])?)?;
        let bias = Var::from_tensor(&random(3, &[channels])?)?;
        let ours = || -> Result<()> {
            let ys = ops::depthwise_conv(&last, &weight, &bias)?;
            ys.sum_all()?.backward()?;
            Ok(())
        };
        let theirs = || -> Result<()> {
            let ys = first.conv2d(&weight, KERNEL / 2, 1, 1, channels)?;
            ys.sum_all()?.backward()?;
            Ok(())
        };
        let sides: [&dyn Fn() -> Result<()>; 2] = [&ours, &theirs];
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..=self.rounds {
            for (run, times) in sides.iter().zip(&mut times) {
                let start = Instant::now();
                run()?;
                // The first round warms up.
                if round > 0 {
                    times.push(start.elapsed().as_secs_f64());
                }
            }
        }
        let [(mim, _), (candle, _)] = times.each_mut().map(|times| super::spread(times));
        Ok(
            json!({ "side": side, "channels": channels, "mim_s_median": mim,
            "candle_s_median": candle, "ratio": candle / mim }),
        )
    }
}

fn random(seed: u64, shape: &[usize]) -> Result<Tensor> {
    let mut rng = stream(seed, Purpose::Augment, [0, 0]);
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| rng.sample(StandardNormal)).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_timed() {
        let op = Op {
            op: Kind::Depthwise,
            batch: 2,
            rounds: 2,
            threads: None,
            json: true,
        };
        let found = op.depthwise((6, 4)).unwrap();
        let number = |key: &str| found[key].as_f64().unwrap();
        let (mim, candle) = (number("mim_s_median"), number("candle_s_median"));
        assert!(mim > 0. && candle > 0.);
        assert_eq!(number("ratio"), candle / mim);
        assert_eq!((number("side"), number("channels")), (6., 4.));
    }
}
