//! Views of images as a method receives them.

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Where a view lies in its source image; coordinates refer to the source after the view's own flip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crop {
    /// Top edge in source pixels.
    pub top: f32,
    /// Left edge in source pixels.
    pub left: f32,
    /// Height in source pixels.
    pub height: f32,
    /// Width in source pixels.
    pub width: f32,
    /// Height of the source image in pixels.
    pub source_height: u32,
    /// Width of the source image in pixels.
    pub source_width: u32,
    /// Whether the view was mirrored.
    pub flipped: bool,
}

impl Crop {
    /// The whole of an image of (height, width) pixels.
    pub fn whole((height, width): (u32, u32)) -> Self {
        Self {
            top: 0.,
            left: 0.,
            height: height as f32,
            width: width as f32,
            source_height: height,
            source_width: width,
            flipped: false,
        }
    }
}

/// Per-channel mean and deviation that map pixels in `[0, 1]` to a network's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Norm {
    /// Mean of each channel.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel.
    pub std: Vec<f64>,
    /// Whether the network wants blue first.
    #[serde(default)]
    pub reverse_channels: bool,
}

impl Norm {
    fn rgb(mean: [f64; 3], std: [f64; 3]) -> Self {
        Self {
            mean: mean.to_vec(),
            std: std.to_vec(),
            reverse_channels: false,
        }
    }

