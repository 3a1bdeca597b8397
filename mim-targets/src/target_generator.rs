//! The target generator trait.

use candle_core::Tensor;
use mim_core::{Batch, Encoded, Error, Mask, PatchGrid, Result, StepContext, Target};

/// Input that a target generator waits for; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetStage {
    /// Only the images: it runs before masks are drawn and can guide them.
    Image,
    /// The mask.
    Mask,
    /// The student's output.
    Student,
}

/// Input of a target generator.
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
    /// The current training step.
    pub step: &'a StepContext,
}

/// Computes targets for predictions. Targets have no gradient unless documented.
///
/// ```
/// # use candle_core::{DType, Device, Tensor};
/// # use mim_core::{Batch, PatchGrid, StepContext, View};
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
///
/// # fn main() -> Result<()> {
/// # let (grid, step) = (PatchGrid::new(2, 2), StepContext::new(0));
/// # let batch = Batch::single(View::new(Tensor::zeros((1, 3, 8, 8), DType::U8, &Device::Cpu)?, vec![])?);
/// // `batch` holds one image of 8 pixels a side, `grid` has 2 x 2 patches.
/// let request = TargetRequest { batch: &batch, grid, mask: None, student: None, step: &step };
/// assert_eq!(MeanColour.generate(&request)?.patches.dims(), [1, 4, 3]);
/// # Ok(())
/// # }
/// ```
pub trait TargetGenerator: Send + Sync {
    /// The input that it waits for.
    fn stage(&self) -> TargetStage {
        TargetStage::Image
    }

    /// Computes the target.
    ///
    /// # Shapes
    ///
    /// - views of the batch: `[batch, channels, height, width]`
    /// - [`Target::patches`](field@Target::patches): `[batch, tokens, C]` values or `[batch, tokens]` u32 ids, in image order; with
    ///   [`Rows::Masked`](mim_core::Rows::Masked) only for the hidden tokens of a mask
    /// - [`Target::image`](field@Target::image), if any: `[batch, C]`
    ///
    /// # Errors
    ///
    /// If the batch does not match the generator.
    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target>;

    /// Checks, before any image exists, that views of these sizes, (height, width) each, give targets on `grid`.
    /// Default: checks nothing.
    ///
    /// # Errors
    ///
    /// [`mim_core::Error::Shape`] with the view size that would work.
    fn check(&self, _grid: PatchGrid, _views: &[(usize, usize)]) -> Result<()> {
        Ok(())
    }

    /// Whether its targets include class-token attention, which guides maskers.
    fn has_attention(&self) -> bool {
        false
    }

    /// Whether its targets, `[batch, tokens]` u32, are part indices of patches, which guide maskers.
    fn has_parts(&self) -> bool {
        false
    }

    /// Whether the target consists of pixels, so that predictions can be drawn.
    fn is_pixels(&self) -> bool {
        false
    }

    /// Converts `predicted` `[batch, tokens, C]` to images `[batch, channels, height, width]` in `[0, 1]`;
    /// `None` if the target does not consist of pixels.
    ///
    /// # Errors
    ///
    /// If the prediction does not match the batch.
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
            format!("at least {} views, for target.view = {index}", index + 1),
            views.len(),
            "set target.view to an existing view, or add a view to `views`",
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
