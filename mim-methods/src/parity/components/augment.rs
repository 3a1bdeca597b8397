//! Augmentation: views of images.

use candle_core::{Device, Tensor};
use mim_core::augment::{
    CropBox, ImageOp, Interpolation, PixelShift, Sample, resize, weighted_grayscale,
};
use mim_core::rng::stream;
use mim_core::{Norm, Purpose, View};
use serde::Deserialize;

use super::super::{Case, Problem, Result};
use super::Given;

/// A recorded image `[height, width, channels]`.
pub(super) fn sample(case: &Case, name: &str) -> Result<Sample> {
    let (height, width, channels) = case.required(name)?.dims3()?;
    Ok(Sample::new(case.flat(name)?, (height, width), channels)?)
}

/// An image as a tensor `[height, width, channels]`.
fn pixels(sample: &Sample) -> Result<Tensor> {
    let ((height, width), channels) = (sample.size(), sample.channels());
    let bytes = sample.pixels().to_vec();
    Ok(Tensor::from_vec(
        bytes,
        (height, width, channels),
        &Device::Cpu,
    )?)
}

/// Crops resized by three filters.
pub(super) fn resizes(case: &Case, _device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Settings {
        name: String,
        filter: String,
        size: usize,
    }
    let image = sample(case, "input.image_u8")?;
    let boxes: Vec<String> = case.needs("boxes")?;
    let off: f64 = case.needs("max_count_difference")?;
    let mut given = Given::default();
    for Settings { name, filter, size } in case.needs::<Vec<Settings>>("resizes")? {
        let interpolation = match filter.as_str() {
            "bicubic" => Interpolation::Bicubic,
            "lanczos" => Interpolation::Lanczos,
            "bilinear" => Interpolation::Bilinear,
            other => return Err(Problem::unknown(format!("the filter {other}"))),
        };
        for place in &boxes {
            let sides: Vec<u32> = case.flat(&format!("input.box_{place}"))?;
            let [top, left, height, width] = sides[..] else {
                return Err(case
                    .bad(format!("`input.box_{place}` has not four numbers"))
                    .into());
            };
            let [top, left, height, width] = [top, left, height, width].map(|side| side as usize);
            let cut = CropBox {
                top,
                left,
                height,
                width,
            };
            let resized = resize(image.clone(), cut, (size, size), interpolation)?;
            given.within(&format!("{name}_{place}"), pixels(&resized)?, off);
        }
    }
    Ok(given)
}

/// CMAE's shifted views, its grey and its normalisation.
pub(super) fn cmae(case: &Case, _device: &Device) -> Result<Given> {
    let source = sample(case, "input.image")?;
    case.fixed("source", source.size().0)?;
    let (side, every): (usize, usize) = (case.needs("size")?, case.needs("subsample")?);
    let subsampled = |sample: &Sample| -> Result<Tensor> {
        let ids = Tensor::arange_step(
            0u32,
            u32::try_from(side).unwrap_or(u32::MAX),
            u32::try_from(every).unwrap_or(1),
            &Device::Cpu,
        )?;
        Ok(pixels(sample)?
            .index_select(&ids, 0)?
            .index_select(&ids, 1)?)
    };
    let offsets: Vec<u32> = case.flat("input.offsets")?;
    let crops = offsets.chunks_exact(2).map(|offset| {
        let window = CropBox {
            top: offset[0] as usize,
            left: offset[1] as usize,
            height: side,
            width: side,
        };
        subsampled(&window.cut(source.clone())?)
    });
    let mut given = Given::default();
    given.expect(
        "crops_every8",
        Tensor::stack(&crops.collect::<Result<Vec<_>>>()?, 0)?,
    );
    // The online view is the corner.
    let corner = PixelShift {
        size: side.into(),
        max_shift: 0,
    };
    let online = corner.apply(source, &mut stream(0, Purpose::Augment, [0, 0]))?;
    let theirs = case.required("expect.crops_every8")?.get(0)?;
    given.same("crops_every8", subsampled(&online)?, theirs);
    shifts(case, &mut given)?;
    let grey = case.needs("grayscale_weights")?;
    let grey = weighted_grayscale(sample(case, "input.norm_image")?, grey);
    given.expect("grayscale", pixels(&grey)?);
    given.expect("normalised", normalised(case)?);
    Ok(given)
}

/// How often each offset is drawn, `[offsets, 2]`: rows, then columns.
fn shifts(case: &Case, given: &mut Given) -> Result<()> {
    let (draws, most): (usize, usize) = (case.needs("offset_draws")?, case.needs("max_shift")?);
    let source = Sample::new(vec![0; (most + 1).pow(2)], (most + 1, most + 1), 1)?;
    let shift = PixelShift {
        size: 1.into(),
        max_shift: most,
    };
    let mut found = vec![0f64; 2 * (most + 1)];
    for draw in 0..draws {
        let mut rng = stream(0, Purpose::Augment, [0, draw as u64]);
        let crop = shift.apply(source.clone(), &mut rng)?.crop();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an offset is small and not negative"
        )]
        for (axis, offset) in [crop.top, crop.left].into_iter().enumerate() {
            found[offset as usize * 2 + axis] += 1. / draws as f64;
        }
    }
    let found = Tensor::from_vec(found, (most + 1, 2), &Device::Cpu)?;
    // Both are samples.
    given.sampled("offset_hist", found, draws / 2);
    Ok(())
}

/// Blue, green, red, by the means of red, green, blue.
fn normalised(case: &Case) -> Result<Tensor> {
    let mut norm = Norm {
        mean: case.needs("mean")?,
        std: case.needs("std")?,
        reverse_channels: true,
    };
    for values in [&mut norm.mean, &mut norm.std] {
        values.iter_mut().for_each(|value| *value /= 255.);
        values.reverse();
    }
    let image = case.required("input.norm_image")?.permute((2, 0, 1))?;
    let view = View::new(image.contiguous()?.unsqueeze(0)?, vec![])?;
    Ok(view.normalized(&norm)?.squeeze(0)?)
}
