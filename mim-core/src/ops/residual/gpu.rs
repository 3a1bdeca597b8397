//! The halves of a block on a GPU.
//!
//! Between the layers values are of the type of products. Kept are the input of the middle and, for
//! attention, its output; the normalised input and GELU's output are computed again.

use candle_core::{DType, Result, Tensor};

use super::Inner;
use crate::ops::attention::gpu::{Attended, Call, Inputs, WIDEST};
use crate::ops::attention::sizes;
use crate::ops::bundle::Bundle;
use crate::ops::gelu::gpu::Unit;
use crate::ops::gpu::{self, differentiable, rows};
use crate::ops::layer_norm::gpu::{Norm, Normed, backward_affine};
use crate::ops::linear::gpu::{Weight, compute_type};

/// Weights and biases of a half, ready for kernels.
struct Half {
    norm: Norm,
    weights: [Weight; 2],
    biases: [Tensor; 2],
    dtype: DType,
}

/// What the backward pass needs of the forward pass; the input of the middle lacks its bias for GELU.
enum Middle {
    Gelu(Tensor),
    Attention { call: Call, ys: Tensor, lse: Tensor },
}

impl Half {
    /// From weight and bias of norm, first and second layer, all contiguous.
    fn new(tensors: &[Tensor; 6], eps: f32) -> Result<Self> {
        let dtype = compute_type();
        let [nw, nb, w1, b1, w2, b2] = tensors;
        Ok(Self {
            norm: Norm {
                affine: Some([nw.detach(), nb.detach()]),
                eps,
            },
            weights: [Weight::new(w1, dtype)?, Weight::new(w2, dtype)?],
            biases: [b1.detach(), b2.detach()],
            dtype,
        })
    }

    /// The output of the middle from the normalised input.
    fn middle(&self, normed: &Tensor, inner: Inner, shape: &[usize]) -> Result<(Tensor, Middle)> {
        let before = self.weights[0].apply(normed, self.dtype)?;
        let Inner::Attention { heads, scale } = inner else {
            let ys = Unit::Gelu.forward(&before, Some(&self.biases[0]), self.dtype)?;
            return Ok((ys.into_tensor(), Middle::Gelu(before)));
        };
        rows::add_bias(&before, &self.biases[0])?;
        let qkv = before.reshape((shape[0], shape[1], ()))?;
        let call = Call {
            sizes: sizes(qkv.dims(), heads).map_err(candle_core::Error::wrap)?,
            inputs: Inputs::Packed(qkv),
            bias: None,
            scale: super::narrow(scale),
        };
        let Attended { ys, lse } = call.forward()?;
        let ys = ys.into_tensor();
        Ok((ys.clone(), Middle::Attention { call, ys, lse }))
    }

    /// The output of the middle, and the gradient of its input from that of its output.
    fn backward_middle(&self, middle: &Middle, grad: &Tensor) -> Result<(Tensor, Tensor)> {
        match middle {
            Middle::Gelu(before) => {
                let bias = Some(&self.biases[0]);
                let (dx, ys) = Unit::Gelu.backward(before, bias, grad, true)?;
                match ys {
                    Some(ys) => Ok((ys, dx)),
                    None => candle_core::bail!("GELU was not computed again"),
                }
            }
            Middle::Attention { call, ys, lse } => match call.backward((ys, lse), grad, false)?.0 {
                Inputs::Packed(dx) => Ok((ys.clone(), dx)),
                Inputs::Apart(..) => candle_core::bail!("the gradient of packed inputs is packed"),
            },
        }
    }

    /// The gradient of the input; those of the other operands are left in the bundle.
    fn backward(
        &self,
        bundle: &Bundle<6>,
        (xs, moments): (&Tensor, &Tensor),
        middle: &Middle,
        grad: &Tensor,
    ) -> Result<Tensor> {
        let narrow = rows::cast(grad, self.dtype)?;
        let inner = self.weights[1].backward_input(&narrow, self.dtype)?;
        let (inside, inner) = self.backward_middle(middle, &inner)?;
        self.leave(bundle, 1, &inside, (&narrow, grad))?;
        drop((inside, narrow));
        let normed = self.norm.forward(xs, self.dtype)?.ys.into_tensor();
        self.leave(bundle, 0, &normed, (&inner, &inner))?;
        let inner = self.weights[0].backward_input(&inner, self.dtype)?;
        let tracks = |at: usize| bundle.tensors[at].track_op();
        if tracks(0) || tracks(1) {
            let [dw, db] = backward_affine((xs, moments), &inner)?;
            bundle.set(0, tracks(0).then_some(dw));
            bundle.set(1, tracks(1).then_some(db));
        }
        self.norm.backward((xs, moments), &inner, Some(grad))
    }

    /// Leaves the gradients of a layer's weight and bias; `exact` is `grad` as exact as it is known.
    fn leave(
        &self,
        bundle: &Bundle<6>,
        layer: usize,
        xs: &Tensor,
        (grad, exact): (&Tensor, &Tensor),
    ) -> Result<()> {
        let at = 2 + 2 * layer;
        if bundle.tensors[at].track_op() {
            let dw = self.weights[layer].backward_weight(xs, grad)?;
            bundle.set(at, Some(dw));
        }
        if bundle.tensors[at + 1].track_op() {
            let width = self.biases[layer].elem_count();
            bundle.set(at + 1, Some(rows::column_sums(exact, width)?));
        }
        Ok(())
    }
}

/// Whether kernels take these operands.
pub(super) fn serves(xs: &Tensor, operands: &[&Tensor], inner: Inner) -> bool {
    let takes = match (inner, xs.dims()) {
        (Inner::Gelu, _) => true,
        (Inner::Attention { heads, .. }, &[batch, tokens, _]) => {
            let packed = operands[2].dims()[0];
            sizes(&[batch, tokens, packed], heads).is_ok_and(|sizes| sizes.head_dim <= WIDEST)
        }
        _ => false,
    };
    takes && gpu::serves(&[xs]) && gpu::serves(operands)
}

/// See [`super::apply`]; shapes have been checked, and `operands` are weight and bias of norm, first and second
/// layer.
pub(super) fn residual(
    xs: &Tensor,
    operands: &[&Tensor],
    eps: f32,
    inner: Inner,
) -> Result<Tensor> {
    let xs = xs.contiguous()?;
    let operands = operands.iter().map(|t| t.contiguous());
    let operands: Vec<Tensor> = operands.collect::<Result<_>>()?;
    let Ok(operands) = <[Tensor; 6]>::try_from(operands) else {
        candle_core::bail!("a half of a block has six operands");
    };
    let half = Half::new(&operands, eps)?;
    let values = xs.detach();
    let Normed {
        ys: normed,
        moments,
    } = half.norm.forward(&values, half.dtype)?;
    let (inside, middle) = half.middle(&normed.into_tensor(), inner, xs.dims())?;
    let rows = moments.dim(0)?;
    let mut ys = rows::start_rows(&half.biases[1], Some(&values), rows)?;
    half.weights[1].add_to(&inside, &mut ys, true)?;
    drop(inside);
    let ys = ys.reshaped(xs.shape());
    let tracked = xs.track_op();
    if !tracked && !operands.iter().any(Tensor::track_op) {
        return Ok(ys.into_tensor());
    }
    let (bundle, token) = Bundle::new(operands)?;
    differentiable([&xs, &token], ys, move |_, grad| {
        let dx = half.backward(&bundle, (&values, &moments), &middle, grad)?;
        let to_operands = Tensor::zeros(1, DType::F32, grad.device())?;
        Ok([tracked.then_some(dx), Some(to_operands)])
    })
}
