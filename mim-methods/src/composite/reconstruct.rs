//! Reconstructions by a composite, as images.

use std::sync::Arc;

use candle_core::Tensor;
use mim_core::{
    Batch, Error, Mask, Norm, PatchGrid, Reconstruction, Result, Rows, StepContext, TraceSink, ops,
};
use mim_targets::TargetGenerator;

use super::Composite;

impl Composite {
    /// The prediction of the first branch that predicts pixels, combined with the visible pixels.
    pub(super) fn draw(&self, batch: &Batch, step: &StepContext) -> Result<Reconstruction> {
        let traced = StepContext {
            trace: Some(Arc::new(NoTrace)),
            ..step.clone()
        };
        let pixels = self.branches.iter().find_map(|branch| {
            let named = |(name, _): &&(String, Box<dyn TargetGenerator>)| *name == branch.target;
            let (_, target) = self.targets.iter().find(named)?;
            target.is_pixels().then_some((branch, target))
        });
        let Some((branch, target)) = pixels else {
            return Err(self.draws_nothing("none of its branches predicts pixels"));
        };
        let forward = self.run(&[branch], batch, &traced)?;
        let prediction = forward.predictions.first();
        let values = match prediction.map(|prediction| (prediction.rows, &prediction.values)) {
            Some((Rows::Patches, values)) => values.clone(),
            Some((Rows::Masked, values)) if values.rank() == 3 => whole(values, &forward.mask)?,
            _ => return Err(self.draws_nothing("its decoder does not predict whole images")),
        };
        match target.to_pixels(&values, batch)? {
            Some(predicted) => blend(batch, &self.input.norm, &forward.mask, &predicted),
            None => Err(self.draws_nothing("its target cannot be drawn")),
        }
    }

    fn draws_nothing(&self, why: &str) -> Error {
        Error::unsupported(
            format!("a reconstruction by {}", self.name),
            why.to_owned(),
            "use a method with a pixel target",
        )
    }
}

/// Predictions for the hidden patches, `[rows, hidden, C]` in image order, expanded to all patches,
/// `[rows, tokens, C]`. Visible patches get the values of an arbitrary hidden one.
fn whole(values: &Tensor, mask: &Mask) -> Result<Tensor> {
    let (rows, hidden, channels) = values.dims3()?;
    let tokens = mask.grid().len();
    let mut places = vec![0u32; rows * tokens];
    for (row, places) in places.chunks_mut(tokens).enumerate() {
        places.fill(u32::try_from(row * hidden).unwrap_or(u32::MAX));
        for (place, &id) in (0u32..).zip(mask.hidden(row)) {
            places[id as usize] += place;
        }
    }
    let places = ops::upload(places, rows * tokens, values.device())?;
    let ordered = values.flatten(0, 1)?.index_select(&places, 0)?;
    Ok(ordered.reshape((rows, tokens, channels))?)
}

/// Visible pixels from the batch, hidden ones from `predicted` (in `[0, 1]`), and grey for pixels that are neither.
fn blend(batch: &Batch, norm: &Norm, mask: &Mask, predicted: &Tensor) -> Result<Reconstruction> {
    let view = batch.view(0)?;
    let original = match view.unit() {
        Ok(unit) => unit,
        Err(_) => norm.invert(view.pixels())?,
    };
    let (height, width) = view.size();
    let pixels = mask.upsample(PatchGrid::new(height, width))?;
    let image = (mask.rows(), 1, height, width);
    let bits =
        |mask: &Mask| -> Result<Tensor> { Ok(mask.bits(original.device())?.reshape(image)?) };
    let (hidden, seen) = (bits(&pixels)?, bits(&pixels.complement())?);
    let visible = original.broadcast_mul(&seen)?;
    let unknown = ((1. - &seen)? - &hidden)?;
    let drawn = predicted.clamp(0f32, 1f32)?.broadcast_mul(&hidden)?;
    Ok(Reconstruction {
        masked: visible.broadcast_add(&((1. - &seen)? * 0.5)?)?,
        reconstruction: (visible + drawn)?.broadcast_add(&(unknown * 0.5)?)?,
        original,
    })
}

/// Makes decoders predict whole images; records nothing.
struct NoTrace;

impl TraceSink for NoTrace {
    fn record(&self, _name: &str, _value: &Tensor) -> Result<()> {
        Ok(())
    }
}
