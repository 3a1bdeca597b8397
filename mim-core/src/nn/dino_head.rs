//! The projection head of self-distillation.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use super::{Linear, WeightNormed};
use crate::params::Params;
use crate::{Error, Result, ops};

/// Lower bound of the squared length in the divisor: lengths below 1e-12 count as 1e-12.
const LEAST_SQUARE: f64 = 1e-24;

/// Settings of [`DinoHead`]; `Default` is iBOT's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DinoHeadConfig {
    /// Number of logits for class tokens. Default 8192.
    pub out_dim: usize,
    /// Number of logits for patches, if patches have their own last layer. Default 8192.
    pub patch_out_dim: usize,
    /// Linear layers before the last layer. Default 3.
    pub num_layers: usize,
    /// Width between these layers. Default 2048.
    pub hidden_dim: usize,
    /// Width before the last layer. Default 256.
    pub bottleneck_dim: usize,
}

impl Default for DinoHeadConfig {
    fn default() -> Self {
        Self {
            out_dim: 8192,
            patch_out_dim: 8192,
            num_layers: 3,
            hidden_dim: 2048,
            bottleneck_dim: 256,
        }
    }
}

impl DinoHeadConfig {
    /// Checks the settings and builds a head for rows of `inputs` values under `params`.
    ///
    /// Parameters `mlp.0`, `mlp.2`, ... (only `mlp` for one layer), `last_layer.weight_g`,
    /// `last_layer.weight_v` and, unless `shared`, the same of `last_layer2`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for a width of zero, [`Error::Shape`] if a parameter with one of these names has
    /// another shape.
    pub fn build(&self, params: &Params, inputs: usize, shared: bool) -> Result<DinoHead> {
        for (field, value) in [
            ("out_dim", self.out_dim),
            ("patch_out_dim", self.patch_out_dim),
            ("num_layers", self.num_layers),
            ("hidden_dim", self.hidden_dim),
            ("bottleneck_dim", self.bottleneck_dim),
        ] {
            if value == 0 {
                let why = "it must be positive";
                return Err(Error::config("head", field, 0, why, "remove it"));
            }
        }
        let (mlp, last) = (params.pp("mlp"), self.num_layers - 1);
        let layer = |index: usize| {
            let inputs = if index == 0 { inputs } else { self.hidden_dim };
            let params = match last {
                0 => mlp.clone(),
                _ => mlp.pp(2 * index),
            };
            let outputs = match index == last {
                true => self.bottleneck_dim,
                false => self.hidden_dim,
            };
            Linear::new(&params, inputs, outputs)
        };
        let normed = |name: &str, outputs: usize| {
            WeightNormed::new(&params.pp(name), self.bottleneck_dim, outputs)
        };
        Ok(DinoHead {
            mlp: (0..self.num_layers).map(layer).collect::<Result<_>>()?,
            last_layer: normed("last_layer", self.out_dim)?,
            last_layer2: match shared {
                true => None,
                false => Some(normed("last_layer2", self.patch_out_dim)?),
            },
        })
    }

    /// Number of logits for patches: [`DinoHeadConfig::out_dim`] if they share the last layer.
    pub fn patch_dim(&self, shared: bool) -> usize {
        match shared {
            true => self.out_dim,
            false => self.patch_out_dim,
        }
    }
}

/// An MLP with exact GELU, normalisation to length one, and a weight-normalised last layer. Class tokens and
/// patches have separate last layers or share one (DINO, Caron et al., ICCV 2021; iBOT, Zhou
/// et al., ICLR 2022).
#[derive(Debug, Clone)]
pub struct DinoHead {
    mlp: Vec<Linear>,
    last_layer: WeightNormed,
    last_layer2: Option<WeightNormed>,
}

