//! Multi-head attention to other tokens.

use candle_core::{DType, Tensor};

use super::Linear;
use crate::params::Params;
use crate::{Result, ops};

/// Attention of tokens to a context (Vaswani et al., 2017), scaled by `head_dim^-0.5`.
///
/// Queries and values have a bias; the keys' is always zero.
#[derive(Debug, Clone)]
pub struct CrossAttention {
    q: Tensor,
    q_bias: Tensor,
    kv: Tensor,
    v_bias: Tensor,
    proj: Linear,
    heads: usize,
}

impl CrossAttention {
    /// Parameters `q.weight`, `kv.weight`, `q_bias`, `v_bias`, `proj`, for tokens of `dim` values and
    /// a context of `context_dim`.
    ///
    /// Heads are `dim / heads` wide, rounded down.
    ///
    /// # Errors
    ///
    /// If a name is taken by another shape.
    pub fn new(params: &Params, (dim, context_dim): (usize, usize), heads: usize) -> Result<Self> {
        let inner = dim / heads * heads;
        Ok(Self {
            q_bias: params.weight(&[inner], "q_bias")?,
            v_bias: params.weight(&[inner], "v_bias")?,
            q: params.pp("q").weight(&[inner, dim], "weight")?,
            kv: params
                .pp("kv")
                .weight(&[2 * inner, context_dim], "weight")?,
            proj: Linear::new(&params.pp("proj"), inner, dim)?,
            heads,
        })
    }

    /// Attends from `[rows, tokens, dim]` to `[rows, others, context_dim]`; gives `[rows, tokens, dim]`.
    ///
    /// # Errors
    ///
    /// If a shape does not fit.
    pub fn forward(&self, xs: &Tensor, context: &Tensor) -> Result<Tensor> {
        let inner = self.q_bias.dim(0)?;
        let zero = Tensor::zeros(inner, DType::F32, self.v_bias.device())?;
        let kv_bias = Tensor::cat(&[&zero, &self.v_bias], 0)?;
        let q = ops::linear(xs, &self.q, Some(&self.q_bias))?;
        let kv = ops::linear(context, &self.kv, Some(&kv_bias))?;
        let scale = ((inner / self.heads) as f64).powf(-0.5);
        self.proj
            .forward(&ops::cross_attention(&q, &kv, self.heads, scale)?)
    }
}
