//! Half blocks on a GPU.
//!
//! Between the layers, values have the dtype of the products. The backward pass gets the input of the middle and, for
//! attention, its output; it computes the normalised input and GELU's output again.

use candle_core::{DType, Result, Tensor};

use super::op::{BIAS, SCALE};
use super::{HalfBlock, Inner};
use crate::attention::gpu::{Attended, Call, Inputs, WIDEST};
use crate::attention::{check_bias, sizes};
use crate::device_copy::send;
use crate::gelu::gpu::Unit;
use crate::gpu::{self, Buffer, differentiable, rows};
use crate::layer_norm::gpu::{Norm, Normalized, backward_affine};
use crate::linear::gpu::{Weight, compute_type};
use crate::multi_operand::{MultiOperand, request_backward};

/// Weights and biases of a half block, ready for kernels.
struct Layers {
    norm: Norm,
    weights: [Weight; 2],
    biases: [Tensor; 2],
    dtype: DType,
}

/// Values stored for the backward pass; for GELU, the input of the middle lacks the bias.
enum Middle {
    Gelu(Tensor),
    Attention { call: Call, ys: Tensor, lse: Tensor },
}

impl Layers {
    /// From the operands of a half block, all contiguous.
    fn new(tensors: &[Tensor; 8], eps: f32) -> Result<Self> {
        let dtype = compute_type();
        let [nw, nb, w1, b1, w2, b2, ..] = tensors;
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

    /// The output of the middle, from the normalised input.
    fn middle(
        &self,
        normed: &Tensor,
        inner: Inner<'_>,
        shape: &[usize],
    ) -> Result<(Tensor, Middle)> {
        let before = self.weights[0].apply(normed, self.dtype)?;
        let Inner::Attention { heads, scale, bias } = inner else {
            let ys = Unit::Gelu.forward(&before, Some(&self.biases[0]), self.dtype)?;
            return Ok((ys.into_tensor(), Middle::Gelu(before)));
        };
        rows::add_bias(&before, &self.biases[0])?;
        let qkv = before.reshape((shape[0], shape[1], ()))?;
        let call = Call {
            sizes: sizes(qkv.dims(), heads).map_err(candle_core::Error::wrap)?,
            inputs: Inputs::Packed(qkv),
            bias: bias.map(|bias| bias.detach().contiguous()).transpose()?,
            scale: super::narrow(scale),
        };
        let Attended { ys, lse } = call.forward()?;
        let ys = ys.into_tensor();
        Ok((ys.clone(), Middle::Attention { call, ys, lse }))
    }

    /// The output of the middle, and the gradient of its input from that of its output; sets the gradient of the
    /// attention bias in `operands`.
    fn backward_middle(
        &self,
        operands: &MultiOperand<8>,
        middle: &Middle,
        grad: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        match middle {
            Middle::Gelu(before) => {
                let bias = Some(&self.biases[0]);
                let (dx, ys) = Unit::Gelu.backward(before, bias, grad, true)?;
                match ys {
                    Some(ys) => Ok((ys, dx)),
                    None => candle_core::bail!("GELU was not recomputed"),
                }
            }
            Middle::Attention { call, ys, lse } => {
                let wanted = call.bias.is_some() && operands.tensors[BIAS].track_op();
                let (inputs, bias) = call.backward((ys, lse), grad, wanted)?;
                if let Some(bias) = bias {
                    operands.set_grad(BIAS, bias)?;
                }
                match inputs {
                    Inputs::Packed(dx) => Ok((ys.clone(), dx)),
                    Inputs::Apart(..) => {
                        candle_core::bail!("the gradient of packed inputs must be packed")
                    }
                }
            }
        }
    }

    /// The gradient of the input; sets those of the other operands in `operands`.
    fn backward(
        &self,
        operands: &MultiOperand<8>,
        (xs, moments): (&Tensor, &Tensor),
        (middle, factors): (&Middle, &Factors),
        grad: &Tensor,
    ) -> Result<Tensor> {
        let outer = factors.backward(operands, grad)?;
        let narrow = rows::cast(&outer, self.dtype)?;
        let inner = self.weights[1].backward_input(&narrow, self.dtype)?;
        let (inside, inner) = self.backward_middle(operands, middle, &inner)?;
        self.set_grad(operands, 1, &inside, (&narrow, &outer))?;
        drop((inside, narrow, outer));
        let normed = self.norm.forward(xs, self.dtype)?.ys.into_tensor();
        self.set_grad(operands, 0, &normed, (&inner, &inner))?;
        let inner = self.weights[0].backward_input(&inner, self.dtype)?;
        let tracks = |at: usize| operands.tensors[at].track_op();
        if tracks(0) || tracks(1) {
            let [dw, db] = backward_affine((xs, moments), &inner)?;
            for (at, gradient) in [(0, dw), (1, db)] {
                if tracks(at) {
                    operands.set_grad(at, gradient)?;
                }
            }
        }
        self.norm.backward((xs, moments), &inner, Some(grad))
    }

    /// Sets the gradients of a layer's weight and bias; `exact` is `grad` before rounding, where available.
    fn set_grad(
        &self,
        operands: &MultiOperand<8>,
        layer: usize,
        xs: &Tensor,
        (grad, exact): (&Tensor, &Tensor),
    ) -> Result<()> {
        let at = 2 + 2 * layer;
        if operands.tensors[at].track_op() {
            operands.set_grad(at, self.weights[layer].backward_weight(xs, grad)?)?;
        }
        if operands.tensors[at + 1].track_op() {
            let width = self.biases[layer].elem_count();
            operands.set_grad(at + 1, rows::column_sums(exact, width)?)?;
        }
        Ok(())
    }
}

/// The factors on the branch, and the branch itself if its gradient needs it.
struct Factors {
    /// `[dim]`.
    scale: Option<Tensor>,
    /// `[samples, 1, ..]`.
    samples: Option<Tensor>,
    branch: Option<Tensor>,
}

impl Factors {
    fn new(half: &HalfBlock<'_>, xs: &Tensor) -> Result<Self> {
        let mut shape = vec![1; xs.rank()];
        shape[0] = xs.dims()[0];
        let samples = half.samples;
        Ok(Self {
            scale: half.scale.map(Tensor::detach),
            samples: samples
                .map(|samples| send(samples.to_vec(), shape, xs.device()))
                .transpose()?,
            branch: None,
        })
    }

