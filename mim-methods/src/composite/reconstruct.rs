//! Pictures of what a composite predicts.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use mim_core::{
    Batch, Error, Mask, Norm, PatchGrid, Reconstruction, Result, Rows, StepContext, TraceSink,
};
use mim_targets::TargetGenerator;

use super::Composite;

impl Composite {
    /// The first branch that predicts pixels, drawn over the visible ones.
    pub(super) fn draw(&self, batch: &Batch, step: &StepContext) -> Result<Reconstruction> {
        let whole = StepContext {
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
        let forward = self.run(&[branch], batch, &whole)?;
        let prediction = forward.predictions.first();
        let values = prediction
            .filter(|prediction| prediction.rows == Rows::Patches)
            .map(|prediction| &prediction.values);
        let Some(values) = values else {
            return Err(self.draws_nothing("its decoder does not predict whole images"));
        };
        match target.to_pixels(values, batch)? {
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

/// Visible pixels from the batch, hidden ones from `predicted` (in `[0, 1]`).
fn blend(batch: &Batch, norm: &Norm, mask: &Mask, predicted: &Tensor) -> Result<Reconstruction> {
    let view = batch.view(0)?;
    let original = match view.pixels().dtype() {
        DType::U8 => view.unit()?,
        _ => norm.invert(view.pixels())?,
    };
    let (height, width) = view.size();
    let hidden = mask
        .upsample(PatchGrid::new(height, width))?
        .bits(original.device())?;
    let hidden = hidden.reshape((mask.rows(), 1, height, width))?;
    let visible = original.broadcast_mul(&(1. - &hidden)?)?;
    Ok(Reconstruction {
        masked: visible.broadcast_add(&(&hidden * 0.5)?)?,
        reconstruction: (visible + predicted.clamp(0f32, 1f32)?.broadcast_mul(&hidden)?)?,
        original,
    })
}

/// Makes decoders predict whole images; keeps nothing.
struct NoTrace;

impl TraceSink for NoTrace {
    fn record(&self, _name: &str, _value: &Tensor) -> Result<()> {
        Ok(())
    }
}
