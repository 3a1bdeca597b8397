//! The objective trait: predictions and targets to losses.

use crate::{LossTerms, Mask, Prediction, Result, StepContext, Target};

/// Compares a prediction with a target.
///
/// ```
/// use mim_core::{LossTerms, Mask, Objective, Prediction, Result, StepContext, Target};
///
/// /// The mean absolute error.
/// struct MeanAbsolute;
///
/// impl Objective for MeanAbsolute {
///     fn loss(&self, prediction: &Prediction, target: &Target, mask: &Mask, _: &StepContext) -> Result<LossTerms> {
///         let wanted = target.aligned(prediction.rows, mask)?;
///         let error = (prediction.flat()? - wanted)?.abs()?.mean_all()?;
///         LossTerms::single("l1", error)
///     }
/// }
/// ```
pub trait Objective: Send + Sync {
    /// The loss, as named f32 scalars; it must pair rows only through [`Target::aligned`].
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
