//! Settings of a transformer block.

use super::{NormKind, QkvBias};
use crate::{Error, Result};

/// Settings of a [`Block`](super::Block).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockConfig {
    /// Width of the tokens.
    pub dim: usize,
    /// Attention heads; they divide `dim`.
    pub num_heads: usize,
    /// Width of the hidden layer as a multiple of `dim`.
    pub mlp_ratio: f64,
    /// Biases of query, key and value.
    pub qkv_bias: QkvBias,
    /// Kind of norm.
    pub norm: NormKind,
    /// Epsilon of both norms.
    pub norm_eps: f64,
    /// Initial layer scale; `None` for no layer scale.
    pub layer_scale_init: Option<f64>,
    /// Stochastic depth rate.
    pub drop_path: f64,
}

impl BlockConfig {
    /// Checks that the heads divide the width, that the hidden layer is not empty, and that `norm_eps` is positive.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] naming the setting of `component`.
    pub fn validate(&self, component: &'static str) -> Result<()> {
        let (field, value, why) =
            if self.num_heads == 0 || self.dim == 0 || !self.dim.is_multiple_of(self.num_heads) {
                let why = format!("embed_dim = {} must be a multiple of it", self.dim);
                ("num_heads", self.num_heads.to_string(), why)
            } else if self.dim as f64 * self.mlp_ratio < 1. {
                let why = "the hidden layer would be empty".to_owned();
                ("mlp_ratio", self.mlp_ratio.to_string(), why)
            } else if self.norm_eps.is_nan() || self.norm_eps <= 0. {
                let why = "it must be positive".to_owned();
                ("norm_eps", self.norm_eps.to_string(), why)
            } else {
                return Ok(());
            };
        let fix = format!("change {component}.{field}");
        Err(Error::config(component, field, value, why, fix))
    }
}
