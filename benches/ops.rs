//! Each op, forward and backward, against the same computation in plain candle operations.
//!
//! `cargo bench --bench ops`; a name filters, e.g. `-- attention`. Ids give op, version and shape: `vitb` is 8 images
//! of 197 tokens of a ViT-B/16, `tiny` is 64 images of 17 tokens of a 192-wide ViT on 32 px. Operations on images are
//! in `image_ops`.

#![expect(
    clippy::expect_used,
    reason = "a benchmark has no caller to return an error to"
)]

mod common;

use std::hint::black_box;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use common::{Op, brief, compare, fused, time, values};
use criterion::{Criterion, criterion_group, criterion_main};
use mim_core::ops::{self, AdamWStep};

/// Sizes of a transformer's activations.
struct Size {
    name: &'static str,
    batch: usize,
    tokens: usize,
    dim: usize,
    heads: usize,
}

const SIZES: [Size; 2] = [
    Size {
        name: "vitb",
        batch: 8,
        tokens: 197,
        dim: 768,
        heads: 12,
    },
    Size {
        name: "tiny",
        batch: 64,
        tokens: 17,
        dim: 192,
        heads: 3,
    },
];

fn norms(c: &mut Criterion) {
    for size in &SIZES {
        let Size { dim, name, .. } = *size;
        let xs = values(&[size.batch, size.tokens, dim]);
        let (weight, bias) = (values(&[dim]), values(&[dim]));
        let inputs = [xs, weight, bias];
        let versions: [Op; 2] = [
            &|t| fused(ops::layer_norm(&t[0], &t[1], &t[2], 1e-6)),
            &|t| candle_nn::ops::layer_norm_slow(&t[0], &t[1], &t[2], 1e-6),
        ];
        compare(c, "layer_norm", name, &inputs, versions);
        let versions: [Op; 2] = [&|t| fused(ops::normalize(&t[0], 1e-6)), &|t| {
            let centred = t[0].broadcast_sub(&t[0].mean_keepdim(D::Minus1)?)?;
            let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
            centred.broadcast_div(&(variance + 1e-6)?.sqrt()?)
        }];
        compare(c, "normalize", name, &inputs[..1], versions);
        let versions: [Op; 2] = [
            &|t| fused(ops::batch_norm(&t[0], &t[1], &t[2], 1e-5).map(|normed| normed.ys)),
            &|t| {
                let rows = t[0].flatten_to(1)?;
                let centred = rows.broadcast_sub(&rows.mean_keepdim(0)?)?;
                let deviation = (centred.sqr()?.mean_keepdim(0)? + 1e-5)?.sqrt()?;
                let ys = centred.broadcast_div(&deviation)?.broadcast_mul(&t[1])?;
                ys.broadcast_add(&t[2])?.reshape(t[0].shape())
            },
        ];
        compare(c, "batch_norm", name, &inputs, versions);
    }
}

fn layers(c: &mut Criterion) {
    for size in &SIZES {
        let Size { dim, name, .. } = *size;
        let inputs = [
            values(&[size.batch, size.tokens, dim]),
            values(&[4 * dim, dim]),
            values(&[4 * dim]),
        ];
        let plain = |t: &[Tensor]| t[0].broadcast_matmul(&t[1].t()?)?.broadcast_add(&t[2]);
        let versions: [Op; 2] = [&|t| fused(ops::linear(&t[0], &t[1], Some(&t[2]))), &plain];
        compare(c, "linear", name, &inputs, versions);
        let versions: [Op; 2] = [&|t| fused(ops::linear_gelu(&t[0], &t[1], &t[2])), &|t| {
            plain(t)?.gelu_erf()
        }];
        compare(c, "linear_gelu", name, &inputs, versions);

        let wide = [values(&[size.batch, size.tokens, 4 * dim])];
        let versions: [Op; 2] = [&|t| fused(ops::gelu(&t[0])), &|t| t[0].gelu_erf()];
        compare(c, "gelu", name, &wide, versions);
        let versions: [Op; 2] = [&|t| fused(ops::quick_gelu(&t[0])), &|t| {
            &t[0] / ((&t[0] * -1.702)?.exp()? + 1.)?
        }];
        compare(c, "quick_gelu", name, &wide, versions);
    }
}

