//! Augmentations against what the authors' own pipelines gave.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test may panic, and its numbers are small"
)]

use candle_core::{DType, Device, Tensor};
use mim_core::augment::{CropBox, ImageOp, PixelShift, Sample, weighted_grayscale};
use mim_core::rng::stream;
use mim_core::{Norm, Purpose, View};
use mim_testing::Golden;

fn cmae() -> Golden {
    Golden::load("components/pixel_shift_cmae")
}

/// An image `[height, width, 3]`.
fn sample(case: &Golden, name: &str) -> Sample {
    let (height, width, channels) = case.get(name).dims3().unwrap();
    Sample::new(case.bytes(name), (height, width), channels).unwrap()
}

/// Every 8th pixel of every 8th row.
fn subsampled(sample: &Sample) -> Vec<u8> {
    let (_, width) = sample.size();
    let rows = sample.pixels().chunks(3 * width).step_by(8);
    rows.flat_map(|row| row.chunks(3).step_by(8).flatten())
        .copied()
        .collect()
}

#[test]
fn cmae_views_are_windows_of_the_crop() {
    let case = cmae();
    let source = sample(&case, "input.image");
    let offsets: Vec<Vec<i64>> = case.tensors["input.offsets"].to_vec2().unwrap();
    let crops = case.bytes("expect.crops_every8");
    for (offset, crop) in offsets.iter().zip(crops.chunks(28 * 28 * 3)) {
        let window = CropBox {
            top: offset[0] as usize,
            left: offset[1] as usize,
            height: 224,
            width: 224,
        };
        assert_eq!(subsampled(&window.cut(source.clone()).unwrap()), crop);
    }
    // The online view.
    let corner = PixelShift {
        size: 224.into(),
        max_shift: 0,
    };
    let mut rng = stream(0, Purpose::Augment, [0, 0]);
    let online = corner.apply(source, &mut rng).unwrap();
    assert_eq!(subsampled(&online), &crops[..28 * 28 * 3]);
}

#[test]
fn cmae_shifts_are_uniform_with_both_ends() {
    const DRAWS: u64 = 4000;
    let case = cmae();
    let source = Sample::new(vec![0; 33 * 33], (33, 33), 1).unwrap();
    let shift = PixelShift {
        size: 2.into(),
        max_shift: 31,
    };
    let mut found = vec![0f32; 64];
    for draw in 0..DRAWS {
        let mut rng = stream(0, Purpose::Augment, [0, draw]);
        let crop = shift.apply(source.clone(), &mut rng).unwrap().crop();
        for (axis, offset) in [crop.top, crop.left].into_iter().enumerate() {
            found[offset as usize * 2 + axis] += 1. / DRAWS as f32;
        }
    }
    // Five deviations of the difference of two such frequencies are 0.019.
    for (found, theirs) in found.iter().zip(case.floats("expect.offset_hist")) {
        assert!((found - theirs).abs() < 0.02, "{found} against {theirs}");
    }
}

#[test]
fn cmae_greys_with_its_own_weights() {
    let case = cmae();
    let grey = weighted_grayscale(sample(&case, "input.norm_image"), [0.114, 0.587, 0.2989]);
    assert_eq!(grey.pixels(), case.bytes("expect.grayscale"));
}

#[test]
fn cmae_subtracts_the_mean_of_red_from_blue() {
    let case = cmae();
    let pixels = case.tensors["input.norm_image"].permute((2, 0, 1)).unwrap();
    let pixels = pixels.contiguous().unwrap().unsqueeze(0).unwrap();
    assert_eq!(pixels.dtype(), DType::U8);
    let norm = Norm {
        mean: vec![0.406, 0.456, 0.485],
        std: vec![0.225, 0.224, 0.229],
        reverse_channels: true,
    };
    let view = View::new(pixels, vec![]).unwrap();
    let ours = view.normalized(&norm).unwrap().flatten_all().unwrap();
    let ours: Vec<f32> = ours.to_vec1().unwrap();
    for (ours, theirs) in ours.iter().zip(case.floats("expect.normalised")) {
        assert!((ours - theirs).abs() < 1e-5 * (1. + theirs.abs()));
    }
}
