//! The masker trait.

use mim_core::parts::Settings;
use mim_core::{Mask, PatchGrid, Result, StepContext};
use rand::Rng;

/// Kind of guide that a masker needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuideKind {
    /// Nothing.
    None,
    /// A score per patch, such as a teacher's attention.
    Scores,
    /// A part index per patch.
    Parts,
}

/// Guide of a masker: information about the images, `[images * tokens]` on the host.
#[derive(Debug, Clone, Copy)]
pub enum Guide<'a> {
    /// Nothing.
    None,
    /// A score per patch.
    Scores(&'a [f32]),
    /// A part index per patch.
    Parts(&'a [u32]),
}

/// A request for masks.
#[derive(Debug, Clone, Copy)]
pub struct MaskRequest<'a> {
    /// Number of images.
    pub images: usize,
    /// The grid of the mask: the encoder's token grid, or a finer one.
    pub grid: PatchGrid,
    /// Information about the images.
    pub guide: Guide<'a>,
    /// The training step, for masks that change over time.
    pub step: &'a StepContext,
}

/// Draws masks. The rule should also be a pure function of recorded draws, so that it can be tested.
///
/// ```
/// use mim_core::{Mask, PatchGrid, Purpose, Result, StepContext};
/// use mim_masking::{Guide, MaskRequest, Masker};
///
/// /// Hides the right half of every image.
/// struct RightHalf;
///
/// impl Masker for RightHalf {
///     fn sample(&self, rq: &MaskRequest<'_>, _rng: &mut dyn rand::Rng) -> Result<Mask> {
///         let right = |id: usize| id % rq.grid.cols >= rq.grid.cols / 2;
///         let row: Vec<u8> = (0..rq.grid.len()).map(|id| u8::from(right(id))).collect();
///         Mask::from_bits(rq.grid, &row.repeat(rq.images))
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let step = StepContext::new(0);
/// let grid = PatchGrid::new(2, 4);
/// let request = MaskRequest { images: 1, grid, guide: Guide::None, step: &step };
/// let mask = RightHalf.sample(&request, &mut step.rng(Purpose::Mask, 0))?;
/// assert_eq!(mask.to_bits(), [0, 0, 1, 1, 0, 0, 1, 1]);
/// # Ok(())
/// # }
/// ```
pub trait Masker: Send + Sync {
    /// The kind of [`MaskRequest::guide`] that it needs.
    fn guide(&self) -> GuideKind {
        GuideKind::None
    }

    /// Draws a mask for each image, or several masks per image.
    ///
    /// # Shapes
    ///
    /// - [`MaskRequest::guide`]: `[images * tokens]`, row by row, if the masker needs one
    /// - the mask: [`Mask::rows`] is `images`, or `k * images` in copy-major order: all images under the first mask, then
    ///   all under the second
    ///
    /// # Errors
    ///
    /// If grid or guide do not match the masker.
    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask>;
}

impl<T: Masker + ?Sized> Masker for Box<T> {
    fn guide(&self) -> GuideKind {
        (**self).guide()
    }

    fn sample(&self, rq: &MaskRequest<'_>, rng: &mut dyn Rng) -> Result<Mask> {
        (**self).sample(rq, rng)
    }
}

/// Settings of a masker, as named in a config.
pub trait MaskerSettings: Settings {
    /// Checks the settings and builds the masker.
    ///
    /// # Errors
    ///
    /// [`mim_core::Error::InvalidConfig`] naming the setting.
    fn build(&self) -> Result<Box<dyn Masker>>;
}
