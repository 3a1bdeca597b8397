//! The transformer block with cross-attention.

use candle_core::Tensor;

use super::block::tokens_from;
use super::{Attention, CrossAttention, LayerNorm, Mlp, QkvBias};
use crate::Result;
use crate::params::Params;

/// Settings of a [`CrossBlock`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CrossBlockConfig {
    /// Width of the tokens.
    pub dim: usize,
    /// Width of the context.
    pub context_dim: usize,
    /// Attention heads, each `dim / num_heads` wide, rounded down.
    pub num_heads: usize,
    /// Width of the hidden layer as a multiple of `dim`.
    pub mlp_ratio: f64,
    /// Epsilon of all norms.
    pub norm_eps: f64,
}

impl CrossBlockConfig {
    fn norm(&self, params: &Params, name: &str) -> Result<LayerNorm> {
        LayerNorm::new(&params.pp(name), self.dim, self.norm_eps)
    }

    fn attention(&self, params: &Params, name: &str, bias: QkvBias) -> Result<Attention> {
        Attention::new(&params.pp(name), self.dim, self.num_heads, bias)
    }

    fn cross(&self, params: &Params, name: &str, bias: QkvBias) -> Result<CrossAttention> {
        let widths = (self.dim, self.context_dim);
        CrossAttention::new(&params.pp(name), widths, self.num_heads, bias)
    }

    fn mlp(&self, params: &Params) -> Result<Mlp> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a layer's width"
        )]
        let hidden = (self.dim as f64 * self.mlp_ratio) as usize;
        Mlp::new(&params.pp("mlp"), self.dim, hidden)
    }
}

/// `x += attn(norm_a(x)); x += cross(norm_q(x), norm_c(context)); x += mlp(norm_m(x))`; the first step and the
/// norm of the context are optional.
///
/// BootMAE (Dong et al., ECCV 2022), section 3.2; CrossMAE (Fu et al., TMLR 2025), section 3.2.
#[derive(Debug, Clone)]
pub struct CrossBlock {
    attn: Option<(LayerNorm, Attention)>,
    query: LayerNorm,
    context: Option<LayerNorm>,
    cross: CrossAttention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl CrossBlock {
    /// The full block, with biases of queries and values (BootMAE). Parameters `norm1`, `attn`, `norm2` and `mlp`,
    /// `norm3` of queries, `norm4` of the context, `c_attn`.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, config: &CrossBlockConfig) -> Result<Self> {
        let norm1 = config.norm(params, "norm1")?;
        let norm2 = config.norm(params, "norm2")?;
        let query = config.norm(params, "norm3")?;
        let norm4 = params.pp("norm4");
        let context = LayerNorm::new(&norm4, config.context_dim, config.norm_eps)?;
        Ok(Self {
            attn: Some((norm1, config.attention(params, "attn", QkvBias::QV)?)),
            query,
            context: Some(context),
            cross: config.cross(params, "c_attn", QkvBias::QV)?,
            norm2,
            mlp: config.mlp(params)?,
        })
    }

    /// A block of queries that attend to a context without a norm of its own, and to each other only with
    /// `self_attention`; all layers have biases (CrossMAE). Parameters `norm0` and `self_attn` with `self_attention`,
    /// `norm1` of queries, `cross_attn`, `norm2`, `mlp`.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn of_queries(
        params: &Params,
        config: &CrossBlockConfig,
        self_attention: bool,
    ) -> Result<Self> {
        let attn = match self_attention {
            true => Some((
                config.norm(params, "norm0")?,
                config.attention(params, "self_attn", QkvBias::Full)?,
            )),
            false => None,
        };
        Ok(Self {
            attn,
            query: config.norm(params, "norm1")?,
            context: None,
            cross: config.cross(params, "cross_attn", QkvBias::Full)?,
            norm2: config.norm(params, "norm2")?,
            mlp: config.mlp(params)?,
        })
    }

    /// Maps `[rows, tokens, dim]` to the same shape; `context` is `[rows, others, context_dim]`.
    ///
    /// # Errors
    ///
    /// If a shape does not fit.
    pub fn forward(&self, xs: &Tensor, context: &Tensor) -> Result<Tensor> {
        self.forward_from(xs, 0, context)
    }

    /// [`CrossBlock::forward`] for the tokens from number `first` on: self-attention uses all tokens, but only these
    /// attend to the context and go through the MLP.
    ///
    /// # Errors
    ///
    /// If a shape does not fit, or there are fewer than `first` tokens.
    pub fn forward_from(&self, xs: &Tensor, first: usize, context: &Tensor) -> Result<Tensor> {
        let xs = match &self.attn {
            Some((norm, attn)) => (xs + attn.forward(&norm.forward(xs)?, None)?)?,
            None => xs.clone(),
        };
        let xs = tokens_from(&xs, first)?;
        let query = self.query.forward(&xs)?;
        let seen = match &self.context {
            Some(norm) => self.cross.forward(&query, &norm.forward(context)?)?,
            None => self.cross.forward(&query, context)?,
        };
        let xs = (&xs + seen)?;
        Ok((&xs + self.mlp.forward(&self.norm2.forward(&xs)?)?)?)
    }

    /// Runs all `blocks` in order on `[rows, tokens, dim]`; returns the tokens from number `first` on,
    /// `[rows, tokens - first, dim]`.
    ///
    /// # Errors
    ///
    /// As [`CrossBlock::forward_from`].
    pub fn run(blocks: &[Self], xs: Tensor, first: usize, context: &Tensor) -> Result<Tensor> {
        let Some((last, blocks)) = blocks.split_last() else {
            return tokens_from(&xs, first);
        };
        let mut xs = xs;
        for block in blocks {
            xs = block.forward(&xs, context)?;
        }
        last.forward_from(&xs, first, context)
    }
}
