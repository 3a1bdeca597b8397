//! Position tables and relative position indices against recorded numbers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use candle_core::{DType, Device, Tensor};
use mim_core::PatchGrid;
use mim_core::nn::{relative_position_index, sincos_table};
use mim_core::weights::{WeightMap, resize_pos_embed};

fn case(stem: &str) -> WeightMap {
    WeightMap::read(format!(
        "{}/tests/goldens/{stem}.safetensors",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap()
}

fn off(ours: &Tensor, theirs: &Tensor) -> f32 {
    assert_eq!(ours.elem_count(), theirs.elem_count());
    let difference = (ours.flatten_all().unwrap() - theirs.flatten_all().unwrap()).unwrap();
    difference
        .abs()
        .unwrap()
        .max(0)
        .unwrap()
        .to_scalar()
        .unwrap()
}

#[test]
fn sines_and_cosines_equal_the_recorded_tables() {
    let case = case("sincos_pos_embed");
    for (dim, side, prefix) in [(32, 4, 1), (48, 7, 0), (768, 2, 0), (24, 3, 1)] {
        let ours =
            sincos_table(PatchGrid::new(side, side), dim, prefix, false, &Device::Cpu).unwrap();
        let theirs = case
            .get(&format!("expect.sincos_d{dim}_g{side}_cls{prefix}"))
            .unwrap();
        assert!(off(&ours, theirs) < 1e-6, "dim {dim}, grid {side}");
    }
}

#[test]
fn resized_tables_equal_the_recorded_ones() {
    let case = case("sincos_pos_embed");
    let table = case.get("input.pos_embed").unwrap();
    for side in [6, 3, 4] {
        let ours =
            resize_pos_embed(table, PatchGrid::new(4, 4), PatchGrid::new(side, side), 1).unwrap();
        let theirs = case.get(&format!("expect.interp_to_{side}")).unwrap();
        // The case allows 1e-6 + 1e-5 of a value + 1e-6 of the largest; values reach 1.
        assert!(off(&ours, theirs) < 5e-6, "to {side}");
    }
}

#[test]
fn relative_position_indices_equal_the_recorded_ones() {
    let case = case("relative_position_index");
    for side in [4, 3] {
        let theirs = case
            .get(&format!("expect.beit_index_{side}x{side}"))
            .unwrap();
        let theirs: Vec<u32> = theirs
            .to_dtype(DType::U32)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        assert_eq!(
            relative_position_index(PatchGrid::new(side, side)),
            theirs,
            "grid {side}"
        );
    }
}
