//! Each op on images and feature maps, against the same computation in plain candle operations.
//!
//! `cargo bench --bench image_ops`; a name filters, e.g. `-- depthwise`. Ids give op, version and shape. Times are of
//! forward and backward, except for histograms and patches, which need no gradient. Feature maps are channels-last.
//! `plain` adds or joins shifted maps: candle's own convolutions are slower, because they need channels first and loop
//! over groups (`mim bench op depthwise`).

#![expect(
    clippy::expect_used,
    reason = "a benchmark has no caller to return an error to"
)]

mod common;

use candle_core::{DType, Device, Result, Tensor};
use common::{GRID, Op, SIDE, brief, compare, distance, fused, time, values};
use criterion::{Criterion, criterion_group, criterion_main};
use mim_core::ops::{self, HogFilter, HogGradient, PatchOrder, Window};

/// `[batch, height, width, channels]` with zeros around each map.
fn padded(xs: &Tensor, padding: usize) -> Result<Tensor> {
    let xs = xs.pad_with_zeros(1, padding, padding)?;
    xs.pad_with_zeros(2, padding, padding)
}

/// The sum of shifted maps, each times the weights of its tap.
fn plain_depthwise(xs: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (_, height, width, channels) = xs.dims4()?;
    let side = weight.dim(3)?;
    let padded = padded(xs, side / 2)?;
    let mut ys = bias.broadcast_as(xs.shape())?;
    for row in 0..side {
        for col in 0..side {
            let tap = weight.narrow(2, row, 1)?.narrow(3, col, 1)?;
            let shifted = padded.narrow(1, row, height)?.narrow(2, col, width)?;
            ys = (ys + shifted.broadcast_mul(&tap.reshape(channels)?)?)?;
        }
    }
    Ok(ys)
}

/// ConvMAE's 5x5 and PVTv2's 3x3 convolutions.
fn depthwise(c: &mut Criterion) {
    for (map, side) in [([2, 56, 56, 128], 5), ([2, 32, 32, 256], 3)] {
        let channels = map[3];
        let inputs = [
            values(&map),
            values(&[channels, 1, side, side]),
            values(&[channels]),
        ];
        let versions: [Op; 2] = [&|t| fused(ops::depthwise_conv(&t[0], &t[1], &t[2])), &|t| {
            plain_depthwise(&t[0], &t[1], &t[2])
        }];
        let shape = format!("{}x{}x{}x{channels}_{side}x{side}", map[0], map[1], map[2]);
        compare(c, "depthwise_conv", &shape, &inputs, versions);
    }
}

/// The values of each window joined, position by position.
fn plain_unfold(xs: &Tensor, window: Window) -> Result<Tensor> {
    let (_, height, width, _) = xs.dims4()?;
    let padded = padded(xs, window.padding)?;
    let places = |offset: usize, length: usize| {
        let count = window.count(length).expect("a window fits");
        let offset = u32::try_from(offset).expect("a small window");
        let places = (offset..).step_by(window.stride).take(count);
        Tensor::new(places.collect::<Vec<u32>>(), &Device::Cpu)
    };
    let mut parts = vec![];
    for row in 0..window.kernel {
        let rows = padded.index_select(&places(row, height)?, 1)?;
        for col in 0..window.kernel {
            parts.push(rows.index_select(&places(col, width)?, 2)?);
        }
    }
    Tensor::cat(&parts, 3)
}

/// PVTv2's overlapping patches between stages, and the first convolution of DALL-E's tokenizer.
fn unfold(c: &mut Criterion) {
    for (map, kernel, stride) in [([4, 32, 32, 64], 3, 2), ([4, 112, 112, 3], 7, 1)] {
        let window = Window {
            kernel,
            stride,
            padding: kernel / 2,
        };
        let versions: [Op; 2] = [&|t| fused(ops::unfold(&t[0], window)), &|t| {
            plain_unfold(&t[0], window)
        }];
        let [batch, height, width, channels] = map;
        let shape = format!("{batch}x{height}x{width}x{channels}_{kernel}x{kernel}");
        compare(c, "unfold", &shape, &[values(&map)], versions);
    }
}

/// [`ops::hog`] of central differences without a window, except for angles that rounding moves to another bin.
fn plain_hog(images: &Tensor, filter: HogFilter) -> Result<Tensor> {
    let (batch, channels, height, width) = images.dims4()?;
    let difference = |axis: usize, length: usize| {
        let inner = images.narrow(axis, 2, length - 2)? - images.narrow(axis, 0, length - 2)?;
        inner?.pad_with_zeros(axis, 1, 1)
    };
    let (rise, run) = (difference(2, height)?, difference(3, width)?);
    let magnitude = (rise.sqr()? + run.sqr()?)?.sqrt()?;
    let below = rise.lt(0f64)?;
    let upward = |xs: &Tensor| below.where_cond(&xs.neg()?, xs);
    let (rise, run) = (upward(&rise)?, upward(&run)?);
    let mut bin = rise.zeros_like()?;
    for edge in 1..filter.bins {
        let (sin, cos) = (edge as f64 * std::f64::consts::PI / filter.bins as f64).sin_cos();
        let passed = (&rise * cos)?.ge(&(&run * sin)?)?;
        bin = (bin + passed.to_dtype(DType::F32)?)?;
    }
    // Half a turn counts as no turn.
    let bin = (bin * rise.gt(0f64)?.to_dtype(DType::F32)?)?;
    let cell = filter.cell;
    let shape = [batch, channels, height / cell, cell, width / cell, cell];
    let histograms = (0..filter.bins).map(|index| {
        let inside = bin.eq(index as f64)?.to_dtype(DType::F32)?;
        (inside * &magnitude)?.reshape(&shape[..])?.sum((3, 5))
    });
    Tensor::stack(&histograms.collect::<Result<Vec<_>>>()?, 2)
}

fn hog(c: &mut Criterion) {
    let images = values(&[8, 3, SIDE, SIDE]).as_detached_tensor();
    let filter = HogFilter {
        gradient: HogGradient::Central,
        bins: 9,
        cell: 8,
        window: None,
    };
    let sums = |histograms: Tensor| histograms.sum((0, 3, 4)).expect("five axes");
    let fused = sums(ops::hog(&images, filter).expect("whole cells"));
    let plain = sums(plain_hog(&images, filter).expect("whole cells"));
    assert!(distance(&fused, &plain) < 1e-4, "two versions of hog");
    let mut group = c.benchmark_group("ops/hog");
    time(&mut group, "fused/8x3x224x224", || {
        Ok(ops::hog(&images, filter)?)
    });
    time(&mut group, "plain/8x3x224x224", || {
        Ok(plain_hog(&images, filter)?)
    });
}

/// These consist of candle operations, so the two orders are compared.
fn patches(c: &mut Criterion) {
    let images = values(&[8, 3, SIDE, SIDE]).as_detached_tensor();
    let mut group = c.benchmark_group("ops/patchify");
    for (name, order) in [
        ("pixels_then_channels", PatchOrder::PixelsThenChannels),
        ("channels_then_pixels", PatchOrder::ChannelsThenPixels),
    ] {
        time(&mut group, &format!("{name}/8x3x224x224"), || {
            ops::patchify(&images, 16, order)
        });
        let patches = ops::patchify(&images, 16, order).expect("sides divide");
        time(&mut group, &format!("back/{name}/8x196x768"), || {
            ops::unpatchify(&patches, 16, GRID, order)
        });
    }
}

criterion_group! {
    name = benches;
    config = brief();
    targets = depthwise, unfold, hog, patches
}
criterion_main!(benches);
