//! Image preprocessing in the formats of timm and transformers.

use mim_core::augment::{Augment, Interpolation, Size};
use mim_core::{Norm, Result};
use serde_json::{Value, json};

use super::cannot;
use crate::Pretrained;

/// How evaluations resize an image for the encoder.
enum Views {
    /// The whole image is resized to the encoder's size.
    Squash,
    /// The shorter side is resized to this many pixels, then the centre is cropped.
    Crop(usize),
}

/// The views of the run's evaluations.
fn views(model: &Pretrained) -> Result<(Views, Interpolation)> {
    let input = model.method.input();
    let plan = model.config.eval.view_plan(input.size, input.channels());
    let first = plan.views.first().into_iter().flatten();
    let operations: Vec<&Augment> = plan
        .shared
        .iter()
        .chain(first)
        .filter(|operation| !matches!(operation, Augment::ToChannels(_)))
        .collect();
    let wanted = (input.size.height, input.size.width);
    match operations.as_slice() {
        [Augment::Resize(resize)]
            if matches!(resize.size, Size::HeightWidth(_)) && resize.size.square() == wanted =>
        {
            Ok((Views::Squash, resize.interpolation))
        }
        [Augment::Resize(resize), Augment::CenterCrop(crop)] if crop.size.square() == wanted => {
            match resize.size {
                Size::Side(side) => Ok((Views::Crop(side), resize.interpolation)),
                Size::HeightWidth(_) => Err(unknown()),
            }
        }
        _ => Err(unknown()),
    }
}

fn unknown() -> mim_core::Error {
    cannot(
        "exporting these eval.views",
        "timm and transformers support only a plain resize, or a resize with a centre crop",
        "evaluate with one of them, or use --format mae",
    )
}

/// Keys of timm's `pretrained_cfg`.
pub(super) fn timm(model: &Pretrained) -> Result<Vec<(&'static str, Value)>> {
    let (views, interpolation) = views(model)?;
    let size = model.method.input().size;
    let least = size.height.min(size.width);
    let (mode, share) = match views {
        Views::Squash => ("squash", 1.),
        Views::Crop(side) => ("center", share(least, side)),
    };
    let Norm { mean, std, .. } = &model.method.input().norm;
    Ok(vec![
        ("mean", json!(mean)),
        ("std", json!(std)),
        ("crop_mode", json!(mode)),
        ("crop_pct", json!(share)),
        ("interpolation", json!(interpolation)),
    ])
}

/// The share of `side` pixels that a crop of `size` covers, such that timm's `floor(size / share)` equals `side`.
fn share(size: usize, side: usize) -> f64 {
    let exact = size as f64 / side as f64;
    let back = (size as f64 / exact).floor();
    match (back - side as f64).abs() < 0.5 {
        true => exact,
        false => size as f64 / (side as f64 + 0.25),
    }
}

/// transformers' `preprocessor_config.json`.
pub(super) fn preprocessor(model: &Pretrained) -> Result<Value> {
    let (views, interpolation) = views(model)?;
    let size = model.method.input().size;
    let Norm { mean, std, .. } = &model.method.input().norm;
    // Pillow's enum values.
    let resample = match interpolation {
        Interpolation::Lanczos => 1,
        Interpolation::Bilinear => 2,
        Interpolation::Bicubic => 3,
    };
    let whole = json!({ "height": size.height, "width": size.width });
    // Deep images are given from 0 to 1, as data.range has them.
    let (rescales, factor) = match model.config.data.range {
        None => (true, 1. / 255.),
        Some(_) => (false, 1.),
    };
    let mut config = json!({
        "do_normalize": true,
        "do_rescale": rescales,
        "do_resize": true,
        "image_mean": mean,
        "image_std": std,
        "resample": resample,
        "rescale_factor": factor,
    });
    match views {
        Views::Squash => {
            config["image_processor_type"] = json!("ViTImageProcessor");
            config["size"] = whole;
        }
        Views::Crop(side) => {
            config["image_processor_type"] = json!("BitImageProcessor");
            config["size"] = json!({ "shortest_edge": side });
            config["do_center_crop"] = json!(true);
            config["crop_size"] = whole;
            config["do_convert_rgb"] = json!(mean.len() == 3);
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_reproduce_the_resized_side() {
        for (size, side) in [(224, 256), (32, 36), (48, 54), (384, 384), (28, 32)] {
            let pixels = (size as f64 / share(size, side)).floor();
            assert!(
                (pixels - side as f64).abs() < 0.5,
                "{size} of {side}: {pixels}"
            );
        }
    }
}
