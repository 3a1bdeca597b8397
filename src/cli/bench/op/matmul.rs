//! `mim bench op matmul`.

use std::fmt::Write as _;

use candle_core::{Device, Tensor};
use mim_core::Result;
use mim_core::ops::{MatmulBlocks, Matrix, Precision, matmul, with_precision};
use serde_json::{Value, json};

use super::{Op, in_turns};
use crate::cli::bench::{spread, threads};
use crate::cli::device::BLOCKS;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Arch {
    #[value(name = "vit_small")]
    Small,
    #[value(name = "vit_base")]
    Base,
    #[value(name = "vit_large")]
    Large,
}

impl Arch {
    fn width(self) -> usize {
        match self {
            Self::Small => 384,
            Self::Base => 768,
            Self::Large => 1024,
        }
    }
}

/// Tokens of an image of 224 pixels: of all patches, and of the quarter that MAE's encoder sees.
const TOKENS: [usize; 2] = [197, 50];

/// Side of the square product that the others are compared with.
const LARGE: usize = 2048;

/// A product of rows x depth and depth x cols values.
struct Product {
    name: String,
    sizes: [usize; 3],
    /// Which operands are read transposed.
    transposed: [bool; 2],
    operands: [Vec<f32>; 2],
}

impl Product {
    fn new(name: String, sizes: [usize; 3], transposed: [bool; 2]) -> Self {
        let [rows, depth, cols] = sizes;
        let operands = [rows * depth, depth * cols];
        Self {
            name,
            sizes,
            transposed,
            operands: [0, 1].map(|side| super::random(side as u64, operands[side])),
        }
    }

    fn flop(&self) -> f64 {
        2. * self.sizes.iter().map(|size| *size as f64).product::<f64>()
    }

    fn run(&self) -> Result<()> {
        let [rows, depth, cols] = self.sizes;
        let view = |side: usize, [rows, cols]: [usize; 2]| -> Result<Matrix<'_>> {
            Ok(match self.transposed[side] {
                false => Matrix::dense(&self.operands[side], rows, cols)?,
                true => Matrix::dense(&self.operands[side], cols, rows)?.transposed(),
            })
        };
        std::hint::black_box(matmul(view(0, [rows, depth])?, view(1, [depth, cols])?)?);
        Ok(())
    }

    /// The same operands for candle.
    fn tensors(&self) -> Result<[Tensor; 2]> {
        let [rows, depth, cols] = self.sizes;
        let tensor = |side: usize, [rows, cols]: [usize; 2]| -> Result<Tensor> {
            let values = self.operands[side].as_slice();
            Ok(match self.transposed[side] {
                false => Tensor::from_slice(values, (rows, cols), &Device::Cpu)?,
                true => Tensor::from_slice(values, (cols, rows), &Device::Cpu)?.t()?,
            })
        };
        Ok([tensor(0, [rows, depth])?, tensor(1, [depth, cols])?])
    }
}

/// The products of one block in a training step: each linear layer forward, and its two gradients.
fn products(width: usize, batch: usize) -> Vec<Product> {
    let layers = [
        ("qkv", width, 3 * width),
        ("proj", width, width),
        ("fc1", width, 4 * width),
        ("fc2", 4 * width, width),
    ];
    let of_layer = |rows: usize, (layer, inputs, outputs): (&str, usize, usize)| {
        // Weights have one row per output, as in PyTorch.
        [
            ("output", [rows, inputs, outputs], [false, true]),
            (
                "gradient of the input",
                [rows, outputs, inputs],
                [false, false],
            ),
            (
                "gradient of the weight",
                [outputs, rows, inputs],
                [true, false],
            ),
        ]
        .map(|(what, sizes, transposed)| {
            Product::new(format!("{layer}, {what}"), sizes, transposed)
        })
    };
    TOKENS
        .iter()
        .flat_map(|tokens| layers.map(|layer| of_layer(batch * tokens, layer)))
        .flatten()
        .collect()
}

pub(super) fn run(op: &Op) -> Result<String> {
    let arch = op.arch.unwrap_or(Arch::Base);
    let products = products(arch.width(), op.batch.into());
    with_precision(op.precision(), || match op.tune {
        true => tune(op, &products),
        false => table(op, &products),
    })
}

