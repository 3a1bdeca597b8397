//! Position tables, indices of relative positions, and where a view lies in another.

use candle_core::{Device, Tensor};
use mim_core::augment::{CropBox, HorizontalFlip, ImageOp, Interpolation, resize};
use mim_core::nn::{
    PosEmbed, PosEmbedKind, RelPosBias, RelativeGrid, Windows, relative_position_index,
    sincos_table, window_position_index,
};
use mim_core::rng::stream;
use mim_core::weights::{resize_pos_embed, resize_rel_pos_bias};
use mim_core::{Crop, Norm, ParamStore, PatchGrid, Purpose, View};
use serde::Deserialize;

use super::super::{Case, Result};
use super::Given;
use super::augment::sample;
use super::sampled::square;

/// Ids as a matrix.
fn matrix(ids: Vec<u32>) -> Result<Tensor> {
    let side = ids.len().isqrt();
    Ok(Tensor::from_vec(ids, (side, side), &Device::Cpu)?)
}

/// MAE's sines and cosines, and tables resized for fine-tuning.
pub(super) fn sincos(case: &Case, device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Table {
        dim: usize,
        grid: usize,
        cls: bool,
    }
    case.fixed("temperature", 10000)?;
    case.fixed("cubic_a", -0.75)?;
    let mut given = Given::default();
    for Table { dim, grid, cls } in case.needs::<Vec<Table>>("tables")? {
        let prefix = usize::from(cls);
        let table = sincos_table(square(grid), dim, prefix, false, device)?;
        given.expect(
            &format!("sincos_d{dim}_g{grid}_cls{prefix}"),
            table.squeeze(0)?,
        );
    }
    let table = case.required("input.pos_embed")?;
    let from = square((table.dim(1)? - 1).isqrt());
    for side in case.needs::<Vec<usize>>("interpolate_to")? {
        let resized = resize_pos_embed(table, from, square(side), 1)?;
        given.expect(&format!("interp_to_{side}"), resized);
    }
    Ok(given)
}

/// DINO's tables for images of other sizes.
pub(super) fn dino(case: &Case, device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Sizes {
        image_size: usize,
        patch_size: usize,
        crop: usize,
    }
    let mut given = Given::default();
    for name in ["a", "b", "c"] {
        let sizes: Sizes = case.needs(name)?;
        let side = |pixels: usize| square(pixels / sizes.patch_size);
        let table = case.required(&format!("input.{name}.pos_embed"))?;
        let store = ParamStore::teacher(device);
        let (kind, from) = (PosEmbedKind::Learned, (side(sizes.image_size), 1));
        let ours = PosEmbed::new(&store.root(), "pos_embed", kind, table.dim(2)?, from)?;
        let (Some(ours), Some(var)) = (ours, store.var("pos_embed")) else {
            return Err(case.bad("there is no table".to_owned()).into());
        };
        var.set(&table.to_device(device)?)?;
        let ours = ours.for_any_grid();
        let resized = ours.patches(side(sizes.crop))?;
        let both = Tensor::cat(&[&ours.prefix()?, &resized], 1)?;
        given.expect(&format!("{name}.pos_embed"), both);
    }
    Ok(given)
}

/// Indices and biases of BEiT.
pub(super) fn beit(case: &Case, device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Settings {
        window: [usize; 2],
        num_heads: Option<usize>,
    }
    let mut given = Given::default();
    let cases: std::collections::BTreeMap<String, Settings> = case.needs("cases")?;
    for (name, settings) in cases {
        let grid = PatchGrid::new(settings.window[0], settings.window[1]);
        given.expect(
            &format!("index_{name}"),
            matrix(relative_position_index(grid))?,
        );
        let Some(heads) = settings.num_heads else {
            continue;
        };
        let store = ParamStore::teacher(device);
        let bias = RelPosBias::new(&store.root(), grid, heads)?;
        for (_, var) in store.vars() {
            var.set(&case.on(&format!("input.table_{name}"), device)?)?;
        }
        given.expect(&format!("bias_{name}"), bias.forward(device)?.squeeze(0)?);
    }
    Ok(given)
}

#[derive(Deserialize)]
struct Shifted {
    map: [usize; 2],
    window: usize,
    shift: usize,
}

impl Shifted {
    /// The values added to the logits of a shifted window, `[windows, tokens, tokens]`.
    fn mask(&self, case: &Case, device: &Device) -> Result<Tensor> {
        let grid = PatchGrid::new(self.map[0], self.map[1]);
        let windows = Windows::padded(grid, self.window, self.shift)?;
        let mask = windows.shift_mask(device)?;
        let mask = mask.ok_or_else(|| case.bad("nothing is shifted".to_owned()))?;
        // Ours has a head axis.
        Ok(mask.squeeze(1)?)
    }
}

/// Indices of Swin and BEiT, and the mask of shifted windows.
pub(super) fn indices(case: &Case, device: &Device) -> Result<Given> {
    let mut given = Given::default();
    for side in case.needs::<Vec<usize>>("swin_windows")? {
        let ours = matrix(window_position_index(square(side)))?;
        given.expect(&format!("swin_index_w{side}"), ours);
    }
    for [rows, cols] in case.needs::<Vec<[usize; 2]>>("beit_windows")? {
        let ours = matrix(relative_position_index(PatchGrid::new(rows, cols)))?;
        given.expect(&format!("beit_index_{rows}x{cols}"), ours);
    }
    let shifted: Shifted = case.needs("attn_mask")?;
    let [rows, cols] = shifted.map;
    let name = format!(
        "attn_mask_{rows}x{cols}_w{}_s{}",
        shifted.window, shifted.shift
    );
    given.expect(&name, shifted.mask(case, device)?);
    Ok(given)
}

