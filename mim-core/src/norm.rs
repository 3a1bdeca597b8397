//! Normalisation of pixels.

use candle_core::{CpuStorage, Device, Storage, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::ops::normalize_bytes;
use crate::simd::simd_dispatch;
use crate::{Error, Result};

/// Per-channel mean and deviation that map pixels in `[0, 1]` to a network's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Norm {
    /// Mean of each channel.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel.
    pub std: Vec<f64>,
    /// Whether the network expects BGR order.
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
    /// [`Error::InvalidConfig`] if not.
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
                "give one value per channel (in_channels)",
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
        let (scale, shift) = self.scale_and_shift();
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

    /// Factor and offset of each channel.
    fn scale_and_shift(&self) -> (Vec<f64>, Vec<f64>) {
        let channels = self.mean.iter().zip(&self.std);
        channels.map(|(mean, std)| (1. / std, -mean / std)).unzip()
    }

    /// Maps bytes `[batch, channels, height, width]` to the network's input in one pass, with the rounding of
    /// [`Self::apply`]; `None` unless they are contiguous in CPU memory or on a GPU with
    /// kernels.
    #[expect(clippy::cast_possible_truncation, reason = "as tensors of f32 are")]
    pub(crate) fn apply_to_bytes(&self, pixels: &Tensor) -> Result<Option<Tensor>> {
        let (_, channels, height, width) = pixels.dims4()?;
        self.check(channels)?;
        let (scale, shift) = self.scale_and_shift();
        if let Some(ys) = normalize_bytes(pixels, (&scale, &shift), self.reverse_channels)? {
            return Ok(Some(ys));
        }
        let (storage, layout) = pixels.storage_and_layout();
        let (Storage::Cpu(CpuStorage::U8(bytes)), Some((start, end))) =
            (&*storage, layout.contiguous_offsets())
        else {
            return Ok(None);
        };
        let (bytes, plane) = (&bytes[start..end], height * width);
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut ys = vec![0.; bytes.len()];
        let planes = ys.par_chunks_exact_mut(plane).enumerate();
        planes.for_each(|(index, ys)| {
            let (image, channel) = (index / channels, index % channels);
            let channel = if self.reverse_channels {
                channels - 1 - channel
            } else {
                channel
            };
            let bytes = &bytes[(image * channels + channel) * plane..][..plane];
            normalize_plane(bytes, ys, scale[channel] as f32, shift[channel] as f32);
        });
        Ok(Some(Tensor::from_vec(ys, pixels.shape(), &Device::Cpu)?))
    }

    /// Maps a network's input back to pixels in `[0, 1]`, without clamping.
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

simd_dispatch! {
    fn normalize_plane<'a>(bytes: &'a [u8], ys: &'a mut [f32], scale: f32, shift: f32) {
        for (y, byte) in ys.iter_mut().zip(bytes) {
            *y = f32::from(*byte) * (1. / 255.) * scale + shift;
        }
    }
}

/// One value per channel, `[1, channels, 1, 1]`, in the dtype of `like`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::View;

    #[test]
    fn invert_restores_the_pixels() {
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
    fn one_pass_over_bytes_matches_single_steps_bit_for_bit() {
        let bytes: Vec<u8> = (0..=255).cycle().take(2 * 3 * 10 * 13).collect();
        let pixels = Tensor::from_vec(bytes, (2, 3, 10, 13), &Device::Cpu).unwrap();
        let part = pixels.narrow(0, 1, 1).unwrap();
        let crossed = pixels.transpose(2, 3).unwrap();
        for norm in [
            Norm::imagenet(),
            Norm {
                reverse_channels: true,
                ..Norm::clip()
            },
        ] {
            for pixels in [&pixels, &part, &crossed] {
                let view = View::new(pixels.clone(), vec![]).unwrap();
                let values = |ys: Tensor| ys.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(
                    values(view.normalized(&norm).unwrap()),
                    values(norm.apply(&view.unit().unwrap()).unwrap())
                );
            }
            assert!(norm.apply_to_bytes(&part).unwrap().is_some());
            assert!(norm.apply_to_bytes(&crossed).unwrap().is_none());
        }
    }

    #[test]
    fn refuses_a_normalisation_of_other_channels() {
        let view = View::new(
            Tensor::zeros((1, 1, 2, 2), candle_core::DType::U8, &Device::Cpu).unwrap(),
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

    #[cfg(feature = "cuda")]
    #[test]
    fn bytes_on_a_gpu_match_the_cpu_bit_for_bit() {
        let norms = [
            Norm::imagenet(),
            Norm {
                reverse_channels: true,
                ..Norm::clip()
            },
        ];
        for (height, width) in [(1, 1), (7, 9), (16, 12), (40, 33), (32, 64)] {
            let count = 2 * 3 * height * width;
            let bytes: Vec<u8> = (0..=255).cycle().take(count).collect();
            let pixels = Tensor::from_vec(bytes, (2, 3, height, width), &Device::Cpu).unwrap();
            // The second starts at an unaligned byte, the last one is strided.
            let versions = [
                pixels.clone(),
                pixels.narrow(0, 1, 1).unwrap(),
                pixels.transpose(2, 3).unwrap(),
            ];
            for (norm, pixels) in norms
                .iter()
                .flat_map(|n| versions.iter().map(move |p| (n, p)))
            {
                let values = |pixels: Tensor| -> Vec<f32> {
                    let view = View::new(pixels, vec![]).unwrap();
                    let ys = view.normalized(norm).unwrap();
                    assert_eq!(ys.dims(), view.pixels().dims());
                    ys.flatten_all().unwrap().to_vec1().unwrap()
                };
                let want = values(pixels.clone());
                let device = Device::new_cuda(0).unwrap();
                let before = crate::ops::launches();
                assert_eq!(values(pixels.to_device(&device).unwrap()), want);
                assert_eq!(crate::ops::launches(), before + 1);
            }
        }
    }
}
