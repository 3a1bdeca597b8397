//! A half block as a candle op.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use super::cpu;
use crate::attention::{Attention, Bias, Inputs};
use crate::bfloat::Kept;
use crate::cpu_slices::{floats, operand};
use crate::linear::Linear;
use crate::multi_operand::{MultiOperand, request_backward};
use crate::profile::{Pass, Timer, timer};
use crate::{gelu, layer_norm};

/// Values that the forward pass stores for the backward pass.
pub(super) struct Saved {
    /// The input of the middle.
    middle: Kept,
    /// The output of attention, which is slow to compute; GELU's output is computed again.
    attended: Option<Kept>,
    /// The branch before layer scale, if layer scale exists.
    branch: Option<Vec<f32>>,
}

pub(super) struct Residual {
    /// Weight and bias of the norm, of the first and of the second linear layer; layer scale and the attention
    /// bias.
    pub(super) operands: MultiOperand<8>,
    /// Whether there is layer scale.
    pub(super) scaled: bool,
    /// Whether there is an attention bias.
    pub(super) biased: bool,
    pub(super) eps: f32,
    /// Attention in the middle; `None` for GELU.
    pub(super) attention: Option<Attention>,
    /// Factors of the branch, one per sample.
    pub(super) samples: Option<Vec<f32>>,
    /// Whether to store values for a backward pass.
    pub(super) keep: bool,
    /// Stored by the forward pass and taken by the first backward pass; a second one computes it again.
    pub(super) saved: Mutex<Option<Saved>>,
}

/// Positions in `operands`.
const FIRST: usize = 2;
const SECOND: usize = 4;
pub(super) const SCALE: usize = 6;
pub(super) const BIAS: usize = 7;

impl Residual {
    fn timer(&self, pass: Pass, dims: &[usize]) -> Timer {
        let width = dims.last().copied().unwrap_or(1);
        let rows = dims.iter().product::<usize>() / width;
        let weights = [FIRST, SECOND].map(|at| self.operands.tensors[at].elem_count());
        let products = if pass == Pass::Backward { 2. } else { 1. };
        let flop = products * 2. * (rows * (weights[0] + weights[1])) as f64;
        match &self.attention {
            Some(attention) => timer(
                "residual_attention",
                pass,
                dims,
                flop + attention.flop(pass),
            ),
            None => timer("residual_mlp", pass, dims, flop),
        }
    }

    fn scale(&self) -> Option<&Tensor> {
        self.scaled.then(|| &self.operands.tensors[SCALE])
    }

    fn bias(&self) -> Option<&Tensor> {
        self.biased.then(|| &self.operands.tensors[BIAS])
    }

    /// The normalised input and its row statistics.
    fn normed(&self, xs: &[f32]) -> candle_core::Result<(Vec<f32>, Vec<layer_norm::Moments>)> {
        let [weight, bias, ..] = &self.operands.tensors;
        let (weight, bias) = (floats(weight)?, floats(bias)?);
        let affine = Some((&*weight, &*bias));
        Ok(layer_norm::cpu::forward(xs, weight.len(), affine, self.eps))
    }

    /// Attention over the packed input, if attention is the middle.
    fn attended(&self, packed: &[f32]) -> candle_core::Result<Option<Vec<f32>>> {
        let Some(attention) = &self.attention else {
            return Ok(None);
        };
        let inputs = Inputs::Packed(packed);
        let attended = match self.bias() {
            Some(bias) => {
                let values = floats(bias)?;
                let bias = Bias::new(&values, bias.shape())?;
                attention.call(inputs, Some(bias)).forward()?
            }
            None => attention.call(inputs, None).forward()?,
        };
        Ok(Some(attended))
    }

    /// The values for the backward pass, and the output.
    fn run(&self, xs: &[f32], normed: &[f32]) -> candle_core::Result<(Saved, Vec<f32>)> {
        let [_, _, first, first_bias, second, second_bias, ..] = &self.operands.tensors;
        let middle = Linear::values(normed, first, &floats(first_bias)?)?;
        let attended = self.attended(&middle)?;
        let inside = match &attended {
            Some(attended) => Cow::Borrowed(attended),
            None => Cow::Owned(gelu::cpu::forward(&middle)),
        };
        let bias = floats(second_bias)?;
        let (ys, branch) = if self.scale().is_none() && self.samples.is_none() {
            (Linear::values_added(&inside, second, &bias, xs)?, None)
        } else {
            let branch = Linear::values(&inside, second, &bias)?;
            let scale = self.scale().map(floats).transpose()?;
            let ys = cpu::add_branch(xs, &branch, self.factors(scale.as_deref(), xs.len()));
            (ys, scale.is_some().then_some(branch))
        };
        drop(inside);
        let saved = Saved {
            middle: Kept::new(middle),
            attended: attended.map(Kept::new),
            branch,
        };
        Ok((saved, ys))
    }

    fn factors<'a>(&'a self, scale: Option<&'a [f32]>, values: usize) -> cpu::Factors<'a> {
        let samples = self.samples.as_deref();
        cpu::Factors {
            columns: scale,
            samples,
            width: self.operands.tensors[0].elem_count(),
            sample: values / samples.map_or(1, <[f32]>::len).max(1),
        }
    }

