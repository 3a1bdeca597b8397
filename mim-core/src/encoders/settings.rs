//! What the settings of an encoder say of it.

use crate::params::{Init, InitScheme, Params};
use crate::parts::Settings;
use crate::{Encoder, ImageSize, MaskMode, PatchGrid, Result};

/// Settings of an encoder that a config can name.
pub trait EncoderSettings: Settings {
    /// Checks the settings and builds the encoder under `params`.
    ///
    /// # Errors
    ///
    /// [`crate::Error::InvalidConfig`] if a setting does not hold.
    fn build(&self, params: &Params) -> Result<Box<dyn Encoder>>;

    /// Height and width of the images in pixels.
    fn image_size(&self) -> ImageSize;

    /// Channels of the images.
    fn in_channels(&self) -> usize;

    /// Side in pixels of a patch, of which the first tokens are made.
    fn patch_size(&self) -> usize;

    /// Side in pixels of what one token of the output stands for. Default: a patch.
    fn output_stride(&self) -> usize {
        self.patch_size()
    }

    /// Width of the output's tokens.
    fn dim(&self) -> usize;

    /// What becomes of hidden patches if neither settings nor decoder ask for more. Default: `replace`.
    fn hiding(&self) -> MaskMode {
        MaskMode::Replace
    }

    /// Whether a trained token can stand for hidden patches. Default: no.
    fn can_replace(&self) -> bool {
        false
    }

    /// Gives it the token for hidden patches, or takes it away. Default: nothing, for encoders that have none.
    fn set_mask_token(&mut self, wanted: bool) {
        let _ = wanted;
    }

    /// Whether its weights, as they are, fit images of other sizes. Default: yes.
    fn any_size(&self) -> bool {
        true
    }

    /// How its authors start its weights. Default: as `method` says, for encoders where methods differ.
    fn init(&self, method: Init) -> Box<dyn InitScheme> {
        method.build(self.patch_values())
    }

    /// Numbers in a patch, as [`crate::params::Init::build`] wants them.
    fn patch_values(&self) -> usize {
        self.patch_size() * self.patch_size() * self.in_channels()
    }

    /// The output's token grid.
    ///
    /// # Errors
    ///
    /// [`crate::Error::InvalidConfig`] if a side is not a multiple of the output stride.
    fn grid(&self) -> Result<PatchGrid> {
        PatchGrid::of_image(self.image_size().into(), self.output_stride())
    }
}