    fn none(&self) -> bool {
        self.scale.is_none() && self.samples.is_none()
    }

    fn of_samples(&self, xs: &Tensor) -> Result<Tensor> {
        match &self.samples {
            Some(samples) => xs.broadcast_mul(samples),
            None => Ok(xs.clone()),
        }
    }

    fn multiply(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = self.of_samples(xs)?;
        match &self.scale {
            Some(scale) => xs.broadcast_mul(scale),
            None => Ok(xs),
        }
    }

    /// The gradient of the branch; sets that of layer scale in `operands`.
    fn backward(&self, operands: &MultiOperand<8>, grad: &Tensor) -> Result<Tensor> {
        if let (Some(scale), Some(branch)) = (&self.scale, &self.branch)
            && operands.tensors[SCALE].track_op()
        {
            let products = (self.of_samples(grad)? * branch)?;
            let sums = rows::column_sums(&products, scale.elem_count())?;
            operands.set_grad(SCALE, sums)?;
        }
        self.multiply(grad)
    }
}

/// Whether the kernels take these operands; `packed` is the output width of the first layer.
pub(super) fn is_supported(
    xs: &Tensor,
    operands: &[&Tensor],
    packed: usize,
    inner: Inner<'_>,
) -> bool {
    let takes = match (inner, xs.dims()) {
        (Inner::Gelu, _) => true,
        (Inner::Attention { heads, bias, .. }, &[batch, tokens, _]) => {
            sizes(&[batch, tokens, packed], heads).is_ok_and(|sizes| {
                sizes.head_dim <= WIDEST && bias.is_none_or(|bias| check_bias(bias, sizes).is_ok())
            })
        }
        _ => false,
    };
    takes && gpu::is_supported(operands)
}

/// See [`super::apply`]; shapes have been checked.
pub(super) fn residual(
    xs: &Tensor,
    half: &HalfBlock<'_>,
    inner: Inner<'_>,
) -> crate::Result<Tensor> {
    let xs = xs.contiguous()?;
    let bias = match inner {
        Inner::Gelu => None,
        Inner::Attention { bias, .. } => bias,
    };
    let (operands, handle) = half.operands(bias)?;
    let layers = Layers::new(&operands.tensors, super::narrow(half.eps))?;
    let mut factors = Factors::new(half, &xs)?;
    let values = xs.detach();
    let Normalized {
        ys: normed,
        moments,
    } = layers.norm.forward(&values, layers.dtype)?;
    let (inside, middle) = layers.middle(&normed.into_tensor(), inner, xs.dims())?;
    let rows = moments.dim(0)?;
    let alone = factors.none().then_some(&values);
    let mut ys = rows::start_rows(&layers.biases[1], alone, rows)?;
    layers.weights[1].add_to(&inside, &mut ys, true)?;
    drop(inside);
    let mut ys = ys.reshaped(xs.shape());
    if !factors.none() {
        let branch = ys.into_tensor();
        ys = Buffer::copy(&(&values + factors.multiply(&branch)?)?)?;
        factors.branch = factors.scale.is_some().then_some(branch);
    }
    let (tracked, links) = (xs.track_op(), request_backward(&handle));
    Ok(differentiable([&xs, &handle], ys, move |_, grad| {
        let dx = layers.backward(&operands, (&values, &moments), (&middle, &factors), grad)?;
        Ok([tracked.then_some(dx), links.clone()])
    })?)
}