    /// ImageNet statistics, the default of nearly every method.
    pub fn imagenet() -> Self {
        Self::rgb([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    }

    /// Inception's `[-1, 1]` range (timm's default, early BEiT).
    pub fn inception() -> Self {
        Self::rgb([0.5; 3], [0.5; 3])
    }

    /// OpenAI CLIP's statistics.
    pub fn clip() -> Self {
        Self::rgb(
            [0.481_454_66, 0.457_827_5, 0.408_210_73],
            [0.268_629_54, 0.261_302_58, 0.275_777_11],
        )
    }

    /// DALL-E's `x * 0.8 + 0.1`.
    pub fn dvae() -> Self {
        Self::rgb([-0.125; 3], [1.25; 3])
    }

    /// The same mean and deviation on each of `channels` channels.
    pub fn uniform(mean: f64, std: f64, channels: usize) -> Self {
        Self {
            mean: vec![mean; channels],
            std: vec![std; channels],
            reverse_channels: false,
        }
    }

    /// Checks that there is one positive deviation and one mean for each of `channels` channels.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] otherwise.
    pub fn check(&self, channels: usize) -> Result<()> {
        if self.mean.len() != channels
            || self.std.len() != channels
            || !self.std.iter().all(|s| *s > 0.)
        {
            return Err(Error::config(
                "normalisation",
                "mean, std",
                format!("{:?}, {:?}", self.mean, self.std),
                format!("there must be {channels} means and {channels} positive deviations"),
                "give one value for each of in_channels",
            ));
        }
        Ok(())
    }

    /// Maps pixels in `[0, 1]` `[batch, channels, height, width]` to the network's input.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the channels differ.
    pub fn apply(&self, unit: &Tensor) -> Result<Tensor> {
        self.check(unit.dim(1)?)?;
        let scale = self.std.iter().map(|std| 1. / std).collect();
        let shift = self
            .mean
            .iter()
            .zip(&self.std)
            .map(|(mean, std)| -mean / std)
            .collect();
        let row = |values| channel_row(values, unit);
        let ys = unit
            .broadcast_mul(&row(scale)?)?
            .broadcast_add(&row(shift)?)?;
        Ok(if self.reverse_channels {
            reversed(&ys)?
        } else {
            ys
        })
    }

    /// Maps a network's input back to pixels in `[0, 1]`, not clamped.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the channels differ.
    pub fn invert(&self, normalised: &Tensor) -> Result<Tensor> {
        self.check(normalised.dim(1)?)?;
        let ys = if self.reverse_channels {
            reversed(normalised)?
        } else {
            normalised.clone()
        };
        let row = |values: &[f64]| channel_row(values.to_vec(), normalised);
        Ok(ys
            .broadcast_mul(&row(&self.std)?)?
            .broadcast_add(&row(&self.mean)?)?)
    }
}

impl Default for Norm {
    fn default() -> Self {
        Self::imagenet()
    }
}

/// One value a channel, `[1, channels, 1, 1]`, of the type of `like`.
fn channel_row(values: Vec<f64>, like: &Tensor) -> Result<Tensor> {
    let channels = values.len();
    let row = Tensor::from_vec(values, (1, channels, 1, 1), like.device())?;
    Ok(row.to_dtype(like.dtype())?)
}

/// `xs` with its channels (axis 1) in reverse order.
fn reversed(xs: &Tensor) -> Result<Tensor> {
    let channels = u32::try_from(xs.dim(1)?).unwrap_or(u32::MAX);
    let order: Vec<u32> = (0..channels).rev().collect();
    Ok(xs.index_select(&Tensor::new(order, xs.device())?, 1)?)
}

/// One view of a batch of images.
#[derive(Debug, Clone)]
pub struct View {
    pixels: Tensor,
    /// One crop an image, or empty where nobody recorded them.
    pub crops: Vec<Crop>,
}

impl View {
    /// A view of `[batch, channels, height, width]` pixels: u8 bytes, or f32 values that the caller
    /// has normalised already (recorded inputs, custom data).
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for another rank or type.
    pub fn new(pixels: Tensor, crops: Vec<Crop>) -> Result<Self> {
        if pixels.rank() != 4 || !matches!(pixels.dtype(), DType::U8 | DType::F32) {
            return Err(Error::shape(
                "view pixels",
                "[batch, channels, height, width] in u8 or f32",
                (pixels.dims(), pixels.dtype()),
                "pass raw bytes, or f32 values normalised by you",
            ));
        }
        Ok(Self { pixels, crops })
    }

    /// The pixels as given.
    pub fn pixels(&self) -> &Tensor {
        &self.pixels
    }

    /// Images in the view.
    pub fn len(&self) -> usize {
        self.pixels.dims()[0]
    }

    /// Whether the view holds no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Height and width in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.pixels.dims()[2], self.pixels.dims()[3])
    }

    /// Pixels in `[0, 1]`.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for a view of f32 values, whose normalisation is not known.
    pub fn unit(&self) -> Result<Tensor> {
        if self.pixels.dtype() != DType::U8 {
            return Err(Error::unsupported(
                "reading raw pixels of a normalised view",
                "its values were normalised by the caller",
                "pass the view as u8 bytes",
            ));
        }
        Ok((self.pixels.to_dtype(DType::F32)? / 255.)?)
    }

    /// The network's input: bytes are normalised with `norm`, f32 values are passed on as they are.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if `norm` has another number of channels.
    pub fn normalized(&self, norm: &Norm) -> Result<Tensor> {
        match self.pixels.dtype() {
            DType::U8 => norm.apply(&self.unit()?),
            _ => Ok(self.pixels.clone()),
        }
    }

    /// The same view on another device.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(Self {
            pixels: self.pixels.to_device(device)?,
            crops: self.crops.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverting_a_normalisation_gives_the_pixels_back() {
        let bytes: Vec<u8> = (0..48).map(|v| v * 5).collect();
        let view = View::new(
            Tensor::from_vec(bytes, (1, 3, 4, 4), &Device::Cpu).unwrap(),
            vec![],
        )
        .unwrap();
        for norm in [
            Norm::imagenet(),
            Norm {
                reverse_channels: true,
                ..Norm::clip()
            },
        ] {
            let back = norm.invert(&view.normalized(&norm).unwrap()).unwrap();
            let difference = (back - view.unit().unwrap())
                .unwrap()
                .abs()
                .unwrap()
                .flatten_all()
                .unwrap();
            assert!(difference.max(0).unwrap().to_scalar::<f32>().unwrap() < 1e-6);
        }
    }

    #[test]
    fn refuses_a_normalisation_of_other_channels() {
        let view = View::new(
            Tensor::zeros((1, 1, 2, 2), DType::U8, &Device::Cpu).unwrap(),
            vec![],
        )
        .unwrap();
        assert!(
            view.normalized(&Norm::imagenet())
                .unwrap_err()
                .to_string()
                .contains("1 means")
        );
    }
}
