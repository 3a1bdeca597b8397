//! Pictures of what a composite predicts.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use mim_core::{
    Batch, Error, Mask, Norm, PatchGrid, Reconstruction, Result, Rows, StepContext, TraceSink,
};

use super::Composite;

impl Composite {
    /// The first branch that predicts pixels, drawn over the visible ones.
    pub(super) fn draw(&self, batch: &Batch, step: &StepContext) -> Result<Reconstruction> {
        let whole = StepContext {
            trace: Some(Arc::new(NoTrace)),
            ..step.clone()
        };
        let forward = self.run(batch, &whole)?;
        for (branch, prediction) in self.branches.iter().zip(&forward.predictions) {
            let Some((_, target)) = self.targets.iter().find(|(name, _)| *name == branch.target)
            else {
                continue;
            };
            if prediction.rows != Rows::Patches {
                continue;
            }
            if let Some(predicted) = target.to_pixels(&prediction.values, batch)? {
                return blend(batch, &self.input.norm, &forward.mask, &predicted);
            }
        }
        Err(Error::unsupported(
            format!("a reconstruction by {}", self.name),
            "none of its branches predicts pixels",
            "use a method with a pixel target",
        ))
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
