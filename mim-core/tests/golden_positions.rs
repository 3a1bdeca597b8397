//! Position tables and relative position indices against recorded numbers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use candle_core::{DType, Device, Tensor};
use mim_core::nn::{
    PosEmbed, PosEmbedKind, Windows, relative_position_index, sincos_table, window_position_index,
};
use mim_core::weights::{WeightMap, resize_pos_embed, resize_rel_pos_bias};
use mim_core::{ParamStore, PatchGrid};
use mim_testing::committed;

fn case(stem: &str) -> WeightMap {
    let case = committed(&format!("components/{stem}"));
    WeightMap::read(case.with_extension("safetensors")).unwrap()
}

fn ids(tensor: &Tensor) -> Vec<u32> {
    let ids = tensor.to_dtype(DType::U32).unwrap();
    ids.flatten_all().unwrap().to_vec1().unwrap()
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
fn tables_for_other_image_sizes_equal_the_recorded_ones() {
    let case = case("dino_pos_embed_bicubic");
    for (name, from, to) in [("a", 14, 6), ("b", 4, 2), ("c", 5, 8)] {
        let table = case.get(&format!("input.{name}.pos_embed")).unwrap();
        let store = ParamStore::cpu(0);
        let (dim, grid) = (table.dim(2).unwrap(), PatchGrid::new(from, from));
        let kind = PosEmbedKind::Learned;
        let ours = PosEmbed::new(&store.root(), "pos_embed", kind, dim, (grid, 1)).unwrap();
        store.var("pos_embed").unwrap().set(table).unwrap();
        let ours = ours.unwrap().for_any_grid();
        let theirs = case.get(&format!("expect.{name}.pos_embed")).unwrap();
        let (cls, patches) = (theirs.narrow(1, 0, 1), theirs.narrow(1, 1, to * to));
        assert_eq!(off(&ours.prefix().unwrap(), &cls.unwrap()), 0., "{name}");
        let rows = ours.patches(PatchGrid::new(to, to)).unwrap();
        // The case allows 1e-5 and more; the weights are the same but for rounding.
        let error = off(&rows, &patches.unwrap());
        assert!(error < 1e-5, "{name}: {error}");
    }
}

#[test]
fn relative_position_indices_equal_the_recorded_ones() {
    let case = case("relative_position_index");
    for side in [4, 3] {
        let theirs = case
            .get(&format!("expect.beit_index_{side}x{side}"))
            .unwrap();
        assert_eq!(
            relative_position_index(PatchGrid::new(side, side)),
            ids(theirs),
            "grid {side}"
        );
    }
}

/// The windows of Swin: index and shift mask, against one recorded case.
fn windows_agree(case: &WeightMap, index: &str, sides: &[usize], masks: &[&str]) {
    for &side in sides {
        let theirs = case.get(&format!("expect.{index}{side}")).unwrap();
        let ours = window_position_index(PatchGrid::new(side, side));
        assert_eq!(ours, ids(theirs), "window {side}");
    }
    for name in masks {
        // A map of 6 is padded to whole windows, so all of these are 8x8 with windows of 4, shifted by 2.
        let windows = Windows::new(PatchGrid::new(8, 8), 4, 2).unwrap();
        let ours = windows.shift_mask(&Device::Cpu).unwrap().unwrap();
        let theirs = case.get(&format!("expect.{name}")).unwrap();
        assert_eq!(ours.squeeze(1).unwrap().dims(), theirs.dims());
        assert_eq!(off(&ours, theirs), 0., "{name}");
    }
}

#[test]
fn windows_and_their_shift_equal_the_recorded_ones() {
    let case = case("relative_position_index");
    windows_agree(&case, "swin_index_w", &[3, 4, 7], &["attn_mask_8x8_w4_s2"]);
    let case = self::case("swin_window_index_and_shift_mask");
    let masks = ["attn_mask_H6_w4_s2", "attn_mask_H8_w4_s2"];
    windows_agree(&case, "relative_position_index_w", &[2, 3, 7], &masks);
}

#[test]
fn resized_relative_tables_equal_the_recorded_ones() {
    for (stem, from, to) in [("rel_pos_geo_up", 4, 6), ("rel_pos_geo_6_to_7", 6, 7)] {
        let case = case(stem);
        let (from, to) = (PatchGrid::new(from, from), PatchGrid::new(to, to));
        for (name, extra) in [("vit_table", 3), ("swin_table", 0)] {
            let table = case.get(&format!("input.{name}")).unwrap();
            let ours = resize_rel_pos_bias(table, from, to, extra).unwrap();
            let theirs = case.get(&format!("expect.{name}")).unwrap();
            // The case allows 1e-4 + 1e-3 of a value; the spline is the same but for rounding.
            let error = off(&ours, theirs);
            assert!(error < 1e-5, "{stem} {name}: {error}");
        }
        let theirs = case.get("expect.relative_position_index").unwrap();
        assert_eq!(relative_position_index(to), ids(theirs), "{stem}");
    }
}
