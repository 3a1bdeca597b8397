//! The projection head of contrastive methods.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{BatchNorm, Linear};
use crate::params::Params;
use crate::{Error, Result, StepContext};

/// Settings of [`ProjectionHead`]; `Default` is CMAE's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProjectionHeadConfig {
    /// Width between the two layers. Default 1536.
    pub hidden_dim: usize,
    /// Width of the output. Default 256.
    pub out_dim: usize,
    /// Epsilon of the batch norm. Default 1e-6.
    pub norm_eps: f64,
}

impl Default for ProjectionHeadConfig {
    fn default() -> Self {
        Self {
            hidden_dim: 1536,
            out_dim: 256,
            norm_eps: 1e-6,
        }
    }
}

impl ProjectionHeadConfig {
    /// Checks the settings and builds a head for rows of `inputs` values under `params`.
    ///
    /// Parameters `fc0.weight`, `fc0.bias`, `bn0.*` (see [`BatchNorm`]), `fc1.weight`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a width or the epsilon is not positive, [`Error::Shape`] if a
    /// parameter with one of these names has another shape.
    pub fn build(&self, params: &Params, inputs: usize) -> Result<ProjectionHead> {
        let bad = |field: &'static str, value: String, fix: &'static str| {
            Error::config("projection head", field, value, "it must be positive", fix)
        };
        for (field, width) in [("hidden_dim", self.hidden_dim), ("out_dim", self.out_dim)] {
            if width == 0 {
                return Err(bad(field, width.to_string(), "use 256, for example"));
            }
        }
        if self.norm_eps <= 0. || !self.norm_eps.is_finite() {
            return Err(bad("norm_eps", self.norm_eps.to_string(), "use 1e-6"));
        }
        Ok(ProjectionHead {
            fc0: Linear::new(&params.pp("fc0"), inputs, self.hidden_dim)?,
            bn0: BatchNorm::new(&params.pp("bn0"), self.hidden_dim, self.norm_eps)?,
            fc1: Linear::no_bias(&params.pp("fc1"), self.hidden_dim, self.out_dim)?,
        })
    }
}

/// `fc1(relu(batch_norm(fc0(x))))`, the second layer without bias: projector and predictor of
/// contrastive methods (Chen et al., ICML 2020; CMAE, Huang et al., TPAMI 2023).
#[derive(Debug, Clone)]
pub struct ProjectionHead {
    fc0: Linear,
    bn0: BatchNorm,
    fc1: Linear,
}

impl ProjectionHead {
    /// Maps `[..., inputs]` to `[..., out_dim]`; the batch statistics are over all rows.
    ///
    /// # Errors
    ///
    /// If the last axis is not `inputs` wide, or as [`BatchNorm::forward`].
    pub fn forward(&self, xs: &Tensor, step: &StepContext) -> Result<Tensor> {
        let hidden = self.bn0.forward(&self.fc0.forward(xs)?, step)?;
        self.fc1.forward(&hidden.relu()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use candle_core::Device;

    fn config() -> ProjectionHeadConfig {
        ProjectionHeadConfig {
            hidden_dim: 2,
            out_dim: 1,
            norm_eps: 1e-6,
        }
    }

    #[test]
    fn gradients_arrive_except_at_the_bias_before_the_norm() {
        let store = ParamStore::cpu(0);
        let head = config().build(&store.root(), 3).unwrap();
        let xs = Tensor::new(
            &[[1f32, 0., 2.], [0., 3., 1.], [-1., 1., 0.], [2., 2., -1.]],
            &Device::Cpu,
        )
        .unwrap();
        let ys = head.forward(&xs, &StepContext::new(0)).unwrap();
        assert_eq!(ys.dims(), [4, 1]);
        let squares = ys.sqr().unwrap().sum_all().unwrap();
        let gradients = squares.backward().unwrap();
        for (name, var) in store.trainable() {
            let gradient = gradients.get(&var).unwrap().abs().unwrap();
            let largest: f32 = gradient.max_all().unwrap().to_scalar().unwrap();
            assert_eq!(largest > 1e-5, name != "fc0.bias", "{name}: {largest}");
        }
    }

    #[test]
    fn known_values() {
        let store = ParamStore::cpu(0);
        let head = config().build(&store.root(), 1).unwrap();
        let set = |name: &str, values: &[f32], shape: (usize, usize)| {
            let value = Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
            store.var(name).unwrap().set(&value).unwrap();
        };
        set("fc0.weight", &[1., -1.], (2, 1));
        set("fc1.weight", &[2., 5.], (1, 2));
        let xs = Tensor::new(&[[3f32], [7.]], &Device::Cpu).unwrap();
        let ys = head.forward(&xs, &StepContext::new(0)).unwrap();
        let ys: Vec<f32> = ys.flatten_all().unwrap().to_vec1().unwrap();
        // Normalised to -1, 1 and 1, -1; ReLU cuts negative values.
        assert!((ys[0] - 5.).abs() < 1e-5 && (ys[1] - 2.).abs() < 1e-5);
    }

    #[test]
    fn refuses_empty_layers_by_name() {
        let mut wrong = config();
        wrong.out_dim = 0;
        let error = wrong.build(&ParamStore::cpu(0).root(), 3).unwrap_err();
        assert!(error.to_string().contains("`out_dim` is 0"), "{error}");
        let mut wrong = config();
        wrong.norm_eps = 0.;
        let error = wrong.build(&ParamStore::cpu(0).root(), 3).unwrap_err();
        assert!(error.to_string().contains("`norm_eps`"), "{error}");
    }
}
