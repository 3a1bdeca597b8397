//! An encoder that replaces hidden pixels by a trained colour.

use candle_core::Tensor;

use super::check;
use crate::params::Params;
use crate::{
    EncodeOptions, Encoded, Encoder, Error, Mask, Masking, PatchGrid, Result, StepContext,
};

/// Wraps any encoder; a trained colour replaces hidden pixels first:
/// `image * (1 - M) + mask_token * M`, where `M` repeats the mask over the pixels of its cells.
///
/// The inner encoder sees a whole image and needs no mask token, so it may have overlapping
/// convolutions. Masks may be on any grid that tiles the image. The colour is in units of normalised
/// pixels: 0 is the mean. Downstream tasks use the inner encoder, [`Encoder::trunk`].
///
/// FastMIM (Guo et al., arXiv 2212.06593); ggjy/FastMIM.pytorch @ d4eea0d.
#[derive(Debug, Clone)]
pub struct PixelMasked<E> {
    inner: E,
    mask_token: Tensor,
    in_channels: usize,
}

impl<E: Encoder> PixelMasked<E> {
    /// Wraps `inner`; the colour is the parameter `mask_token` `[1, in_channels, 1, 1]`.
    ///
    /// # Errors
    ///
    /// If a parameter with this name has another shape.
    pub fn new(params: &Params, inner: E, in_channels: usize) -> Result<Self> {
        Ok(Self {
            inner,
            mask_token: params.weight(&[1, in_channels, 1, 1], "mask_token")?,
            in_channels,
        })
    }

    /// The painted images `[mask rows, channels, height, width]`, copy-major.
    fn paint(&self, image: &Tensor, mask: &Mask) -> Result<Tensor> {
        let (height, width) = check::image_size(image, self.in_channels)?;
        let copies = mask.copies(image.dim(0)?)?;
        let image = match copies {
            1 => image.clone(),
            _ => Tensor::cat(&vec![image; copies], 0)?,
        };
        let pixels = mask.upsample(PatchGrid::new(height, width))?;
        let hidden = pixels.bits(image.device())?;
        let hidden = hidden.reshape((mask.rows(), 1, height, width))?;
        let visible = image.broadcast_mul(&(1. - &hidden)?)?;
        Ok((visible + self.mask_token.broadcast_mul(&hidden)?)?)
    }
}

impl<E: Encoder> Encoder for PixelMasked<E> {
    fn dim(&self) -> usize {
        self.inner.dim()
    }

    fn trunk(&self) -> &dyn Encoder {
        self.inner.trunk()
    }

    fn grid(&self, image: (usize, usize)) -> Result<PatchGrid> {
        self.inner.grid(image)
    }

