//! Propagates features from coarse points to finer ones.

use candle_core::Tensor;

use crate::encoders::nearest;
use crate::nn::{BatchNorm, Linear};
use crate::params::Params;
use crate::{Result, StepContext, ops};

/// Number of coarse neighbours per point.
const NEIGHBOURS: usize = 3;
/// Added to squared distances before division.
const NEAR: f64 = 1e-8;
/// Epsilon of the batch norms: PyTorch's default.
const EPS: f64 = 1e-5;

/// A linear layer followed by a batch norm.
#[derive(Debug, Clone)]
struct Normed(Linear, BatchNorm);

impl Normed {
    fn new(params: &Params, inputs: usize, dim: usize) -> Result<Self> {
        let map = Linear::new(&params.pp(0), inputs, dim)?;
        Ok(Self(map, BatchNorm::new(&params.pp(1), dim, EPS)?))
    }

    fn forward(&self, xs: &Tensor, step: &StepContext) -> Result<Tensor> {
        self.1.forward(&self.0.forward(xs)?, step)
    }
}

/// Feature propagation (Qi et al., PointNet++, NeurIPS 2017, Sec. 3.4): averages the three nearest coarse points,
/// weighted by inverse squared distance, appends the point's own features, and applies residual layers.
///
/// Each linear layer is followed by a batch norm and GELU, as in PointMLP.
#[derive(Debug, Clone)]
pub struct PointPropagation {
    fuse: Normed,
    residuals: Vec<(Normed, Normed)>,
}

impl PointPropagation {
    /// Parameters `fuse.net`, `extraction.operation.N.{net1,net2}`; `dims` are the widths of own and coarse features.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, (dim, coarse): (usize, usize), residuals: usize) -> Result<Self> {
        let residual = |index: usize| {
            let params = params.pp("extraction").pp("operation").pp(index);
            Ok((
                Normed::new(&params.pp("net1"), dim, dim)?,
                Normed::new(&params.pp("net2"), dim, dim)?,
            ))
        };
        Ok(Self {
            fuse: Normed::new(&params.pp("fuse").pp("net"), dim + coarse, dim)?,
            residuals: (0..residuals).map(residual).collect::<Result<_>>()?,
        })
    }

    /// Maps points `[batch, n, 3]` with features `[batch * n, dim]` and coarse ones `[batch, m, 3]` with
    /// `[batch * m, coarse]` to features `[batch * n, dim]`.
    ///
    /// # Errors
    ///
    /// If a shape does not match, or there are fewer than three coarse points.
    pub fn forward(
        &self,
        (points, own): (&Tensor, &Tensor),
        (coarse, features): (&Tensor, &Tensor),
        step: &StepContext,
    ) -> Result<Tensor> {
        let (distances, ids) = nearest(points, coarse, NEIGHBOURS)?;
        let weights = (distances + NEAR)?.recip()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(1)?)?;
        let (total, _) = weights.dims2()?;
        let found = ops::gather_rows(features, &ids)?.reshape((total, NEIGHBOURS, ()))?;
        let coarse = found.broadcast_mul(&weights.unsqueeze(2)?)?.sum(1)?;
        let joined = Tensor::cat(&[own, &coarse], 1)?;
        let mut xs = ops::gelu(&self.fuse.forward(&joined, step)?)?;
        for (first, second) in &self.residuals {
            let inner = ops::gelu(&first.forward(&xs, step)?)?;
            xs = ops::gelu(&(second.forward(&inner, step)? + xs)?)?;
        }
        Ok(xs)
    }
}
