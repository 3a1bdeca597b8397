//! Linear layers.

use candle_core::Tensor;

use crate::params::Params;
use crate::{Result, ops};

/// `y = x W^T + b`, `W` `[outputs, inputs]`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// A map with bias; parameters `weight`, `bias`.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, inputs: usize, outputs: usize) -> Result<Self> {
        let bias = Some(params.weight(&[outputs], "bias")?);
        Ok(Self {
            weight: params.weight(&[outputs, inputs], "weight")?,
            bias,
        })
    }

    /// A map without bias; parameter `weight`.
    ///
    /// # Errors
    ///
    /// If a parameter with this name has another shape.
    pub fn no_bias(params: &Params, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self {
            weight: params.weight(&[outputs, inputs], "weight")?,
            bias: None,
        })
    }

    /// The layer followed by GELU, `[..., inputs]` to `[..., outputs]`.
    ///
    /// # Errors
    ///
    /// If the last axis is not `inputs` wide.
    pub fn forward_gelu(&self, xs: &Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => Ok(ops::linear_gelu(xs, &self.weight, bias)?),
            None => Ok(ops::gelu(&self.forward(xs)?)?),
        }
    }

    /// Maps `[..., inputs]` to `[..., outputs]`.
    ///
    /// # Errors
    ///
    /// If the last axis is not `inputs` wide.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(ops::linear(xs, &self.weight, self.bias.as_ref())?)
    }

    /// Maps concatenated inputs `[shared, own]` to `[groups, rows, outputs]`: each row of `own` `[groups, rows, b]` is
    /// preceded by the values of its group, `shared` `[groups, a]`. The shared part is computed once per group.
    ///
    /// # Errors
    ///
    /// If `a + b` is not the number of inputs.
    pub fn forward_joined(&self, shared: &Tensor, own: &Tensor) -> Result<Tensor> {
        let (first, second) = (shared.dim(1)?, own.dim(2)?);
        let part = |from, count| self.weight.narrow(1, from, count)?.contiguous();
        let shared = ops::linear(shared, &part(0, first)?, self.bias.as_ref())?;
        let own = ops::linear(own, &part(first, second)?, None)?;
        Ok(own.broadcast_add(&shared.unsqueeze(1)?)?)
    }

    /// Weight and bias, if it has a bias.
    pub(super) fn affine(&self) -> Option<ops::Affine<'_>> {
        let (weight, bias) = (&self.weight, self.bias.as_ref()?);
        Some(ops::Affine { weight, bias })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use crate::objectives::testing::noise;

    #[test]
    fn shared_values_precede_each_row() {
        let store = ParamStore::cpu(0);
        let map = Linear::new(&store.root(), 5, 4).unwrap();
        let (shared, own) = (noise(&[3, 2], 1), noise(&[3, 6, 3], 2));
        let front = shared.unsqueeze(1).unwrap().repeat((1, 6, 1)).unwrap();
        let joined = Tensor::cat(&[&front, &own], 2).unwrap();
        let apart = (map.forward(&joined).unwrap() - map.forward_joined(&shared, &own).unwrap())
            .unwrap()
            .abs()
            .unwrap();
        let apart = apart.flatten_all().unwrap().max(0).unwrap();
        assert!(apart.to_scalar::<f32>().unwrap() < 1e-6);
    }
}
