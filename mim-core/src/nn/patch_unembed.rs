//! Maps tokens to patches.

use candle_core::Tensor;

use crate::params::Params;
use crate::{Result, ops};

/// A transposed convolution with kernel and stride `patch_size`, applied token by token.
///
/// `patch[channel, y, x] = sum_d token[d] weight[d, channel, y, x] + bias[channel]`.
#[derive(Debug, Clone)]
pub struct PatchUnembed {
    weight: Tensor,
    bias: Tensor,
}

impl PatchUnembed {
    /// Parameters `weight` `[dim, channels, patch, patch]`, `bias` `[channels]`.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, dim: usize, channels: usize, patch_size: usize) -> Result<Self> {
        Ok(Self {
            weight: params.weight(&[dim, channels, patch_size, patch_size], "weight")?,
            bias: params.weight(&[channels], "bias")?,
        })
    }

    /// Maps `[..., dim]` to patches `[..., channels * patch * patch]`, channel by channel
    /// ([`ops::PatchOrder::ChannelsThenPixels`]).
    ///
    /// # Errors
    ///
    /// If the last axis is not `dim` wide.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (_, channels, height, width) = self.weight.dims4()?;
        let bias = self
            .bias
            .unsqueeze(1)?
            .broadcast_as((channels, height * width))?
            .flatten_all()?;
        Ok(ops::linear(
            xs,
            &self.weight.flatten_from(1)?.t()?,
            Some(&bias),
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use candle_core::Device;

    #[test]
    fn every_pixel_has_its_weight_and_every_channel_its_bias() {
        let store = ParamStore::cpu(0);
        let layer = PatchUnembed::new(&store.root(), 2, 2, 2).unwrap();
        let set = |name: &str, values: &[f32], shape: &[usize]| {
            let value = Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
            store.var(name).unwrap().set(&value).unwrap();
        };
        let weights: Vec<f32> = (0..16u8).map(f32::from).collect();
        set("weight", &weights, &[2, 2, 2, 2]);
        set("bias", &[100., 200.], &[2]);
        let xs = Tensor::new(&[[1f32, 0.], [0., 2.]], &Device::Cpu).unwrap();
        let ys = layer.forward(&xs).unwrap();
        assert_eq!(
            ys.to_vec2::<f32>().unwrap(),
            [
                [100., 101., 102., 103., 204., 205., 206., 207.],
                [116., 118., 120., 122., 224., 226., 228., 230.]
            ]
        );
        let grads = ys.sum_all().unwrap().backward().unwrap();
        assert!(
            ["weight", "bias"]
                .iter()
                .all(|name| grads.get(&store.var(name).unwrap()).is_some())
        );
        assert!(layer.forward(&ys).is_err());
    }
}