/// A quarter of all tokens over the batch, and a quarter of each image's tokens.
fn tokens(c: &mut Criterion) {
    for size in &SIZES {
        let Size { tokens, name, .. } = *size;
        let inputs = [values(&[size.batch, tokens, size.dim])];
        let ids = |count: usize| (0u32..).step_by(4).take(count / 4).collect::<Vec<_>>();
        let tensor = |ids: Vec<u32>| Tensor::new(ids, &Device::Cpu).expect("plain numbers");
        let rows = tensor(ids(size.batch * tokens));
        let versions: [Op; 2] = [
            &|t| fused(ops::gather_rows(&t[0].flatten(0, 1)?, &rows)),
            &|t| t[0].flatten(0, 1)?.index_select(&rows, 0),
        ];
        compare(c, "gather_rows", name, &inputs, versions);
        let (order, places) = (ids(tokens), tensor(ids(tokens)));
        let versions: [Op; 2] = [&|t| fused(ops::gather_tokens(&t[0], &order)), &|t| {
            t[0].index_select(&places, 1)
        }];
        compare(c, "gather_tokens", name, &inputs, versions);
    }
}

/// Attention of `[batch, tokens, dim]` queries as usually written, keys and values packed as
/// `[batch, tokens, 2 * dim]`: transposed copies of all of them.
fn attend(q: &Tensor, kv: &Tensor, heads: usize, bias: Option<&Tensor>) -> Result<Tensor> {
    let (batch, queries, dim) = q.dims3()?;
    let (width, keys) = (dim / heads, kv.dim(1)?);
    let q = q.reshape((batch, queries, heads, width))?.transpose(1, 2)?;
    let kv = kv.reshape((batch, keys, 2, heads, width))?;
    let kv = kv.permute((2, 0, 3, 1, 4))?.contiguous()?;
    let scores = (q.contiguous()? * (width as f64).powf(-0.5))?.matmul(&kv.get(0)?.t()?)?;
    let scores = match bias {
        Some(bias) => scores.broadcast_add(bias)?,
        None => scores,
    };
    let ys = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&kv.get(1)?)?;
    ys.transpose(1, 2)?.reshape((batch, queries, dim))
}

fn plain_attention(qkv: &Tensor, heads: usize, bias: Option<&Tensor>) -> Result<Tensor> {
    let dim = qkv.dim(2)? / 3;
    attend(
        &qkv.narrow(2, 0, dim)?,
        &qkv.narrow(2, dim, 2 * dim)?,
        heads,
        bias,
    )
}

fn attention(c: &mut Criterion) {
    for size in &SIZES {
        let Size {
            name,
            batch,
            tokens,
            dim,
            heads,
        } = *size;
        let scale = ((dim / heads) as f64).powf(-0.5);
        let inputs = [
            values(&[batch, tokens, 3 * dim]),
            values(&[1, heads, tokens, tokens]),
        ];
        let versions: [Op; 2] = [
            &|t| fused(ops::attention(&t[0], heads, None, scale)),
            &|t| plain_attention(&t[0], heads, None),
        ];
        compare(c, "attention", name, &inputs[..1], versions);
        let versions: [Op; 2] = [
            &|t| fused(ops::attention(&t[0], heads, Some(&t[1]), scale)),
            &|t| plain_attention(&t[0], heads, Some(&t[1])),
        ];
        compare(c, "attention_bias", name, &inputs, versions);

        let inputs = [
            values(&[batch, tokens, dim]),
            values(&[batch, tokens, 2 * dim]),
        ];
        let versions: [Op; 2] = [
            &|t| fused(ops::cross_attention(&t[0], &t[1], heads, scale)),
            &|t| attend(&t[0], &t[1], heads, None),
        ];
        compare(c, "cross_attention", name, &inputs, versions);

        let scores = values(&[batch, heads, tokens, tokens]);
        let versions: [Op; 2] = [&|t| fused(ops::softmax(&t[0])), &|t| {
            candle_nn::ops::softmax(&t[0], D::Minus1)
        }];
        compare(c, "softmax", name, &[scores], versions);
    }
}

