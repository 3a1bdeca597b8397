//! Multi-head attention to other tokens.

use candle_core::{D, DType, Tensor};

use super::{Linear, QkvBias};
use crate::params::Params;
use crate::{Result, ops};

/// Attention of tokens to a context (Vaswani et al., 2017), scaled by `head_dim^-0.5`.
#[derive(Debug, Clone)]
pub struct CrossAttention {
    q: Tensor,
    kv: Tensor,
    bias: Bias,
    proj: Linear,
    heads: usize,
}

#[derive(Debug, Clone)]
enum Bias {
    Full { q: Tensor, kv: Tensor },
    QV { q: Tensor, v: Tensor },
    None,
}

impl CrossAttention {
    /// Parameters `q.weight`, `kv.weight`, `proj` and, by `bias`, `q.bias`, `kv.bias` or `q_bias`,
    /// `v_bias`, for tokens of `dim` values and a context of `context_dim`.
    ///
    /// Heads are `dim / heads` wide, rounded down.
    ///
    /// # Errors
    ///
    /// If a name is taken by another shape.
    pub fn new(
        params: &Params,
        (dim, context_dim): (usize, usize),
        heads: usize,
        bias: QkvBias,
    ) -> Result<Self> {
        let inner = dim / heads * heads;
        let bias = match bias {
            QkvBias::Full => Bias::Full {
                q: params.pp("q").weight(&[inner], "bias")?,
                kv: params.pp("kv").weight(&[2 * inner], "bias")?,
            },
            QkvBias::QV => Bias::QV {
                q: params.weight(&[inner], "q_bias")?,
                v: params.weight(&[inner], "v_bias")?,
            },
            QkvBias::None => Bias::None,
        };
        Ok(Self {
            bias,
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
        let (q_bias, kv_bias) = match &self.bias {
            Bias::Full { q, kv } => (Some(q), Some(kv.clone())),
            Bias::QV { q, v } => {
                let zero = Tensor::zeros(v.dims(), DType::F32, v.device())?;
                (Some(q), Some(Tensor::cat(&[&zero, v], 0)?))
            }
            Bias::None => (None, None),
        };
        let q = ops::linear(xs, &self.q, q_bias)?;
        let kv = ops::linear(context, &self.kv, kv_bias.as_ref())?;
        let scale = ((q.dim(D::Minus1)? / self.heads) as f64).powf(-0.5);
        self.proj
            .forward(&ops::cross_attention(&q, &kv, self.heads, scale)?)
    }
}
