//! The pre-norm transformer block.

use candle_core::Tensor;

use super::{Activation, Attention, BlockConfig, DropPath, Dropout, LayerNorm, Mlp, TokenNorm};
use crate::params::Params;
use crate::{Error, Result, StepContext, ops};

/// The tokens of `[rows, tokens, dim]` from number `first` on.
pub(super) fn tokens_from(xs: &Tensor, first: usize) -> Result<Tensor> {
    let tokens = xs.dim(1)?;
    if first > tokens {
        return Err(Error::shape(
            "first token of a block's output",
            format!("at most {tokens}, the number of tokens"),
            first,
            "count from 0",
        ));
    }
    Ok(xs.narrow(1, first, tokens - first)?)
}

/// Layer scale and drop path of a residual branch.
pub(super) struct Branch<'a> {
    /// Layer scale, `[dim]`.
    scale: Option<&'a Tensor>,
    /// Drop-path factors, one per sample.
    samples: Option<Vec<f32>>,
}

impl Branch<'_> {
    /// A half block of these layers.
    pub(super) fn half<'a>(
        &'a self,
        norm: &'a LayerNorm,
        linears: [ops::Affine<'a>; 2],
    ) -> ops::HalfBlock<'a> {
        ops::HalfBlock {
            norm: norm.affine(),
            eps: norm.eps(),
            linears,
            scale: self.scale,
            samples: self.samples.as_deref(),
        }
    }
}

/// `x += g1 * attn(norm1(x)); x += g2 * mlp(norm2(x))` (Dosovitskiy et al., 2021), layer scale `g` optional (CaiT).
#[derive(Debug, Clone)]
pub struct Block {
    norm1: TokenNorm,
    attn: Attention,
    norm2: TokenNorm,
    mlp: Mlp,
    gamma: Option<(Tensor, Tensor)>,
    drop_path: [DropPath; 2],
    attn_drop: Dropout,
    index: u32,
}

