//! Operations on point clouds.

use candle_core::{DType, Device, Tensor, Var};
use mim_core::objectives::{Chamfer, ChamferKind};
use mim_core::points::{DepthMaps, DepthMapsConfig, PointLevelConfig, PointLevels};
use mim_core::{Norm, PatchGrid, ops};
use serde::Deserialize;

use super::super::{Case, Problem, Result};
use super::Given;

/// How a case normalises depth maps.
#[derive(Deserialize)]
struct InputNorm {
    mean: Vec<f64>,
    std: Vec<f64>,
    from: String,
}

impl InputNorm {
    fn norm(self) -> Result<Norm> {
        let Self { mean, std, from } = self;
        if from != "unit" {
            return Err(Problem::unknown(format!(
                "depth maps normalised from {from}"
            )));
        }
        Ok(Norm {
            mean,
            std,
            reverse_channels: false,
        })
    }
}

#[derive(Deserialize)]
struct Farthest {
    first_index: usize,
    min_squared_norm: f64,
    initial_min: f64,
}

#[derive(Deserialize)]
struct Chamfers {
    kind: ChamferKind,
    reduce: String,
}

#[derive(Deserialize)]
struct Projection {
    image_size: usize,
    offsets: [usize; 2],
    depth_axis: usize,
    reduce: String,
    squash: String,
    stored_channel: usize,
    input_norm: InputNorm,
}

#[derive(Deserialize)]
struct BackProjection {
    size: usize,
    mode: String,
    align_corners: bool,
    cubic_a: f64,
}

/// Farthest points, neighbours, the Chamfer distance, depth maps and features at points.
pub(super) fn outputs(case: &Case, device: &Device) -> Result<Given> {
    let mut given = Given::default();
    groups(case, device, &mut given)?;
    chamfer(case, device, &mut given)?;
    projection(case, device, &mut given)?;
    Ok(given)
}

fn refuse(fits: bool, what: &str) -> Result<()> {
    match fits {
        true => Ok(()),
        false => Err(Problem::unknown(what.to_owned())),
    }
}

fn groups(case: &Case, device: &Device, given: &mut Given) -> Result<()> {
    let rule: Farthest = case.needs("fps")?;
    let fits = rule.first_index == 0 && rule.initial_min == 1e10;
    refuse(fits, "another start of farthest points")?;
    case.informs(&["knn"]);
    let level = PointLevelConfig {
        groups: case.needs("num_groups")?,
        size: case.needs("group_size")?,
    };
    let points = case.on("input.points", device)?;
    #[expect(clippy::cast_possible_truncation, reason = "coordinates are f32")]
    let hollow = rule.min_squared_norm as f32;
    let farthest = ops::farthest_points(&points, level.groups, hollow)?;
    given.expect("fps_index", farthest.to_dtype(DType::I64)?);
    let levels = PointLevels::new(&points, &[level], hollow)?;
    let made = levels.level(0)?;
    let batch = points.dim(0)?;
    given.expect("fps_centers", made.centers.clone());
    let members = made.members.reshape((batch, level.groups, level.size))?;
    given.expect("knn_index_flat", members.to_dtype(DType::I64)?);
    given.expect("neighborhood_centered", levels.centred(0)?);
    given.expect("neighborhood_raw", levels.members(0)?);
    Ok(())
}

fn chamfer(case: &Case, device: &Device, given: &mut Given) -> Result<()> {
    let settings: Chamfers = case.needs("chamfer")?;
    refuse(
        settings.reduce == "mean",
        "another mean of Chamfer distances",
    )?;
    let [first, second] = ["input.chamfer_a", "input.chamfer_b"]
        .map(|name| -> Result<Var> { Ok(Var::from_tensor(&case.on(name, device)?)?) });
    let (first, second) = (first?, second?);
    let chamfer = Chamfer::new(&first, &second)?;
    for (side, distances, ids) in [
        ("a", &chamfer.first, &chamfer.first_ids),
        ("b", &chamfer.second, &chamfer.second_ids),
    ] {
        given.expect(&format!("chamfer_dist_{side}"), distances.clone());
        given.expect(&format!("chamfer_index_{side}"), ids.to_dtype(DType::I64)?);
    }
    let loss = chamfer.distance(settings.kind)?;
    let grads = loss.backward()?;
    given.expect("chamfer_l2", loss);
    for (name, var) in [("chamfer_a", &first), ("chamfer_b", &second)] {
        let none = || case.bad(format!("no gradient arrives at {name}"));
        given.grad(name, grads.get(var).ok_or_else(none)?.clone());
    }
    Ok(())
}

fn projection(case: &Case, device: &Device, given: &mut Given) -> Result<()> {
    let settings: Projection = case.needs("projection")?;
    let fits = settings.offsets == [5, 5]
        && settings.depth_axis == 2
        && settings.reduce == "sum"
        && settings.squash == "sigmoid"
        && settings.stored_channel == 0;
    refuse(fits, "another depth map")?;
    let back: BackProjection = case.needs("back_projection")?;
    let fits = back.size == settings.image_size
        && back.mode == "bicubic"
        && !back.align_corners
        && back.cubic_a == -0.75;
    refuse(fits, "another resize of features")?;
    let config = DepthMapsConfig {
        image_size: settings.image_size,
        norm: settings.input_norm.norm()?,
    };
    let maps = DepthMaps::new(&case.on("input.cloud", device)?, &config)?;
    let first = |xs: &Tensor| -> Result<Tensor> { Ok(xs.narrow(1, 0, 1)?.squeeze(1)?) };
    let image = maps.images().narrow(0, 0, 1)?;
    given.expect("proj_channel0", first(&image)?.squeeze(0)?);
    let [least, grid, offsets] = maps.frames()?;
    given.expect("proj_pc_min", least.narrow(1, 0, 1)?);
    given.expect("proj_grid_size", grid.narrow(1, 0, 1)?.unsqueeze(2)?);
    given.expect("proj_offset", first(&offsets)?);
    // The case has the map of one view; ours always has three.
    let map = case.on("input.feature_map", device)?;
    let (_, channels, rows, cols) = map.dims4()?;
    let tokens = map.flatten_from(2)?.transpose(1, 2)?;
    let tokens = tokens.repeat((3, 1, 1))?;
    let queries = case.on("input.query_points", device)?.squeeze(0)?;
    let clouds = vec![0; queries.dim(0)?];
    let read = maps.read(&tokens, PatchGrid::new(rows, cols), &queries, &clouds)?;
    let read = first(&read)?.reshape((1, (), channels))?;
    given.expect("back_projected", read);
    Ok(())
}
