//! The masker trait.

use mim_core::parts::Settings;
use mim_core::{Mask, PatchGrid, Result, StepContext};
use rand::Rng;

/// What a masker wants to know about the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuideKind {
    /// Nothing.
    None,
    /// A score for each patch, such as a teacher's attention.
    Scores,
    /// A part number for each patch.
    Parts,
}

/// What is known about the images, `[images * tokens]` on the host.
#[derive(Debug, Clone, Copy)]
pub enum Guide<'a> {
    /// Nothing.
    None,
    /// A score for each patch.
    Scores(&'a [f32]),
    /// A part number for each patch.
    Parts(&'a [u32]),
}

/// What masks are wanted.
#[derive(Debug, Clone, Copy)]
pub struct MaskRequest<'a> {
    /// Number of images.
    pub images: usize,
    /// The grid of the mask: the encoder's token grid, or a finer one.
    pub grid: PatchGrid,
    /// What is known about the images.
    pub guide: Guide<'a>,
    /// Where training stands, for masks that change with it.
    pub step: &'a StepContext,
}

/// Draws masks. The rule is also a pure function of recorded draws, so that it can be tested.
///
/// ```
/// use mim_core::{Mask, Result};
/// use mim_masking::{MaskRequest, Masker};
///
/// /// Hides the right half of every image.
/// struct RightHalf;
///
/// impl Masker for RightHalf {
///     fn sample(&self, rq: &MaskRequest<'_>, _rng: &mut dyn rand::Rng) -> Result<Mask> {
///         let row: Vec<u8> = (0..rq.grid.len()).map(|id| u8::from(id % rq.grid.cols >= rq.grid.cols / 2)).collect();
///         Mask::from_bits(rq.grid, &row.repeat(rq.images))
///     }
/// }
/// ```
pub trait Masker: Send + Sync {
    /// What [`MaskRequest::guide`] must hold.
    fn guide(&self) -> GuideKind {
        GuideKind::None
    }

    /// Draws a mask for each image (or `k` masks an image, copy-major).
    ///
    /// # Errors
    ///
    /// If the grid or the guide do not fit the masker.
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

/// Settings of a masker that a config can name.
pub trait MaskerSettings: Settings {
    /// Checks the settings and builds the masker.
    ///
    /// # Errors
    ///
    /// [`mim_core::Error::InvalidConfig`] naming the setting.
    fn build(&self) -> Result<Box<dyn Masker>>;
}