/// GFLOP/s of each product.
fn table(op: &Op, products: &[Product]) -> Result<String> {
    let large = Product::new("large".to_owned(), [LARGE; 3], [false; 2]);
    let mut lines = Vec::new();
    for product in products.iter().chain([&large]) {
        let [lhs, rhs] = product.tensors()?;
        let theirs = || -> Result<()> {
            std::hint::black_box(lhs.matmul(&rhs)?);
            Ok(())
        };
        // Products take turns with the large one, since the speed of a machine changes.
        let runs: [&dyn Fn() -> Result<()>; 3] = [&|| product.run(), &theirs, &|| large.run()];
        let mut times = in_turns(&runs, op.rounds)?;
        let [mim, candle, best] = [0, 1, 2].map(|run| spread(&mut times[run]).0);
        let rate = |flop: f64, seconds: f64| flop / seconds / 1e9;
        let (mim, best) = (rate(product.flop(), mim), rate(large.flop(), best));
        lines.push(
            json!({ "product": product.name, "sizes": product.sizes, "mim_gflops": mim,
            "candle_gflops": rate(product.flop(), candle), "share_of_large": mim / best }),
        );
    }
    if op.json {
        let all = json!({ "op": "matmul", "batch": op.batch, "rounds": op.rounds, "threads": threads(),
            "precision": op.precision(), "blocks": MatmulBlocks::current().to_string(), "products": lines });
        return Ok(all.to_string());
    }
    let mut text = format!(
        "GFLOP/s on {} threads, mim in {}, candle in f32\n\n{:<28}{:>20} {:>8} {:>8} {:>14}",
        threads(),
        name(op.precision()),
        "product",
        "rows x depth x cols",
        "mim",
        "candle",
        "share of large"
    );
    for line in &lines {
        let number = |key: &str| line[key].as_f64().unwrap_or(f64::NAN);
        let sizes: Vec<String> = line["sizes"]
            .as_array()
            .into_iter()
            .flatten()
            .map(Value::to_string)
            .collect();
        let _ = write!(
            text,
            "\n{:<28}{:>20} {:>8.1} {:>8.1} {:>14.2}",
            line["product"].as_str().unwrap_or_default(),
            sizes.join(" x "),
            number("mim_gflops"),
            number("candle_gflops"),
            number("share_of_large"),
        );
    }
    Ok(text)
}

fn name(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    }
}

/// The blocks in use, and others around those of this CPU.
fn candidates(in_use: MatmulBlocks) -> Vec<MatmulBlocks> {
    let usual = MatmulBlocks::of_this_cpu();
    let mut tried = Vec::new();
    for rows in [usual.rows / 2, usual.rows, usual.rows * 2] {
        for cols in [usual.cols / 2, usual.cols, usual.cols * 2] {
            tried.extend([2, 4, 8].map(|parts| MatmulBlocks { rows, cols, parts }));
        }
    }
    if !tried.contains(&in_use) {
        tried.push(in_use);
    }
    tried
}

/// The time of all products with each size of blocks, the shortest first.
fn tune(op: &Op, products: &[Product]) -> Result<String> {
    let before = MatmulBlocks::current();
    let tried = candidates(before);
    let runs: Vec<_> = tried
        .iter()
        .map(|blocks| {
            || -> Result<()> {
                blocks.apply();
                products.iter().try_for_each(Product::run)
            }
        })
        .collect();
    let runs: Vec<&dyn Fn() -> Result<()>> = runs.iter().map(|run| run as _).collect();
    let times = in_turns(&runs, op.rounds);
    before.apply();
    let mut results: Vec<(f64, MatmulBlocks)> = times?
        .iter_mut()
        .map(|times| spread(times).0)
        .zip(tried)
        .collect();
    results.sort_by(|a, b| a.0.total_cmp(&b.0));
    if op.json {
        let line = |(seconds, blocks): &(f64, MatmulBlocks)| json!({ "blocks": blocks.to_string(), "s_median": seconds });
        let all = json!({ "op": "matmul", "batch": op.batch, "rounds": op.rounds, "threads": threads(),
            "precision": op.precision(), "tried": results.iter().map(line).collect::<Vec<_>>() });
        return Ok(all.to_string());
    }
    let mut text = format!(
        "all products of a block, {} threads, {}\n\n{:<32}{:>8}",
        threads(),
        name(op.precision()),
        "KiB of rows, of columns, parts",
        "ms"
    );
    for (seconds, blocks) in &results {
        let note = match *blocks == before {
            true => "  in use",
            false => "",
        };
        let _ = write!(
            text,
            "\n{:<32}{:>8.1}{note}",
            blocks.to_string(),
            seconds * 1e3
        );
    }
    let _ = write!(
        text,
        "\n\nto use the first one, if a second run agrees: {BLOCKS}={}",
        results[0].1
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_a_layer_have_as_many_operations() {
        for three in products(8, 2).chunks(3) {
            assert!(
                three
                    .iter()
                    .all(|product| product.flop() == three[0].flop())
            );
            for product in three {
                let [lhs, rhs] = product.tensors().unwrap();
                assert_eq!(
                    lhs.matmul(&rhs).unwrap().elem_count(),
                    product.sizes[0] * product.sizes[2]
                );
                product.run().unwrap();
            }
        }
    }
}
