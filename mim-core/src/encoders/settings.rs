//! The settings trait of encoders.

use crate::params::{Init, InitScheme, Params};
use crate::parts::Settings;
use crate::{Encoder, ImageSize, MaskMode, PatchGrid, Result};

/// Settings of an encoder, as named in a config.
pub trait EncoderSettings: Settings {
    /// Checks the settings and builds the encoder under `params`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) if a setting is invalid.
    fn build(&self, params: &Params) -> Result<Box<dyn Encoder>>;

    /// Height and width of the images in pixels.
    fn image_size(&self) -> ImageSize;

    /// Channels of the images.
    fn in_channels(&self) -> usize;

    /// Side in pixels of the patches that form the first tokens.
    fn patch_size(&self) -> usize;

    /// Side in pixels covered by one output token. Default: the patch size.
    fn output_stride(&self) -> usize {
        self.patch_size()
    }

    /// Width of the output tokens.
    fn dim(&self) -> usize;

    /// How hidden patches are treated if neither settings nor decoder require otherwise. Default: `replace`.
    fn hiding(&self) -> MaskMode {
        MaskMode::Replace
    }

    /// Whether a trained mask token can replace hidden patches. Default: no.
    fn can_replace(&self) -> bool {
        false
    }

    /// Adds or removes the mask token. Default: does nothing, for encoders without one.
    fn set_mask_token(&mut self, wanted: bool) {
        let _ = wanted;
    }

    /// Whether the same weights work for images of other sizes. Default: yes.
    fn any_size(&self) -> bool {
        true
    }

    /// The authors' initialisation. Default: as `method` says, for encoders where methods differ.
    fn init(&self, method: Init) -> Box<dyn InitScheme> {
        method.build(self.patch_values())
    }

    /// Pixel values per patch, an argument of [`Init::build`](crate::params::Init::build).
    fn patch_values(&self) -> usize {
        self.patch_size() * self.patch_size() * self.in_channels()
    }

    /// The output grid.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) if a side is not a multiple of the output stride.
    fn grid(&self) -> Result<PatchGrid> {
        PatchGrid::of_image(self.image_size().into(), self.output_stride())
    }
}