/// 8 images of 75 hidden tokens, and the codes of BEiT's tokenizer.
fn losses(c: &mut Criterion) {
    let (rows, codes) = (600, 8192);
    let logits = [values(&[rows, codes])];
    let ids: Vec<u32> = (0..600).map(|row| row * 7919 % 8192).collect();
    let ids = Tensor::new(ids, &Device::Cpu).expect("plain numbers");
    let targets = fused(ops::softmax(&values(&[rows, codes]).as_detached_tensor()));
    let targets = targets.expect("plain values");
    let logs = |t: &[Tensor]| candle_nn::ops::log_softmax(&(&t[0] / 0.1)?, D::Minus1);
    let versions: [Op; 2] = [&|t| fused(ops::cross_entropy(&t[0], &ids, 0.1)), &|t| {
        let chosen = logs(t)?.gather(&ids.unsqueeze(1)?, 1)?;
        chosen.squeeze(1)?.neg()
    }];
    compare(c, "cross_entropy", "600x8192", &logits, versions);
    let versions: [Op; 2] = [
        &|t| fused(ops::soft_cross_entropy(&t[0], &targets, 0.1)),
        &|t| (&targets * logs(t)?)?.sum(D::Minus1)?.neg(),
    ];
    compare(c, "soft_cross_entropy", "600x8192", &logits, versions);
}

/// Adam's formulas, one operation each, on values of a `Var`.
fn plain_adamw(p: &Var, g: &Tensor, m: &Var, v: &Var) -> Result<()> {
    m.set(&((m.as_tensor() * 0.9)? + (g * 0.1)?)?)?;
    v.set(&((v.as_tensor() * 0.95)? + (g.sqr()? * 0.05)?)?)?;
    let change = (m.as_tensor() / ((v.sqrt()? * 1.5)? + 1e-8)?)?;
    p.set(&((p.as_tensor() * 0.999)? - (change * 1e-3)?)?)
}

fn parameters(c: &mut Criterion) {
    let new = || values(&[3072, 768]);
    let (param, grad, exp_avg) = (new(), new(), new());
    let exp_avg_sq = Var::zeros((3072, 768), DType::F32, &Device::Cpu).expect("shape is valid");
    let step = AdamWStep {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.05,
        step: 3,
    };
    let mut group = c.benchmark_group("ops/parameters");
    let mut time = |id: &str, run: &dyn Fn() -> Result<()>| {
        time(&mut group, &format!("{id}/3072x768"), || Ok(run()?));
    };
    time("adamw/fused", &|| {
        fused(ops::adamw_step(&param, &grad, &exp_avg, &exp_avg_sq, &step))
    });
    time("adamw/plain", &|| {
        plain_adamw(&param, &grad, &exp_avg, &exp_avg_sq)
    });
    time("ema_update/fused", &|| {
        fused(ops::ema_update(&param, &grad, 0.996))
    });
    time("ema_update/plain", &|| {
        param.set(&((param.as_tensor() * 0.996)? + (grad.as_tensor() * 0.004)?)?)
    });
    time("sum_squares/fused", &|| {
        black_box(fused(ops::sum_squares(&grad))?);
        Ok(())
    });
    time("sum_squares/plain", &|| {
        black_box(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
        Ok(())
    });
    let square = Tensor::new(&[1e12], &Device::Cpu).expect("one number");
    // Its factor rounds to 1, so the values do not change.
    let bound = ops::MaxNorm::Joint(1e6);
    time("clip_norm/fused", &|| {
        fused(ops::clip_norm(&[&grad], &square, bound))
    });
    time("clip_norm/plain", &|| grad.set(&(grad.as_tensor() * 1.0)?));
}

criterion_group! {
    name = benches;
    config = brief();
    targets = norms, layers, tokens, attention, losses, parameters
}
criterion_main!(benches);