impl DinoHead {
    /// The unit-length input of the last layer: `[..., inputs]` to `[..., bottleneck_dim]`.
    ///
    /// # Errors
    ///
    /// If the last axis is not `inputs` wide.
    pub fn bottleneck(&self, xs: &Tensor) -> Result<Tensor> {
        let mut ys = xs.clone();
        for (index, layer) in self.mlp.iter().enumerate() {
            ys = match index {
                0 => layer.forward(&ys)?,
                _ => layer.forward(&ops::gelu(&ys)?)?,
            };
        }
        let squares = ys.sqr()?.sum_keepdim(D::Minus1)?;
        Ok(ys.broadcast_div(&squares.maximum(LEAST_SQUARE)?.sqrt()?)?)
    }

    /// Logits of class tokens and of patches, from their [`DinoHead::bottleneck`] rows `[..., bottleneck_dim]`: the last axes
    /// become [`DinoHeadConfig::out_dim`] and [`DinoHeadConfig::patch_dim`].
    ///
    /// # Errors
    ///
    /// If the last axis is not `bottleneck_dim` wide.
    pub fn logits(&self, cls: &Tensor, patches: &Tensor) -> Result<(Tensor, Tensor)> {
        let weight = self.last_layer.weight()?;
        let patches = match &self.last_layer2 {
            Some(own) => ops::linear(patches, &own.weight()?, None)?,
            None => ops::linear(patches, &weight, None)?,
        };
        Ok((ops::linear(cls, &weight, None)?, patches))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use candle_core::Device;

    fn config() -> DinoHeadConfig {
        DinoHeadConfig {
            out_dim: 3,
            patch_out_dim: 5,
            num_layers: 2,
            hidden_dim: 6,
            bottleneck_dim: 4,
        }
    }

    fn rows() -> Tensor {
        Tensor::new(&[[1f32, -2.], [0.5, 3.], [2., 0.1]], &Device::Cpu).unwrap()
    }

    #[test]
    fn gradients_arrive_everywhere() {
        for shared in [false, true] {
            let store = ParamStore::cpu(0);
            let head = config().build(&store.root(), 2, shared).unwrap();
            let xs = head.bottleneck(&rows()).unwrap();
            let (cls, patches) = head.logits(&xs, &xs).unwrap();
            assert_eq!(cls.dims(), [3, 3]);
            assert_eq!(patches.dims(), [3, config().patch_dim(shared)]);
            let loss = (cls.exp().unwrap().sum_all().unwrap()
                + patches.exp().unwrap().sum_all().unwrap())
            .unwrap();
            let grads = loss.backward().unwrap();
            assert_eq!(store.trainable().len(), if shared { 6 } else { 8 });
            for (name, var) in store.trainable() {
                let grad = grads.get(&var).unwrap().abs().unwrap();
                let largest: f32 = grad.max_all().unwrap().to_scalar().unwrap();
                assert!(largest > 1e-5, "{name}");
            }
        }
    }

    #[test]
    fn logits_are_cosines_times_g() {
        let store = ParamStore::cpu(0);
        let head = config().build(&store.root(), 2, true).unwrap();
        let double = Tensor::full(2f32, (3, 1), &Device::Cpu).unwrap();
        let xs = head.bottleneck(&rows()).unwrap();
        let plain: Vec<Vec<f32>> = head.logits(&xs, &xs).unwrap().0.to_vec2().unwrap();
        assert!(plain.iter().flatten().all(|cosine| cosine.abs() <= 1.));
        store
            .var("last_layer.weight_g")
            .unwrap()
            .set(&double)
            .unwrap();
        let doubled: Vec<Vec<f32>> = head.logits(&xs, &xs).unwrap().0.to_vec2().unwrap();
        for (one, two) in plain.iter().flatten().zip(doubled.iter().flatten()) {
            assert!((2. * one - two).abs() < 1e-6);
        }
    }

    #[test]
    fn a_single_layer_is_unnumbered_and_zero_widths_are_refused() {
        let store = ParamStore::cpu(0);
        let mut one = config();
        one.num_layers = 1;
        one.build(&store.root(), 2, true).unwrap();
        assert!(store.var("mlp.weight").is_some());
        one.num_layers = 0;
        let error = one.build(&ParamStore::cpu(0).root(), 2, true).unwrap_err();
        assert!(error.to_string().contains("`num_layers`"), "{error}");
    }
}
