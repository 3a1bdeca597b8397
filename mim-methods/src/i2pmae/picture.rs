//! Renderings of I2P-MAE's predictions.

use candle_core::Tensor;
use mim_core::points::{draw_points, frame_of};
use mim_core::{Reconstruction, Result};

use super::method::{Decoded, I2pMae};

/// Side in pixels of one rendering of a cloud.
const SIDE: usize = 120;

/// Renders clouds from three sides: all points, those of visible groups, and the latter with the predicted points.
pub(super) fn draw(method: &I2pMae, decoded: &Decoded) -> Result<Reconstruction> {
    let (mask, device) = (&decoded.mask, decoded.levels.points().device());
    let level = method.decoder.level();
    let hidden = mask.flat(true, mask.rows(), device)?;
    let centers = &decoded.levels.level(level)?.centers;
    let predicted = match mask.hidden_total() {
        0 => Vec::new(),
        _ => {
            let middles =
                mim_core::ops::gather_rows(&centers.flatten_to(1)?, &hidden)?.unsqueeze(1)?;
            rows(&method.points(decoded, &hidden)?.broadcast_add(&middles)?)?
        }
    };
    let members = rows(&decoded.levels.members(level)?.flatten_to(1)?)?;
    let all: Vec<Vec<[f32; 3]>> = rows(decoded.levels.points())?;
    let (groups, mut predicted) = (mask.grid().len(), predicted.into_iter());
    let (mut masked, mut whole) = (Vec::new(), Vec::new());
    for cloud in 0..mask.rows() {
        let visible = mask.visible(cloud).iter();
        let seen: Vec<[f32; 3]> = visible
            .flat_map(|id| members[cloud * groups + *id as usize].clone())
            .collect();
        let made = predicted.by_ref().take(mask.hidden(cloud).len());
        whole.push(seen.iter().copied().chain(made.flatten()).collect());
        masked.push(seen);
    }
    let frames: Vec<_> = all.iter().map(|cloud| frame_of(cloud)).collect();
    let drawn = |clouds: &[Vec<[f32; 3]>]| draw_points(clouds, &frames, SIDE);
    Ok(Reconstruction {
        original: drawn(&all)?,
        masked: drawn(&masked)?,
        reconstruction: drawn(&whole)?,
    })
}

/// `[sets, points, 3]` on the host.
fn rows(xs: &Tensor) -> Result<Vec<Vec<[f32; 3]>>> {
    let sets = xs.to_vec3::<f32>()?;
    let point = |point: Vec<f32>| [point[0], point[1], point[2]];
    Ok(sets
        .into_iter()
        .map(|set| set.into_iter().map(point).collect())
        .collect())
}
