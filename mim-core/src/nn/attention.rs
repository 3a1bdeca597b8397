//! Multi-head self-attention.

use candle_core::{D, DType, Tensor};
use serde::{Deserialize, Serialize};

use super::block::Branch;
use super::{LayerNorm, Linear};
use crate::params::Params;
use crate::{Result, ops};

/// Which of query, key and value have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkvBias {
    /// All three, as one `qkv.bias`.
    #[default]
    Full,
    /// Query and value, as `q_bias` and `v_bias` (BEiT); the key's is always zero.
    QV,
    /// None.
    None,
}

/// Self-attention over packed q, k, v (Vaswani et al., 2017), scaled by `head_dim^-0.5`.
#[derive(Debug, Clone)]
pub struct Attention {
    qkv: Tensor,
    bias: Bias,
    proj: Linear,
    heads: usize,
}

#[derive(Debug, Clone)]
enum Bias {
    Full(Tensor),
    QV(Tensor, Tensor),
    None,
}

impl Attention {
    /// Parameters `qkv.weight`, `qkv.bias` (or `q_bias`, `v_bias`), `proj`.
    ///
    /// Heads are `dim / heads` wide, rounded down: where `heads` does not divide `dim`, queries, keys
    /// and values are together narrower than the tokens (BootMAE's decoder).
    ///
    /// # Errors
    ///
    /// If a name is taken by another shape.
    pub fn new(params: &Params, dim: usize, heads: usize, bias: QkvBias) -> Result<Self> {
        let inner = dim / heads * heads;
        let bias = match bias {
            QkvBias::Full => Bias::Full(params.pp("qkv").weight(&[3 * inner], "bias")?),
            QkvBias::QV => Bias::QV(
                params.weight(&[inner], "q_bias")?,
                params.weight(&[inner], "v_bias")?,
            ),
            QkvBias::None => Bias::None,
        };
        let qkv = params.pp("qkv").weight(&[3 * inner, dim], "weight")?;
        Ok(Self {
            qkv,
            bias,
            proj: Linear::new(&params.pp("proj"), inner, dim)?,
            heads,
        })
    }

    /// Attends over `[rows, tokens, dim]`; `bias` `[n, heads, tokens, tokens]` is added to the logits,
    /// cyclically if `n` divides the rows ([`ops::attention()`]).
    ///
    /// # Errors
    ///
    /// If a shape does not fit.
    pub fn forward(&self, xs: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let qkv = self.qkv(xs)?;
        self.proj
            .forward(&ops::attention(&qkv, self.heads, bias, self.scale()?)?)
    }

    /// Attention of the first `queries` tokens over all tokens, `[rows, heads, queries, tokens]`, for
    /// the same input as [`Attention::forward`].
    ///
    /// # Errors
    ///
    /// If a shape does not fit.
    pub fn weights(&self, xs: &Tensor, bias: Option<&Tensor>, queries: usize) -> Result<Tensor> {
        let (rows, tokens, _) = xs.dims3()?;
        let qkv = self.qkv(xs)?.reshape((rows, tokens, 3, self.heads, ()))?;
        let part = |which: usize| qkv.narrow(2, which, 1)?.squeeze(2)?.transpose(1, 2);
        let query = (part(0)?.narrow(2, 0, queries)?.contiguous()? * self.scale()?)?;
        let mut logits = query.matmul(&part(1)?.transpose(2, 3)?.contiguous()?)?;
        if let Some(bias) = bias {
            logits = logits.broadcast_add(&bias.narrow(2, 0, queries)?)?;
        }
        Ok(ops::softmax(&logits)?)
    }

    /// `xs` and the branch `forward(norm(xs), bias)` as one operation, where there is one: if both linear
    /// layers have biases.
    ///
    /// # Errors
    ///
    /// As [`Attention::forward`].
    pub(super) fn residual(
        &self,
        xs: &Tensor,
        norm: &LayerNorm,
        bias: Option<&Tensor>,
        branch: &Branch<'_>,
    ) -> Result<Option<Tensor>> {
        let (Some(proj), Some(qkv_bias)) = (self.proj.affine(), self.qkv_bias()?) else {
            return Ok(None);
        };
        let qkv = ops::Affine {
            weight: &self.qkv,
            bias: &qkv_bias,
        };
        let half = branch.half(norm, [qkv, proj]);
        let heads = (self.heads, self.scale()?);
        Ok(Some(ops::residual_attention(xs, &half, heads, bias)?))
    }

    fn scale(&self) -> Result<f64> {
        let dim = self.qkv.dim(D::Minus1)?;
        Ok(((dim / self.heads) as f64).powf(-0.5))
    }

    fn qkv(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(ops::linear(xs, &self.qkv, self.qkv_bias()?.as_ref())?)
    }

    fn qkv_bias(&self) -> Result<Option<Tensor>> {
        Ok(match &self.bias {
            Bias::Full(bias) => Some(bias.clone()),
            Bias::QV(q, v) => {
                let zero = Tensor::zeros(q.dims(), DType::F32, q.device())?;
                Some(Tensor::cat(&[q, &zero, v], 0)?)
            }
            Bias::None => None,
        })
    }
}