    /// Traces the painted image as `masked_image`.
    fn encode(
        &self,
        image: &Tensor,
        masking: Masking<'_>,
        want: &EncodeOptions,
        step: &StepContext,
    ) -> Result<Encoded> {
        check::no_order("painted images", masking)?;
        let painted = match masking {
            Masking::None => image.clone(),
            Masking::Replace(mask) => self.paint(image, mask)?,
            Masking::Drop(_) | Masking::Causal(_) => {
                return Err(Error::unsupported(
                    "dropping hidden patches in PixelMasked",
                    "its inner encoder sees whole images",
                    "replace them (Masking::Replace, MaskMode::Replace)",
                ));
            }
        };
        step.trace("masked_image", || Ok(painted.clone()))?;
        self.inner.encode(&painted, Masking::None, want, step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use crate::encoders::{EncoderConfig, PvtV2Config, SwinConfig, VitConfig};
    use candle_core::Device;

    /// One encoder of each kind, for 2 channels and 16 pixels, with an output stride of 8.
    fn configs() -> [EncoderConfig; 3] {
        let (image_size, in_channels) = (16.into(), 2);
        let vit = VitConfig {
            image_size,
            in_channels,
            patch_size: 8,
            embed_dim: 8,
            depth: 1,
            num_heads: 2,
            ..VitConfig::default()
        };
        let swin = SwinConfig {
            image_size,
            in_channels,
            embed_dim: 4,
            depths: vec![2, 1],
            num_heads: vec![1, 2],
            window_size: 2,
            mask_token: false,
            ..SwinConfig::default()
        };
        let pvt = PvtV2Config {
            image_size,
            in_channels,
            embed_dims: vec![4, 8],
            depths: vec![1, 1],
            num_heads: vec![1, 2],
            mlp_ratios: vec![2., 2.],
            sr_ratios: vec![2, 1],
            ..PvtV2Config::default()
        };
        [vit.into(), swin.into(), pvt.into()]
    }

    fn build(config: &EncoderConfig) -> (ParamStore, PixelMasked<Box<dyn Encoder>>) {
        let store = ParamStore::cpu(4);
        let inner = config.build(&store.root().pp("encoder")).unwrap();
        let built = PixelMasked::new(&store.root(), inner, 2).unwrap();
        (store, built)
    }

    fn images() -> Tensor {
        let values = Tensor::arange(0f32, 2. * 2. * 256., &Device::Cpu).unwrap();
        values.sin().unwrap().reshape((2, 2, 16, 16)).unwrap()
    }

    fn values(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn encode(encoder: &dyn Encoder, images: &Tensor, masking: Masking<'_>) -> Tensor {
        let (want, step) = (EncodeOptions::default(), StepContext::new(0));
        let encoded = encoder.encode(images, masking, &want, &step).unwrap();
        encoded.tokens
    }

    #[test]
    fn hidden_pixels_have_one_colour_and_visible_ones_stay() {
        let (store, encoder) = build(&configs()[0]);
        let colour = Tensor::new(&[5f32, -7.], &Device::Cpu).unwrap();
        let token = store.var("mask_token").unwrap();
        token.set(&colour.reshape((1, 2, 1, 1)).unwrap()).unwrap();
        // Two masks per image, on cells of 8 pixels.
        let bits = [1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0];
        let mask = Mask::from_bits(PatchGrid::new(2, 2), &bits).unwrap();
        let painted = encoder.paint(&images(), &mask).unwrap();
        assert_eq!(painted.dims(), [4, 2, 16, 16]);
        for (row, bits) in bits.chunks(4).enumerate() {
            let (row_of, image) = (painted.get(row).unwrap(), images().get(row % 2).unwrap());
            for (channel, colour) in [5f32, -7.].into_iter().enumerate() {
                let painted: Vec<Vec<f32>> = row_of.get(channel).unwrap().to_vec2().unwrap();
                let image: Vec<Vec<f32>> = image.get(channel).unwrap().to_vec2().unwrap();
                for (y, x) in (0..16).flat_map(|y| (0..16).map(move |x| (y, x))) {
                    let hidden = bits[y / 8 * 2 + x / 8] == 1;
                    let want = if hidden { colour } else { image[y][x] };
                    assert_eq!(painted[y][x], want, "{row} {channel} {y} {x}");
                }
            }
        }
    }

    #[test]
    fn the_colour_gets_its_gradient_through_every_encoder() {
        let grid = PatchGrid::new(4, 4);
        let bits: Vec<u8> = (0..32).map(|id| u8::from(id % 3 == 0)).collect();
        let mask = Mask::from_bits(grid, &bits).unwrap();
        for config in configs() {
            let (store, encoder) = build(&config);
            let token = store.var("mask_token").unwrap();
            // Far from zero, a norm after the first convolution has a steep slope.
            let colour = Tensor::new(&[0.7f32, -0.9], &Device::Cpu).unwrap();
            token.set(&colour.reshape((1, 2, 1, 1)).unwrap()).unwrap();
            let loss = |tokens: Tensor| {
                let count = tokens.elem_count();
                let weights = Tensor::arange(0f32, count as f32, &Device::Cpu).unwrap();
                let weights = weights.cos().unwrap().reshape(tokens.shape()).unwrap();
                (tokens * weights).unwrap().sum_all().unwrap()
            };
            let forward = || loss(encode(&encoder, &images(), Masking::Replace(&mask)));
            let grads = forward().backward().unwrap();
            let slope = values(grads.get(&token).unwrap());
            assert!(slope.iter().all(|v| v.abs() > 1e-4), "{slope:?}");
            let start = token.as_detached_tensor().copy().unwrap();
            for (channel, slope) in slope.into_iter().enumerate() {
                let at = |step: f64| -> f64 {
                    let ones: Vec<f64> = (0..2).map(|c| f64::from(c == channel) * step).collect();
                    let shift = Tensor::new(ones, &Device::Cpu).unwrap();
                    let shift = shift.to_dtype(start.dtype()).unwrap();
                    token
                        .set(&(&start + shift.reshape((1, 2, 1, 1)).unwrap()).unwrap())
                        .unwrap();
                    f64::from(forward().to_scalar::<f32>().unwrap())
                };
                let measured = (at(1e-2) - at(-1e-2)) / 2e-2;
                token.set(&start).unwrap();
                let error = (measured - f64::from(slope)).abs();
                assert!(error < 0.01 * measured.abs() + 2e-3, "{measured} {slope}");
            }
        }
    }

    #[test]
    fn without_a_mask_it_equals_the_inner_encoder() {
        for config in configs() {
            let (store, encoder) = build(&config);
            let (whole, inner) = (
                encode(&encoder, &images(), Masking::None),
                encode(encoder.trunk(), &images(), Masking::None),
            );
            assert_eq!(values(&whole), values(&inner));
            assert_eq!(encoder.grid((16, 16)).unwrap(), PatchGrid::new(2, 2));
            assert_eq!(encoder.dim(), 8);
            assert_eq!(store.var("mask_token").unwrap().dims(), [1, 2, 1, 1]);
            let mask = Mask::from_bits(PatchGrid::new(2, 2), &[0, 1, 1, 0, 1, 0, 0, 1]).unwrap();
            let (want, step) = (EncodeOptions::default(), StepContext::new(0));
            let dropped = encoder.encode(&images(), Masking::Drop(&mask), &want, &step);
            assert!(dropped.unwrap_err().to_string().contains("Replace"));
        }
    }
}
