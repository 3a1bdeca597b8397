//! The objective trait: predictions and targets to losses.

use crate::{LossTerms, Mask, Prediction, Result, StepContext, Target};

/// Compares a prediction with a target.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mim_core::{LossTerms, Mask, Objective, PatchGrid, Prediction, Result};
/// use mim_core::{Rows, StepContext, Target};
///
/// /// The mean absolute error.
/// struct MeanAbsolute;
///
/// impl Objective for MeanAbsolute {
///     fn loss(
///         &self,
///         prediction: &Prediction,
///         target: &Target,
///         mask: &Mask,
///         _step: &StepContext,
///     ) -> Result<LossTerms> {
///         let wanted = target.aligned(prediction.rows, mask)?;
///         let error = (prediction.flat()? - wanted)?.abs()?.mean_all()?;
///         LossTerms::single("l1", error)
///     }
/// }
///
/// # fn main() -> Result<()> {
/// // Two patches, of which the second is hidden and predicted: 5 instead of 2.
/// let grid = PatchGrid::new(1, 2);
/// let mask = Mask::from_bits(grid, &[0, 1])?;
/// let target = Target::patches(Tensor::new(&[[[1f32], [2.]]], &Device::Cpu)?);
/// let values = Tensor::new(&[[[5f32]]], &Device::Cpu)?;
/// let prediction = Prediction { values, rows: Rows::Masked, grid };
/// let loss = MeanAbsolute.loss(&prediction, &target, &mask, &StepContext::new(0))?;
/// assert_eq!(loss.total()?.to_scalar::<f32>()?, 3.);
/// # Ok(())
/// # }
/// ```
pub trait Objective: Send + Sync {
    /// The loss, as named scalars; it must pair rows only through [`Target::aligned`].
    ///
    /// # Shapes
    ///
    /// - `prediction`: `[rows, predicted tokens, C]`, see [`Prediction::values`]
    /// - `target`: `[batch, tokens, C]` values or `[batch, tokens]` u32 ids, see [`Target::patches`](field@Target::patches)
    /// - each term: an f32 scalar, already reduced as its paper says
    ///
    /// # Errors
    ///
    /// If prediction and target do not match.
    fn loss(
        &self,
        prediction: &Prediction,
        target: &Target,
        mask: &Mask,
        step: &StepContext,
    ) -> Result<LossTerms>;
}

impl<T: Objective + ?Sized> Objective for Box<T> {
    fn loss(
        &self,
        prediction: &Prediction,
        target: &Target,
        mask: &Mask,
        step: &StepContext,
    ) -> Result<LossTerms> {
        (**self).loss(prediction, target, mask, step)
    }
}
