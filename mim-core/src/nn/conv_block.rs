//! The masked convolution block.

use candle_core::Tensor;

use super::{DepthwiseConv, LayerNorm, Linear, Mlp};
use crate::Result;
use crate::params::Params;

/// `x += conv2(attn(visible * conv1(norm1 x))); x += mlp(norm2 x)` over `[rows, height, width, dim]`.
///
/// `attn` is a 5x5 depth-wise convolution. The others are 1x1, so no information from a hidden position
/// reaches a visible one. ConvMAE (Gao et al., NeurIPS 2022, arXiv 2205.03892), section 3.2.
#[derive(Debug, Clone)]
pub struct ConvBlock {
    norm1: LayerNorm,
    conv1: Linear,
    attn: DepthwiseConv,
    conv2: Linear,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl ConvBlock {
    /// Side of the depth-wise kernel.
    pub const KERNEL: usize = 5;

    /// Parameters `norm1`, `conv1`, `attn`, `conv2`, `norm2`, `mlp`; 1x1 convolutions are stored as matrices.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, dim: usize, hidden: usize, norm_eps: f64) -> Result<Self> {
        Ok(Self {
            norm1: LayerNorm::new(&params.pp("norm1"), dim, norm_eps)?,
            conv1: Linear::new(&params.pp("conv1"), dim, dim)?,
            attn: DepthwiseConv::new(&params.pp("attn"), dim, Self::KERNEL)?,
            conv2: Linear::new(&params.pp("conv2"), dim, dim)?,
            norm2: LayerNorm::new(&params.pp("norm2"), dim, norm_eps)?,
            mlp: Mlp::new(&params.pp("mlp"), dim, hidden)?,
        })
    }

    /// Maps `[rows, height, width, dim]` to the same shape; `visible` `[rows, height, width, 1]` is 1
    /// at visible positions.
    ///
    /// # Errors
    ///
    /// If a shape does not fit.
    pub fn forward(&self, xs: &Tensor, visible: Option<&Tensor>) -> Result<Tensor> {
        let mut branch = self.conv1.forward(&self.norm1.forward(xs)?)?;
        if let Some(visible) = visible {
            branch = branch.broadcast_mul(visible)?;
        }
        let xs = (xs + self.conv2.forward(&self.attn.forward(&branch)?)?)?;
        let branch = self.mlp.forward(&self.norm2.forward(&xs)?)?;
        Ok((xs + branch)?)
    }
}