impl Block {
    /// Parameters `norm1`, `attn`, `norm2`, `mlp` and, with layer scale, `gamma_1`, `gamma_2`.
    ///
    /// `index` is the block's number in its network.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, config: &BlockConfig, index: u32) -> Result<Self> {
        let BlockConfig {
            dim,
            num_heads,
            qkv_bias,
            norm,
            norm_eps,
            ..
        } = *config;
        let gamma = match config.layer_scale_init {
            Some(init) => Some((
                params.filled(&[dim], "gamma_1", init)?,
                params.filled(&[dim], "gamma_2", init)?,
            )),
            None => None,
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a layer's width"
        )]
        let hidden = (dim as f64 * config.mlp_ratio) as usize;
        Ok(Self {
            norm1: TokenNorm::new(&params.pp("norm1"), norm, dim, norm_eps)?,
            attn: Attention::new(&params.pp("attn"), dim, num_heads, qkv_bias)?,
            norm2: TokenNorm::new(&params.pp("norm2"), norm, dim, norm_eps)?,
            mlp: Mlp::new(&params.pp("mlp"), dim, hidden)?,
            gamma,
            drop_path: [0, 1].map(|branch| DropPath::new(config.drop_path, 2 * index + branch)),
            attn_drop: Dropout::default(),
            index,
        })
    }

    /// Adds dropout on the attention weights; [`Block::forward_with`] ignores it, since its attention is custom.
    #[must_use]
    pub fn attn_drop(mut self, rate: f64) -> Self {
        self.attn_drop = Dropout::new(rate, self.index);
        self
    }

    /// Sets the activation of the MLP.
    #[must_use]
    pub fn activation(mut self, activation: Activation) -> Self {
        self.mlp = self.mlp.activation(activation);
        self
    }

    /// Sets stochastic depth to this rate, drawn for block `index` of the network.
    #[must_use]
    pub fn drop_path(mut self, rate: f64, index: u32) -> Self {
        self.drop_path = [0, 1].map(|branch| DropPath::new(rate, 2 * index + branch));
        self
    }

    /// Maps `[rows, tokens, dim]` to the same shape; `bias` is added to the attention logits.
    ///
    /// # Errors
    ///
    /// If a shape does not fit.
    pub fn forward(
        &self,
        xs: &Tensor,
        bias: Option<&Tensor>,
        step: &StepContext,
    ) -> Result<Tensor> {
        self.forward_from(xs, 0, bias, step)
    }

    /// [`Block::forward`] for the tokens from number `first` on, `[rows, tokens - first, dim]`, at lower
    /// cost: attention uses all tokens, but only these go through the MLP, unless its norm needs all.
    ///
    /// # Errors
    ///
    /// If a shape does not fit, or there are fewer than `first` tokens.
    pub fn forward_from(
        &self,
        xs: &Tensor,
        first: usize,
        bias: Option<&Tensor>,
        step: &StepContext,
    ) -> Result<Tensor> {
        // With batch norms this path would update the running statistics twice.
        let norms = [&self.norm1, &self.norm2];
        if step.recompute && norms.iter().all(|norm| matches!(norm, TokenNorm::Layer(_))) {
            let (block, bias, step) = (self.clone(), bias.cloned(), step.keeping());
            return ops::recompute(xs, move |xs| {
                block.forward_from(xs, first, bias.as_ref(), &step)
            });
        }
        let drops = self.attn_drop.acts(step);
        let whole = match &self.norm1 {
            TokenNorm::Layer(norm) if !drops => {
                let branch = self.branch(0, xs, step)?;
                self.attn.residual(xs, norm, bias, &branch)?
            }
            _ => None,
        };
        let attend = |attn: &Attention, ys: &Tensor| match drops {
            true => attn.forward_dropping(ys, bias, (self.attn_drop, step)),
            false => attn.forward(ys, bias),
        };
        let xs = match whole {
            Some(xs) => xs,
            None => self.attended(xs, step, attend)?,
        };
        match &self.norm2 {
            TokenNorm::Layer(_) => self.fed(&tokens_from(&xs, first)?, step),
            // Batch statistics are over all tokens.
            TokenNorm::Batch(_) => tokens_from(&self.fed(&xs, step)?, first),
        }
    }

    /// Runs all `blocks` in order on `[rows, tokens, dim]`; returns the tokens from number `first` on,
    /// `[rows, tokens - first, dim]`.
    ///
    /// # Errors
    ///
    /// As [`Block::forward_from`].
    pub fn run(blocks: &[Self], xs: Tensor, first: usize, step: &StepContext) -> Result<Tensor> {
        let Some((last, blocks)) = blocks.split_last() else {
            return tokens_from(&xs, first);
        };
        let mut xs = xs;
        for block in blocks {
            xs = block.forward(&xs, None, step)?;
        }
        last.forward_from(&xs, first, None, step)
    }

    /// [`Block::forward`] with custom attention: `attend` maps `norm1(x)` `[rows, tokens, dim]`
    /// to the same shape with this block's attention layer, for instance within windows.
    ///
    /// # Errors
    ///
    /// If a shape does not fit, and what `attend` returns.
    pub fn forward_with(
        &self,
        xs: &Tensor,
        step: &StepContext,
        attend: impl FnOnce(&Attention, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        self.fed(&self.attended(xs, step, attend)?, step)
    }

    /// `x += attn(norm1(x), norm1(context)); x += mlp(norm2(x))`: [`Block::forward`] with keys and values from a
    /// `context` as long as `xs` (the query stream of SAIM). Attention dropout does not apply here.
    ///
    /// # Errors
    ///
    /// If a shape does not fit.
    pub fn forward_to(
        &self,
        xs: &Tensor,
        context: &Tensor,
        bias: Option<&Tensor>,
        step: &StepContext,
    ) -> Result<Tensor> {
        if step.recompute {
            let (block, bias, step) = (self.clone(), bias.cloned(), step.keeping());
            let both = Tensor::cat(&[xs, context], 1)?;
            return ops::recompute(&both, move |both| {
                let tokens = both.dim(1)? / 2;
                let half = |first: usize| both.narrow(1, first, tokens)?.contiguous();
                block.forward_to(&half(0)?, &half(tokens)?, bias.as_ref(), &step)
            });
        }
        let context = self.norm1.forward(context, step)?;
        self.forward_with(xs, step, |attn, xs| attn.forward_to(xs, &context, bias))
    }

    /// Layer scale and drop path of the first or second half in this step.
    fn branch(&self, half: usize, xs: &Tensor, step: &StepContext) -> Result<Branch<'_>> {
        let scales = self.gamma.as_ref().map(|(first, second)| [first, second]);
        Ok(Branch {
            scale: scales.map(|scales| scales[half]),
            samples: self.drop_path[half].factors(xs.dim(0)?, step),
        })
    }

    /// The first half, with attention by `attend`.
    fn attended(
        &self,
        xs: &Tensor,
        step: &StepContext,
        attend: impl FnOnce(&Attention, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let branch = attend(&self.attn, &self.norm1.forward(xs, step)?)?;
        let branch = self.scaled(branch, |(first, _)| first)?;
        Ok((xs + self.drop_path[0].forward(branch, step)?)?)
    }

    /// The second half.
    fn fed(&self, xs: &Tensor, step: &StepContext) -> Result<Tensor> {
        if let TokenNorm::Layer(norm) = &self.norm2
            && let Some(xs) = self.mlp.residual(xs, norm, &self.branch(1, xs, step)?)?
        {
            return Ok(xs);
        }
        let branch = self.mlp.forward(&self.norm2.forward(xs, step)?)?;
        let branch = self.scaled(branch, |(_, second)| second)?;
        Ok((xs + self.drop_path[1].forward(branch, step)?)?)
    }

    /// Attention weights of the first `queries` tokens, `[rows, heads, queries, tokens]`, for
    /// the input of this block.
    ///
    /// # Errors
    ///
    /// If a shape does not fit.
    pub fn attention_weights(
        &self,
        xs: &Tensor,
        bias: Option<&Tensor>,
        queries: usize,
        step: &StepContext,
    ) -> Result<Tensor> {
        self.attn
            .weights(&self.norm1.forward(xs, step)?, bias, queries)
    }

    fn scaled(
        &self,
        branch: Tensor,
        pick: impl Fn(&(Tensor, Tensor)) -> &Tensor,
    ) -> Result<Tensor> {
        match &self.gamma {
            Some(gamma) => Ok(branch.broadcast_mul(pick(gamma))?),
            None => Ok(branch),
        }
    }
}
