//! The block of PVTv2: attention to pooled tokens, and an MLP with a depth-wise convolution.

use candle_core::Tensor;

use super::PvtV2Config;
use crate::nn::{Conv, CrossAttention, DepthwiseConv, DropPath, LayerNorm, Linear, QkvBias};
use crate::params::Params;
use crate::{PatchGrid, Result, StepContext, ops};

/// `[rows, tokens, dim]` as a map `[rows, height, width, dim]`.
fn map(xs: &Tensor, grid: PatchGrid) -> Result<Tensor> {
    let (rows, _, dim) = xs.dims3()?;
    Ok(xs.reshape((rows, grid.rows, grid.cols, dim))?)
}

/// Attention with keys and values from square groups of tokens, merged by a convolution
/// (PVT: Wang et al., ICCV 2021, Sec. 3.3).
#[derive(Debug, Clone)]
struct Attention {
    attn: CrossAttention,
    reduction: Option<(Conv, LayerNorm)>,
}

impl Attention {
    fn new(params: &Params, config: &PvtV2Config, stage: usize) -> Result<Self> {
        let (dim, heads) = (config.embed_dims[stage], config.num_heads[stage]);
        let (ratio, eps) = (config.sr_ratios[stage], config.conv_norm_eps);
        let bias = match config.qkv_bias {
            true => QkvBias::Full,
            false => QkvBias::None,
        };
        let reduction = || -> Result<(Conv, LayerNorm)> {
            let conv = Conv::patches(&params.pp("sr"), dim, dim, ratio)?;
            Ok((conv, LayerNorm::new(&params.pp("norm"), dim, eps)?))
        };
        Ok(Self {
            attn: CrossAttention::new(params, (dim, dim), heads, bias)?,
            reduction: (ratio > 1).then(reduction).transpose()?,
        })
    }

    fn forward(&self, xs: &Tensor, grid: PatchGrid) -> Result<Tensor> {
        let keys = match &self.reduction {
            Some((conv, norm)) => {
                let joined = conv.forward(&map(xs, grid)?)?;
                norm.forward(&joined.flatten(1, 2)?)?
            }
            None => xs.clone(),
        };
        self.attn.forward(xs, &keys)
    }
}

/// `fc2(gelu(dwconv(fc1(x))))`: the 3x3 convolution replaces position embeddings.
#[derive(Debug, Clone)]
struct Mlp {
    fc1: Linear,
    dwconv: DepthwiseConv,
    fc2: Linear,
}

impl Mlp {
    fn new(params: &Params, dim: usize, hidden: usize) -> Result<Self> {
        Ok(Self {
            fc1: Linear::new(&params.pp("fc1"), dim, hidden)?,
            dwconv: DepthwiseConv::new(&params.pp("dwconv").pp("dwconv"), hidden, 3)?,
            fc2: Linear::new(&params.pp("fc2"), hidden, dim)?,
        })
    }

    fn forward(&self, xs: &Tensor, grid: PatchGrid) -> Result<Tensor> {
        let hidden = self.dwconv.forward(&map(&self.fc1.forward(xs)?, grid)?)?;
        self.fc2.forward(&ops::gelu(&hidden.flatten(1, 2)?)?)
    }
}

/// `x += attn(norm1(x)); x += mlp(norm2(x))` on the tokens of a grid.
#[derive(Debug, Clone)]
pub(super) struct PvtBlock {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
    drop_path: [DropPath; 2],
}

impl PvtBlock {
    /// Block number `index` in the network, in stage `stage`: `norm1`, `attn.{q,kv,proj,sr,norm}`, `norm2`,
    /// `mlp.{fc1,dwconv.dwconv,fc2}`.
    pub(super) fn new(
        params: &Params,
        config: &PvtV2Config,
        stage: usize,
        index: usize,
    ) -> Result<Self> {
        let (dim, eps) = (config.embed_dims[stage], config.norm_eps);
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let rate = config.drop_path(index);
        Ok(Self {
            norm1: LayerNorm::new(&params.pp("norm1"), dim, eps)?,
            attn: Attention::new(&params.pp("attn"), config, stage)?,
            norm2: LayerNorm::new(&params.pp("norm2"), dim, eps)?,
            mlp: Mlp::new(&params.pp("mlp"), dim, config.hidden(stage))?,
            drop_path: [0, 1].map(|branch| DropPath::new(rate, 2 * number + branch)),
        })
    }

    /// Maps `[rows, tokens, dim]` to the same shape, for the tokens of `grid`.
    pub(super) fn forward(
        &self,
        xs: &Tensor,
        grid: PatchGrid,
        step: &StepContext,
    ) -> Result<Tensor> {
        let [attn_path, mlp_path] = &self.drop_path;
        let branch = self.attn.forward(&self.norm1.forward(xs)?, grid)?;
        let xs = (xs + attn_path.forward(branch, step)?)?;
        let branch = self.mlp.forward(&self.norm2.forward(&xs)?, grid)?;
        Ok((&xs + mlp_path.forward(branch, step)?)?)
    }
}
