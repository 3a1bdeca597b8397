//! The transformer block that also attends to a context.

use candle_core::Tensor;

use super::block::tokens_from;
use super::{Attention, CrossAttention, LayerNorm, Mlp, QkvBias};
use crate::Result;
use crate::params::Params;

/// What a [`CrossBlock`] is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CrossBlockConfig {
    /// Width of the tokens.
    pub dim: usize,
    /// Width of the context.
    pub context_dim: usize,
    /// Attention heads, each `dim / num_heads` wide, rounded down.
    pub num_heads: usize,
    /// Width of the hidden layer over `dim`.
    pub mlp_ratio: f64,
    /// Epsilon of all norms.
    pub norm_eps: f64,
}

/// `x += attn(norm1(x)); x += c_attn(norm3(x), norm4(context)); x += mlp(norm2(x))`
/// (BootMAE, Dong et al., ECCV 2022, section 3.2).
#[derive(Debug, Clone)]
pub struct CrossBlock {
    norms: [LayerNorm; 4],
    attn: Attention,
    c_attn: CrossAttention,
    mlp: Mlp,
}

impl CrossBlock {
    /// Parameters `norm1`, `attn`, `norm2`, `mlp`, `norm3`, `norm4`, `c_attn`.
    ///
    /// # Errors
    ///
    /// If a name is taken by another shape.
    pub fn new(params: &Params, config: &CrossBlockConfig) -> Result<Self> {
        let CrossBlockConfig {
            dim,
            context_dim,
            num_heads,
            norm_eps,
            ..
        } = *config;
        let norm = |name: &str, dim: usize| LayerNorm::new(&params.pp(name), dim, norm_eps);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a layer's width"
        )]
        let hidden = (dim as f64 * config.mlp_ratio) as usize;
        Ok(Self {
            norms: [
                norm("norm1", dim)?,
                norm("norm2", dim)?,
                norm("norm3", dim)?,
                norm("norm4", context_dim)?,
            ],
            attn: Attention::new(&params.pp("attn"), dim, num_heads, QkvBias::QV)?,
            c_attn: CrossAttention::new(
                &params.pp("c_attn"),
                (dim, context_dim),
                num_heads,
                QkvBias::QV,
            )?,
            mlp: Mlp::new(&params.pp("mlp"), dim, hidden)?,
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

    /// The tokens from number `first` on of what [`CrossBlock::forward`] gives: all are looked at, but only these
    /// look at the context and go through the MLP.
    ///
    /// # Errors
    ///
    /// If a shape does not fit, or there are fewer than `first` tokens.
    pub fn forward_from(&self, xs: &Tensor, first: usize, context: &Tensor) -> Result<Tensor> {
        let [norm1, norm2, norm3, norm4] = &self.norms;
        let xs = (xs + self.attn.forward(&norm1.forward(xs)?, None)?)?;
        let xs = tokens_from(&xs, first)?;
        let (query, context) = (norm3.forward(&xs)?, norm4.forward(context)?);
        let xs = (&xs + self.c_attn.forward(&query, &context)?)?;
        Ok((&xs + self.mlp.forward(&norm2.forward(&xs)?)?)?)
    }

    /// All of `blocks` one after the other: the tokens from number `first` on of the last one's result.
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
