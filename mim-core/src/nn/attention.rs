//! Multi-head self-attention.

use candle_core::{D, DType, Tensor};
use serde::{Deserialize, Serialize};

use super::block::Branch;
use super::{Dropout, LayerNorm, Linear};
use crate::params::Params;
use crate::{Result, StepContext, ops};

/// Which of query, key and value have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkvBias {
    /// All three, as one `qkv.bias`.
    #[default]
    Full,
    /// Query and value, as `q_bias` and `v_bias` (BEiT); the key's bias is always zero.
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
    /// Heads are `dim / heads` wide, rounded down. If `heads` does not divide `dim`, queries, keys
    /// and values are narrower than the tokens (BootMAE's decoder).
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
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

    /// [`Attention::forward`] with queries from `xs`, and keys and values from `context`, both `[rows, tokens, dim]`.
    ///
    /// # Errors
    ///
    /// If a shape does not fit.
    pub fn forward_to(
        &self,
        xs: &Tensor,
        context: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (inner, biases) = (self.qkv.dim(0)? / 3, self.qkv_bias()?);
        let part = |xs: &Tensor, first: usize, count: usize| -> Result<Tensor> {
            let rows = |all: &Tensor| all.narrow(0, first * inner, count * inner);
            let biases = biases.as_ref().map(rows).transpose()?;
            Ok(ops::linear(xs, &rows(&self.qkv)?, biases.as_ref())?)
        };
        let qkv = Tensor::cat(&[part(xs, 0, 1)?, part(context, 1, 2)?], D::Minus1)?;
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
        Ok(self.weights_and_values(xs, bias, queries)?.0)
    }

    /// [`Attention::forward`] with dropout on the attention weights.
    ///
    /// # Errors
    ///
    /// If a shape does not fit.
    pub(super) fn forward_dropping(
        &self,
        xs: &Tensor,
        bias: Option<&Tensor>,
        drop: (Dropout, &StepContext),
    ) -> Result<Tensor> {
        let tokens = xs.dim(1)?;
        let (weights, values) = self.weights_and_values(xs, bias, tokens)?;
        let (dropout, step) = drop;
        let seen = dropout.forward(weights, step)?.matmul(&values)?;
        self.proj
            .forward(&seen.transpose(1, 2)?.contiguous()?.flatten_from(2)?)
    }

    /// The attention of the first `queries` tokens, and the values `[rows, heads, tokens, head_dim]`.
    fn weights_and_values(
        &self,
        xs: &Tensor,
        bias: Option<&Tensor>,
        queries: usize,
    ) -> Result<(Tensor, Tensor)> {
        let (rows, tokens, _) = xs.dims3()?;
        let qkv = self.qkv(xs)?.reshape((rows, tokens, 3, self.heads, ()))?;
        let part = |which: usize| qkv.narrow(2, which, 1)?.squeeze(2)?.transpose(1, 2);
        let query = (part(0)?.narrow(2, 0, queries)?.contiguous()? * self.scale()?)?;
        let mut logits = query.matmul(&part(1)?.transpose(2, 3)?.contiguous()?)?;
        if let Some(bias) = bias {
            logits = logits.broadcast_add(&bias.narrow(2, 0, queries)?)?;
        }
        Ok((ops::softmax(&logits)?, part(2)?.contiguous()?))
    }

    /// `xs + forward(norm(xs), bias)` as one operation; `None` unless both linear
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use crate::objectives::testing::noise;

    #[test]
    fn dropout_acts_on_the_weights_only_in_training() {
        let store = ParamStore::cpu(2);
        let attention = Attention::new(&store.root(), 8, 2, QkvBias::QV).unwrap();
        let (xs, bias) = (noise(&[3, 5, 8], 1), noise(&[1, 2, 5, 5], 2));
        let values = |ys: Tensor| ys.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let plain = values(attention.forward(&xs, Some(&bias)).unwrap());
        let step = StepContext::new(0);
        let dropping = |rate: f64| {
            let drop = (Dropout::new(rate, 0), &step);
            values(attention.forward_dropping(&xs, Some(&bias), drop).unwrap())
        };
        let apart = |ys: &[f32]| -> f32 {
            let pairs = plain.iter().zip(ys);
            pairs.fold(0f32, |most, (a, b)| most.max((a - b).abs()))
        };
        assert!(apart(&dropping(0.)) < 1e-6);
        assert!(apart(&dropping(0.5)) > 1e-3);
    }
}
