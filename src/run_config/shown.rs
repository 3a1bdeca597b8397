//! The channels that pictures show.

use candle_core::Tensor;
use mim_core::{Error, Result};

use super::DataConfig;

impl DataConfig {
    /// Checks that images of `channels` channels have those to be shown.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if they lack one, or have no more than three.
    pub(super) fn check_shown(&self, channels: usize) -> Result<()> {
        let Some(shown) = self.shown_channels else {
            return Ok(());
        };
        if channels > 3 && shown.iter().all(|channel| *channel < channels) {
            return Ok(());
        }
        let (why, fix) = match channels {
            ..=3 => (
                format!("images of {channels} channels are shown as they are"),
                "leave it out".to_owned(),
            ),
            _ => (
                format!("the images have {channels} channels (encoder.in_channels)"),
                format!("name channels from 0 to {}", channels - 1),
            ),
        };
        let value = format!("{shown:?}");
        Err(Error::config("data", "shown_channels", value, why, fix))
    }

    /// The channels of images `[count, channels, height, width]` that pictures show: all of up to three, else those of
    /// [`DataConfig::shown_channels`].
    ///
    /// # Errors
    ///
    /// If the images lack one of them.
    pub fn shown(&self, images: &Tensor) -> Result<Tensor> {
        if images.dim(1)? <= 3 {
            return Ok(images.clone());
        }
        let mut channels = Vec::with_capacity(3);
        for channel in self.shown_channels.unwrap_or([0, 1, 2]) {
            channels.push(images.narrow(1, channel, 1)?);
        }
        Ok(Tensor::cat(&channels, 1)?)
    }
}