/// The same of iBOT's Swin, whose maps are padded to whole windows.
pub(super) fn swin(case: &Case, device: &Device) -> Result<Given> {
    let mut given = Given::default();
    for side in case.needs::<Vec<usize>>("windows")? {
        let ours = matrix(window_position_index(square(side)))?;
        given.expect(&format!("relative_position_index_w{side}"), ours);
    }
    for shifted in case.needs::<Vec<Shifted>>("attn_mask")? {
        let side = shifted.map[0];
        let padded = Shifted {
            // The mask of the padded map, which our windows cover.
            map: [side.next_multiple_of(shifted.window); 2],
            ..shifted
        };
        let name = format!("attn_mask_H{side}_w{}_s{}", padded.window, padded.shift);
        given.expect(&name, padded.mask(case, device)?);
    }
    Ok(given)
}

/// SimMIM's resized tables of relative positions.
pub(super) fn resized_tables(case: &Case, _device: &Device) -> Result<Given> {
    case.informs(&["num_heads"]);
    let (from, to) = (
        square(case.needs("src_window")?),
        square(case.needs("dst_window")?),
    );
    let mut given = Given::default();
    for (name, of_class_token) in [("vit_table", 3), ("swin_table", 0)] {
        let table = case.required(&format!("input.{name}"))?;
        given.expect(name, resize_rel_pos_bias(table, from, to, of_class_token)?);
    }
    let index = matrix(relative_position_index(to))?;
    given.expect("relative_position_index", index);
    Ok(given)
}

/// Top, left, height, width and flip of both views of each row.
fn boxes(case: &Case) -> Result<Vec<[[usize; 5]; 2]>> {
    let rows: Vec<u32> = case.flat("input.crop_boxes")?;
    let side = |row: &[u32]| std::array::from_fn(|at| row[at] as usize);
    let rows = rows.chunks_exact(10);
    Ok(rows.map(|row| [side(&row[..5]), side(&row[5..])]).collect())
}

#[expect(clippy::cast_possible_truncation, reason = "sides of an image")]
fn crop([top, left, height, width, flipped]: [usize; 5], source: [usize; 2]) -> Crop {
    let [top, left, height, width] = [top, left, height, width].map(|side| side as f32);
    Crop {
        top,
        left,
        height,
        width,
        flipped: flipped == 1,
        ..Crop::whole((source[0] as u32, source[1] as u32))
    }
}

/// Where SIM's second view lies in the first, and both views themselves.
pub(super) fn sim(case: &Case, device: &Device) -> Result<Given> {
    let source: [usize; 2] = case.needs("source_size")?;
    let sides: Vec<usize> = case.needs("grids")?;
    let dims: Vec<usize> = case.needs("dims")?;
    let boxes = boxes(case)?;
    let mut given = Given::default();
    for (&side, &dim) in sides.iter().zip(&dims) {
        let grid = square(side);
        let (mut rows, mut cols, mut waves) = (vec![], vec![], vec![]);
        for [first, second] in &boxes {
            let places = RelativeGrid::new(&crop(*first, source), &crop(*second, source), grid)?;
            rows.extend(places.rows.iter().flat_map(|row| vec![*row; side]));
            cols.extend(places.cols.repeat(side));
            places.append_sincos(dim, &mut waves);
        }
        let shape = (boxes.len(), grid.len());
        let tensor = |xs: Vec<f32>| Tensor::from_vec(xs, shape, &Device::Cpu);
        given.expect(&format!("grid_h.g{side}"), tensor(rows)?);
        given.expect(&format!("grid_w.g{side}"), tensor(cols)?);
        let waves = Tensor::from_vec(waves, (shape.0, shape.1, 2 * dim), &Device::Cpu)?;
        given.expect(&format!("embed.g{side}.d{dim}"), waves);
        let table = sincos_table(grid, dim, 1, true, device)?;
        given.expect(&format!("abs_embed.g{side}.d{dim}"), table.squeeze(0)?);
    }
    views(case, &boxes, &mut given)?;
    // The coordinates follow from it.
    given.passes_over("rel");
    Ok(given)
}

fn views(case: &Case, boxes: &[[[usize; 5]; 2]], given: &mut Given) -> Result<()> {
    let side: usize = case.needs("view_size")?;
    let norm = Norm {
        mean: case.needs("mean")?,
        std: case.needs("std")?,
        ..Norm::imagenet()
    };
    let image = sample(case, "input.image")?;
    for (view, name) in ["view1", "view2"].into_iter().enumerate() {
        let mut planes = vec![];
        for sides in boxes {
            let [top, left, height, width, flipped] = sides[view];
            let flip = HorizontalFlip { p: flipped as f64 };
            let flipped = flip.apply(image.clone(), &mut stream(0, Purpose::Augment, [0, 0]))?;
            let cut = CropBox {
                top,
                left,
                height,
                width,
            };
            let resized = resize(flipped, cut, (side, side), Interpolation::Bicubic)?;
            resized.append_planes(&mut planes);
        }
        let pixels = Tensor::from_vec(planes, (boxes.len(), 3, side, side), &Device::Cpu)?;
        let ours = View::new(pixels, vec![])?.normalized(&norm)?;
        given.within(name, ours, case.needs("view_atol")?);
    }
    Ok(())
}
