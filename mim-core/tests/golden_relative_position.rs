//! SIM's relative positions and views against recorded numbers.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test may panic, and its numbers are small"
)]

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use mim_core::augment::{CropBox, HorizontalFlip, ImageOp, Interpolation, Sample, resize};
use mim_core::nn::{RelativeGrid, sincos_table};
use mim_core::rng::stream;
use mim_core::{Crop, Norm, PatchGrid, Purpose, View};
use mim_testing::Golden;

const SOURCE: (usize, usize) = (80, 96);

fn case() -> HashMap<String, Tensor> {
    Golden::load("components/sim_relative_position").tensors
}

/// Top, left, height, width and flip of both views of each row.
fn boxes(case: &HashMap<String, Tensor>) -> Vec<[[usize; 5]; 2]> {
    let rows = case["input.crop_boxes"].to_dtype(DType::F32).unwrap();
    let rows = rows.to_vec2::<f32>().unwrap();
    let view = |row: &[f32]| std::array::from_fn(|at| row[at] as usize);
    rows.iter()
        .map(|row| [view(&row[..5]), view(&row[5..])])
        .collect()
}

fn crop([top, left, height, width, flipped]: [usize; 5]) -> Crop {
    let [top, left, height, width] = [top, left, height, width].map(|side| side as f32);
    Crop {
        top,
        left,
        height,
        width,
        flipped: flipped == 1,
        ..Crop::whole((SOURCE.0 as u32, SOURCE.1 as u32))
    }
}

#[track_caller]
fn assert_close(ours: &[f32], theirs: &Tensor, atol: f32) {
    let theirs: Vec<f32> = theirs.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(theirs) {
        let allowed = atol + 1e-4 * theirs.abs();
        assert!((ours - theirs).abs() <= allowed, "{ours} against {theirs}");
    }
}

#[test]
fn relative_positions_equal_the_recorded_ones() {
    let case = case();
    for (side, dim) in [(4, 24), (14, 16)] {
        let grid = PatchGrid::new(side, side);
        let (mut rows, mut cols, mut waves) = (vec![], vec![], vec![]);
        for [first, second] in boxes(&case) {
            let places = RelativeGrid::new(&crop(first), &crop(second), grid).unwrap();
            rows.extend(places.rows.iter().flat_map(|row| vec![*row; side]));
            cols.extend(places.cols.repeat(side));
            places.append_sincos(dim, &mut waves);
        }
        assert_close(&rows, &case[&format!("expect.grid_h.g{side}")], 1e-4);
        assert_close(&cols, &case[&format!("expect.grid_w.g{side}")], 1e-4);
        assert_close(&waves, &case[&format!("expect.embed.g{side}.d{dim}")], 1e-4);
        let table = sincos_table(grid, dim, 1, true, &Device::Cpu).unwrap();
        let table: Vec<f32> = table.flatten_all().unwrap().to_vec1().unwrap();
        assert_close(
            &table,
            &case[&format!("expect.abs_embed.g{side}.d{dim}")],
            1e-6,
        );
    }
}

#[test]
fn a_flip_before_a_crop_gives_the_recorded_views_and_crops() {
    let case = case();
    let image = case["input.image"].flatten_all().unwrap();
    let image = Sample::new(image.to_vec1().unwrap(), SOURCE, 3).unwrap();
    for (row, views) in boxes(&case).into_iter().enumerate() {
        for (view, recorded) in ["expect.view1", "expect.view2"].into_iter().zip(views) {
            let [top, left, height, width, flipped] = recorded;
            let flip = HorizontalFlip { p: flipped as f64 };
            let rng = &mut stream(0, Purpose::Augment, [0, 0]);
            let sample = flip.apply(image.clone(), rng).unwrap();
            let cut = CropBox {
                top,
                left,
                height,
                width,
            };
            let sample = resize(sample, cut, (32, 32), Interpolation::Bicubic).unwrap();
            assert_eq!(sample.crop(), crop(recorded));
            let mut planes = vec![];
            sample.append_planes(&mut planes);
            let pixels = Tensor::from_vec(planes, (1, 3, 32, 32), &Device::Cpu).unwrap();
            let view_of = View::new(pixels, vec![]).unwrap();
            let ours = view_of.normalized(&Norm::imagenet()).unwrap();
            let ours: Vec<f32> = ours.flatten_all().unwrap().to_vec1().unwrap();
            assert_close(&ours, &case[view].get(row).unwrap(), 0.02);
        }
    }
}
