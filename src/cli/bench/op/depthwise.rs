//! `mim bench op depthwise`.

use candle_core::{Device, Tensor, Var};
use mim_core::{Result, ops};
use serde_json::{Value, json};

use super::{Op, in_turns};
use crate::cli::bench::{spread, threads};

/// (side of the map, channels) of the first two stages of ConvMAE base.
const SHAPES: [(usize, usize); 2] = [(56, 256), (28, 384)];

/// Side of the kernel.
const KERNEL: usize = 5;

pub(super) fn run(op: &Op) -> Result<String> {
    let batch = usize::from(op.batch);
    let shapes = SHAPES.map(|shape| time(batch, op.rounds, shape));
    let shapes = shapes.into_iter().collect::<Result<Vec<_>>>()?;
    if op.json {
        let all = json!({ "op": "depthwise", "batch": batch, "rounds": op.rounds, "threads": threads(), "shapes": shapes });
        return Ok(all.to_string());
    }
    let line = |shape: &Value| {
        let number = |key: &str| shape[key].as_f64().unwrap_or(f64::NAN);
        format!(
            "depthwise {}x{0}x{}, kernel {KERNEL}, batch {batch}: mim {:.2} ms, candle {:.2} ms, {:.1} times as fast",
            shape["side"],
            shape["channels"],
            number("mim_s_median") * 1e3,
            number("candle_s_median") * 1e3,
            number("ratio"),
        )
    };
    Ok(shapes.iter().map(line).collect::<Vec<_>>().join("\n"))
}

/// Times both at one shape, in turns: ours with its bias on channels-last maps, candle's grouped
/// convolution without a bias on channels-first ones.
fn time(batch: usize, rounds: u16, (side, channels): (usize, usize)) -> Result<Value> {
    let last = random(1, &[batch, side, side, channels])?;
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
    let mut times = in_turns(&[&ours, &theirs], rounds)?;
    let [mim, candle] = [0, 1].map(|side| spread(&mut times[side]).0);
    Ok(
        json!({ "side": side, "channels": channels, "mim_s_median": mim,
            "candle_s_median": candle, "ratio": candle / mim }),
    )
}

fn random(seed: u64, shape: &[usize]) -> Result<Tensor> {
    let values = super::random(seed, shape.iter().product());
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_timed() {
        let found = time(2, 2, (6, 4)).unwrap();
        let number = |key: &str| found[key].as_f64().unwrap();
        let (mim, candle) = (number("mim_s_median"), number("candle_s_median"));
        assert!(mim > 0. && candle > 0.);
        assert_eq!(number("ratio"), candle / mim);
        assert_eq!((number("side"), number("channels")), (6., 4.));
    }
}
