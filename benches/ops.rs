//! Each op, forward and backward, against the same in plain candle operations.
//!
//! `cargo bench --bench ops`; a name filters, e.g. `-- attention`. Ids give op, version and shape:
//! `vitb` is 8 images of 197 tokens of a ViT-B/16, `tiny` is 64 images of 17 tokens of a 192-wide
//! ViT on 32 px.

#![expect(
    clippy::expect_used,
    reason = "a benchmark has no caller to return an error to"
)]

use std::hint::black_box;
use std::time::Duration;

use candle_core::backprop::GradStore;
use candle_core::{D, DType, Device, Result, Tensor, Var};
use criterion::{Criterion, criterion_group, criterion_main};
use mim_core::ops::{self, AdamWStep, PatchOrder};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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

type Op<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Values in [-1, 1] that look random; the same every time.
fn values(shape: &[usize]) -> Var {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i as f32 * 12.9898).sin()).collect();
    Var::from_vec(values, shape, &Device::Cpu).expect("shape and count agree")
}

fn fused<T>(result: mim_core::Result<T>) -> Result<T> {
    result.map_err(candle_core::Error::wrap)
}

fn forward_backward(op: Op, inputs: &[Tensor]) -> Result<GradStore> {
    op(inputs)?.sum_all()?.backward()
}

/// Times forward and backward of both versions, in group `ops/<op>`.
fn compare(c: &mut Criterion, op: &str, size: &Size, inputs: &[Var], versions: [Op; 2]) {
    let inputs: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
    let mut group = c.benchmark_group(format!("ops/{op}"));
    for (version, run) in ["fused", "plain"].iter().zip(versions) {
        group.bench_function(format!("{version}/{}", size.name), |b| {
            b.iter(|| forward_backward(run, &inputs).expect("shapes fit"));
        });
    }
}

fn layers(c: &mut Criterion) {
    for size in &SIZES {
        let Size {
            batch, tokens, dim, ..
        } = *size;
        let xs = values(&[batch, tokens, dim]);
        let (weight, bias) = (values(&[dim]), values(&[dim]));
        let layer_norm: [Op; 2] = [
            &|t| fused(ops::layer_norm(&t[0], &t[1], &t[2], 1e-6)),
            &|t| candle_nn::ops::layer_norm_slow(&t[0], &t[1], &t[2], 1e-6),
        ];
        compare(
            c,
            "layer_norm",
            size,
            &[xs.clone(), weight, bias],
            layer_norm,
        );

        let (weight, bias) = (values(&[dim]), values(&[dim]));
        let batch_norm: [Op; 2] = [
            &|t| fused(ops::batch_norm(&t[0], &t[1], &t[2], 1e-5).map(|normed| normed.ys)),
            &|t| {
                let rows = t[0].flatten_to(1)?;
                let centred = rows.broadcast_sub(&rows.mean_keepdim(0)?)?;
                let deviation = (centred.sqr()?.mean_keepdim(0)? + 1e-5)?.sqrt()?;
                let ys = centred.broadcast_div(&deviation)?.broadcast_mul(&t[1])?;
                ys.broadcast_add(&t[2])?.reshape(t[0].shape())
            },
        ];
        compare(
            c,
            "batch_norm",
            size,
            &[xs.clone(), weight, bias],
            batch_norm,
        );

        let (weight, bias) = (values(&[4 * dim, dim]), values(&[4 * dim]));
        let linear: [Op; 2] = [&|t| fused(ops::linear(&t[0], &t[1], Some(&t[2]))), &|t| {
            t[0].broadcast_matmul(&t[1].t()?)?.broadcast_add(&t[2])
        }];
        compare(c, "linear", size, &[xs.clone(), weight, bias], linear);

        let wide = values(&[batch, tokens, 4 * dim]);
        let gelu: [Op; 2] = [&|t| fused(ops::gelu(&t[0])), &|t| t[0].gelu_erf()];
        compare(c, "gelu", size, &[wide], gelu);

        let rows = batch * tokens;
        let ids: Vec<u32> = (0u32..).step_by(4).take(rows / 4).collect();
        let ids = Tensor::new(ids, &Device::Cpu).expect("ids are plain numbers");
        let gather: [Op; 2] = [
            &|t| fused(ops::gather_rows(&t[0].flatten(0, 1)?, &ids)),
            &|t| t[0].flatten(0, 1)?.index_select(&ids, 0),
        ];
        compare(c, "gather_rows", size, &[xs], gather);
    }
}

/// Attention as usually written: transposed copies of queries, keys and values.
fn plain_attention(qkv: &Tensor, heads: usize, bias: Option<&Tensor>) -> Result<Tensor> {
    let (batch, tokens, packed) = qkv.dims3()?;
    let width = packed / 3 / heads;
    let qkv = qkv.reshape((batch, tokens, 3, heads, width))?;
    let qkv = qkv.permute((2, 0, 3, 1, 4))?.contiguous()?;
    let scale = (width as f64).powf(-0.5);
    let scores = (qkv.get(0)? * scale)?.matmul(&qkv.get(1)?.transpose(D::Minus2, D::Minus1)?)?;
    let scores = match bias {
        Some(bias) => scores.broadcast_add(bias)?,
        None => scores,
    };
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
    let ys = weights.matmul(&qkv.get(2)?)?;
    ys.transpose(1, 2)?.reshape((batch, tokens, packed / 3))
}

fn attention(c: &mut Criterion) {
    for size in &SIZES {
        let Size {
            batch,
            tokens,
            dim,
            heads,
            ..
        } = *size;
        let scale = ((dim / heads) as f64).powf(-0.5);
        let qkv = values(&[batch, tokens, 3 * dim]);
        let versions: [Op; 2] = [
            &|t| fused(ops::attention(&t[0], heads, None, scale)),
            &|t| plain_attention(&t[0], heads, None),
        ];
        compare(c, "attention", size, std::slice::from_ref(&qkv), versions);
        let versions: [Op; 2] = [
            &|t| fused(ops::attention(&t[0], heads, Some(&t[1]), scale)),
            &|t| plain_attention(&t[0], heads, Some(&t[1])),
        ];
        let bias = values(&[1, heads, tokens, tokens]);
        compare(c, "attention_bias", size, &[qkv, bias], versions);

        let scores = values(&[batch, heads, tokens, tokens]);
        let softmax: [Op; 2] = [&|t| fused(ops::softmax(&t[0])), &|t| {
            candle_nn::ops::softmax(&t[0], D::Minus1)
        }];
        compare(c, "softmax", size, &[scores], softmax);
    }
}

fn patches(c: &mut Criterion) {
    let images = values(&[8, 3, 224, 224]);
    let mut group = c.benchmark_group("ops/patchify");
    for (name, order) in [
        ("pixels_then_channels", PatchOrder::PixelsThenChannels),
        ("channels_then_pixels", PatchOrder::ChannelsThenPixels),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| fused(ops::patchify(&images, 16, order)).expect("sides divide"))
        });
    }
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
        group.bench_function(id, |b| b.iter(|| run().expect("shapes fit")));
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
    time("scale_inplace/fused", &|| {
        fused(ops::scale_inplace(&grad, 1.0))
    });
    time("scale_inplace/plain", &|| {
        grad.set(&(grad.as_tensor() * 1.0)?)
    });
}

fn brief() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = benches;
    config = brief();
    targets = layers, attention, patches, parameters
}
criterion_main!(benches);