    /// The stored values of the forward pass; this takes them out.
    fn saved(&self, xs: &[f32], normed: &[f32]) -> candle_core::Result<Saved> {
        // No code panics while it holds the lock.
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        match saved.take() {
            Some(saved) => Ok(saved),
            None => Ok(self.run(xs, normed)?.0),
        }
    }

    /// The gradient of the branch before its factors; sets that of layer scale.
    fn branch_gradient<'a>(
        &self,
        branch: Option<&[f32]>,
        grad: &'a [f32],
    ) -> candle_core::Result<Cow<'a, [f32]>> {
        let scale = self.scale().map(floats).transpose()?;
        let factors = self.factors(scale.as_deref(), grad.len());
        if let (Some(branch), Some(scale)) = (branch, self.scale())
            && scale.track_op()
        {
            let values = cpu::columns_gradient(grad, branch, factors);
            self.operands.set_grad_values(SCALE, values)?;
        }
        Ok(match factors {
            cpu::Factors {
                columns: None,
                samples: None,
                ..
            } => Cow::Borrowed(grad),
            factors => Cow::Owned(cpu::multiply(grad, factors)),
        })
    }

    /// The gradient of the packed input of attention; sets that of its bias.
    fn attention_gradient(
        &self,
        attention: &Attention,
        packed: &[f32],
        grad: &[f32],
    ) -> candle_core::Result<Vec<f32>> {
        let inputs = Inputs::Packed(packed);
        let Some(bias) = self.bias() else {
            let ([dx, _], _) = attention.call(inputs, None).backward(grad, false)?;
            return Ok(dx);
        };
        let values = floats(bias)?;
        let call = attention.call(inputs, Some(Bias::new(&values, bias.shape())?));
        let ([dx, _], scores) = call.backward(grad, bias.track_op())?;
        if bias.track_op() {
            self.operands
                .set_grad(BIAS, attention.bias_gradient(bias, &scores)?)?;
        }
        Ok(dx)
    }

    /// Sets the gradients of the linear layer whose weight is tensor `at`; returns that of its input `xs`.
    fn linear_gradient(
        &self,
        at: usize,
        xs: &[f32],
        grad: &[f32],
    ) -> candle_core::Result<Vec<f32>> {
        let (weight, bias) = (&self.operands.tensors[at], &self.operands.tensors[at + 1]);
        self.operands
            .set(at, Linear::weight_gradient(weight, xs, grad)?);
        self.operands
            .set(at + 1, Linear::bias_gradient(bias, weight, grad)?);
        Linear::input_gradient(weight, grad)
    }

    /// Sets the gradients of the norm; returns that of its input, plus `grad`.
    fn norm_gradient(
        &self,
        (xs, found): (&[f32], &[layer_norm::Moments]),
        inner: Vec<f32>,
        grad: &[f32],
    ) -> candle_core::Result<Vec<f32>> {
        let [weight, bias, ..] = &self.operands.tensors;
        let scale = floats(weight)?;
        let width = scale.len();
        if weight.track_op() || bias.track_op() {
            let (dw, db) = layer_norm::cpu::backward_affine(xs, found, &inner, width);
            for (at, part, values) in [(0, weight, dw), (1, bias, db)] {
                if part.track_op() {
                    self.operands.set_grad_values(at, values)?;
                }
            }
        }
        Ok(layer_norm::cpu::backward_added(
            (xs, grad),
            found,
            &scale,
            inner,
        ))
    }
}

impl CustomOp2 for Residual {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_l: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let _timer = self.timer(Pass::Forward, xs_l.dims());
        let xs = operand(xs, xs_l)?;
        let (saved, ys) = self.run(xs, &self.normed(xs)?.0)?;
        if self.keep {
            let mut place = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
            *place = Some(saved);
        }
        Ok((CpuStorage::F32(ys), xs_l.shape().clone()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        handle: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let _timer = self.timer(Pass::Backward, xs.dims());
        let grad = grad.contiguous()?;
        let (values, grad) = (floats(xs)?, floats(&grad)?);
        let (normed, found) = self.normed(&values)?;
        let saved = self.saved(&values, &normed)?;
        let mut middle = saved.middle.values();
        let outer = self.branch_gradient(saved.branch.as_deref(), &grad)?;
        drop(saved.branch);
        let inner = match (&self.attention, saved.attended) {
            (Some(attention), Some(attended)) => {
                let attended = attended.values();
                let inner = self.linear_gradient(SECOND, &attended, &outer)?;
                drop((attended, outer));
                self.attention_gradient(attention, &middle, &inner)?
            }
            _ => {
                // The slopes replace the values in place.
                let inside = gelu::cpu::forward_and_slopes(&mut middle);
                let mut inner = self.linear_gradient(SECOND, &inside, &outer)?;
                drop((inside, outer));
                gelu::cpu::multiply(&mut inner, &middle);
                inner
            }
        };
        drop(middle);
        let inner = self.linear_gradient(FIRST, &normed, &inner)?;
        drop(normed);
        let dx = self.norm_gradient((&values, &found), inner, &grad)?;
        let dx = Tensor::from_vec(dx, xs.shape(), xs.device())?;
        Ok((xs.track_op().then_some(dx), request_backward(handle)))
    }
}
