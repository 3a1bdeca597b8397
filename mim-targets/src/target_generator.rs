//! The target generator trait.

use candle_core::Tensor;
use mim_core::{Batch, Encoded, Error, Mask, PatchGrid, Result, StepContext, Target};

/// What a target generator has to wait for; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetStage {
    /// The images only: it runs before masks are drawn and may guide them.
    Image,
    /// The mask.
    Mask,
    /// The student's output.
    Student,
}

/// What a target is made from.
#[derive(Debug, Clone, Copy)]
pub struct TargetRequest<'a> {
    /// The batch, with all its views.
    pub batch: &'a Batch,
    /// The grid of mask and target: the encoder's token grid, or a finer one.
    pub grid: PatchGrid,
    /// The mask, from [`TargetStage::Mask`] on.
    pub mask: Option<&'a Mask>,
    /// The student's output, from [`TargetStage::Student`] on.
    pub student: Option<&'a Encoded>,
    /// Where training stands.
    pub step: &'a StepContext,
}

/// Makes what predictions are compared with. The result carries no gradient unless documented.
///
/// ```
/// use mim_core::{Result, Target};
/// use mim_targets::{TargetGenerator, TargetRequest};
///
/// /// The mean colour of each patch.
/// struct MeanColour;
///
/// impl TargetGenerator for MeanColour {
///     fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target> {
///         let images = rq.batch.view(0)?.unit()?; // [batch, 3, height, width] in [0, 1]
///         let (height, width) = rq.batch.view(0)?.size();
///         let patch = (height / rq.grid.rows, width / rq.grid.cols);
///         let means = images.avg_pool2d(patch)?.flatten_from(2)?;
///         Ok(Target::patches(means.transpose(1, 2)?.contiguous()?)) // [batch, tokens, 3]
///     }
/// }
/// ```
pub trait TargetGenerator: Send + Sync {
    /// What it has to wait for.
    fn stage(&self) -> TargetStage {
        TargetStage::Image
    }

    /// Makes the target.
    ///
    /// # Errors
    ///
    /// If the batch does not fit the generator.
    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target>;

    /// Checks that views of these sizes, (height, width) each, give targets on `grid`, before any image is there.
    /// Default: nothing.
    ///
    /// # Errors
    ///
    /// [`mim_core::Error::Shape`] saying which size of its view would.
    fn check(&self, _grid: PatchGrid, _views: &[(usize, usize)]) -> Result<()> {
        Ok(())
    }

    /// Whether its targets carry the attention of a class token, which guides maskers.
    fn has_attention(&self) -> bool {
        false
    }

    /// Whether its targets, `[batch, tokens]` u32, are the numbers of parts to which patches belong, which guide maskers.
    fn has_parts(&self) -> bool {
        false
    }

    /// Whether the target is made of pixels, so that predictions can be drawn.
    fn is_pixels(&self) -> bool {
        false
    }

    /// The images `[batch, channels, height, width]` in `[0, 1]` that `predicted` `[batch, tokens, C]`
    /// stands for; none if the target is not made of pixels.
    ///
    /// # Errors
    ///
    /// If the prediction does not fit the batch.
    fn to_pixels(&self, _predicted: &Tensor, _batch: &Batch) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

/// The size of view `index`.
///
/// # Errors
///
/// [`Error::Shape`] if there are fewer views.
pub(crate) fn view_size(views: &[(usize, usize)], index: usize) -> Result<(usize, usize)> {
    views.get(index).copied().ok_or_else(|| {
        Error::shape(
            "views of the target",
            format!("at least {}, as target.view = {index} asks", index + 1),
            views.len(),
            "set target.view to one of them, or add a view to `views`",
        )
    })
}

impl<T: TargetGenerator + ?Sized> TargetGenerator for Box<T> {
    fn stage(&self) -> TargetStage {
        (**self).stage()
    }

    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target> {
        (**self).generate(rq)
    }

    fn check(&self, grid: PatchGrid, views: &[(usize, usize)]) -> Result<()> {
        (**self).check(grid, views)
    }

    fn has_attention(&self) -> bool {
        (**self).has_attention()
    }

    fn has_parts(&self) -> bool {
        (**self).has_parts()
    }

    fn is_pixels(&self) -> bool {
        (**self).is_pixels()
    }

    fn to_pixels(&self, predicted: &Tensor, batch: &Batch) -> Result<Option<Tensor>> {
        (**self).to_pixels(predicted, batch)
    }
}
