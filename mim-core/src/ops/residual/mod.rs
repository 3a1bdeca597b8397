//! The two halves of a pre-norm transformer block, each as one operation:
//! `x + W2 f(W1 LN(x) + b1) + b2`, where `f` is GELU or attention.
//!
//! As one operation they keep only what stands before `f` (and what attention gave) for the backward pass and
//! let go of it there, where a chain of operations keeps every value in between until the step ends. And no
//! gradient of a value in between passes through candle's store.

mod gpu;
mod reference;

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::attention::{Attention, Inputs};
use super::blocks::rows_per_task;
use super::bundle::Bundle;
use super::host::{floats, is_f32_on_cpu, operand};
use super::linear::Linear;
use super::profile::{Pass, Timer, timer};
use super::{gelu, layer_norm};
use crate::Result;

/// Weight and bias of a norm or of a linear layer.
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a> {
    /// `[dim]` of a norm, `[outputs, inputs]` of a linear layer.
    pub weight: &'a Tensor,
    /// `[dim]` or `[outputs]`.
    pub bias: &'a Tensor,
}

/// `xs + fc2(gelu(fc1(norm(xs))))`: the feed-forward half of a block.
///
/// `xs` is `[..., dim]`, `norm` a layer norm with `eps`, `maps` are fc1 and fc2.
///
/// # Errors
///
/// [`Error::Shape`](crate::Error::Shape) if the shapes do not fit together.
pub fn residual_mlp(
    xs: &Tensor,
    norm: Affine<'_>,
    eps: f64,
    maps: [Affine<'_>; 2],
) -> Result<Tensor> {
    apply(xs, norm, eps, maps, &Inner::Gelu)
}

/// `xs + proj(attention(qkv(norm(xs))))`: the attention half of a block.
///
/// `xs` is `[batch, tokens, dim]`, `norm` a layer norm with `eps`, `maps` are qkv, packed as
/// [`attention()`](super::attention()) takes it, and proj; `scale` multiplies the scores.
///
/// # Errors
///
/// [`Error::Shape`](crate::Error::Shape) if the shapes do not fit together.
pub fn residual_attention(
    xs: &Tensor,
    norm: Affine<'_>,
    eps: f64,
    maps: [Affine<'_>; 2],
    (heads, scale): (usize, f64),
) -> Result<Tensor> {
    apply(xs, norm, eps, maps, &Inner::Attention { heads, scale })
}

/// What stands between the two linear layers.
#[derive(Debug, Clone, Copy)]
enum Inner {
    Gelu,
    Attention { heads: usize, scale: f64 },
}

impl Inner {
    /// Values of its input for each of its output.
    fn parts(self) -> usize {
        match self {
            Self::Gelu => 1,
            Self::Attention { .. } => 3,
        }
    }
}

fn apply(
    xs: &Tensor,
    norm: Affine<'_>,
    eps: f64,
    maps: [Affine<'_>; 2],
    inner: &Inner,
) -> Result<Tensor> {
    let operands = [norm, maps[0], maps[1]].map(|part| [part.weight, part.bias]);
    let operands = operands.as_flattened();
    let width = xs.dims().last().copied().unwrap_or(0);
    let fits = match (maps[0].weight.dims(), maps[1].weight.dims()) {
        (&[middle, inputs], &[outputs, inside]) => {
            inputs == width
                && outputs == width
                && width > 0
                && middle == inner.parts() * inside
                && inside > 0
                && norm.weight.dims() == [width]
                && norm.bias.dims() == [width]
                && maps[0].bias.dims() == [middle]
                && maps[1].bias.dims() == [width]
        }
        _ => false,
    };
    if fits && gpu::serves(xs, operands, *inner) {
        return Ok(gpu::residual(xs, operands, narrow(eps), *inner)?);
    }
    if !fits || !is_f32_on_cpu(&[xs]) || !is_f32_on_cpu(operands) {
        return reference::residual(xs, norm, eps, maps, *inner);
    }
    let attention = match *inner {
        Inner::Gelu => None,
        Inner::Attention { heads, scale } => {
            let (batch, tokens, _) = xs.dims3()?;
            let packed = maps[0].weight.dims()[0];
            Some(Attention::of([batch, tokens, packed], heads, scale)?)
        }
    };
    let keep = xs.track_op() || operands.iter().any(|t| t.track_op());
    let [nw, nb, w1, b1, w2, b2] = [0, 1, 2, 3, 4, 5].map(|i| operands[i].contiguous());
    let (bundle, token) = Bundle::new([nw?, nb?, w1?, b1?, w2?, b2?])?;
    let op = Residual {
        bundle,
        eps: narrow(eps),
        attention,
        keep,
        saved: Mutex::new(None),
    };
    Ok(xs.contiguous()?.apply_op2(&token, op)?)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernels compute in f32"
)]
fn narrow(x: f64) -> f32 {
    x as f32
}

/// The input of the middle, and its output if that takes long to compute.
type Saved = (Vec<f32>, Option<Vec<f32>>);

struct Residual {
    /// Weight and bias of the norm, of the first and of the second linear layer.
    bundle: Bundle<6>,
    eps: f32,
    /// The middle; GELU without it.
    attention: Option<Attention>,
    keep: bool,
    /// From the forward to the first backward pass; a second one computes it again.
    saved: Mutex<Option<Saved>>,
}

impl Residual {
    fn timer(&self, pass: Pass, dims: &[usize]) -> Timer {
        let width = dims.last().copied().unwrap_or(1);
        let rows = dims.iter().product::<usize>() / width;
        let weights = self.bundle.tensors[2].elem_count() + self.bundle.tensors[4].elem_count();
        let products = if pass == Pass::Backward { 2. } else { 1. };
        let flop = products * 2. * (rows * weights) as f64;
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

    /// The normalised input, and what its backward pass needs.
    fn normed(&self, xs: &[f32]) -> candle_core::Result<(Vec<f32>, Vec<layer_norm::Moments>)> {
        let [weight, bias, ..] = &self.bundle.tensors;
        let (weight, bias) = (floats(weight)?, floats(bias)?);
        let affine = Some((&*weight, &*bias));
        Ok(layer_norm::cpu::forward(xs, weight.len(), affine, self.eps))
    }

    /// Input and output of the middle.
    fn middle(&self, normed: &[f32]) -> candle_core::Result<(Vec<f32>, Vec<f32>)> {
        let [_, _, weight, bias, ..] = &self.bundle.tensors;
        let middle = Linear::values(normed, weight, &floats(bias)?)?;
        let inside = self.inside(&middle)?;
        Ok((middle, inside))
    }

    fn inside(&self, middle: &[f32]) -> candle_core::Result<Vec<f32>> {
        match &self.attention {
            Some(attention) => attention.call(Inputs::Packed(middle), None).forward(),
            None => Ok(gelu::cpu::forward(middle)),
        }
    }

    /// What [`Residual::middle`] gave in the forward pass; it is let go of here.
    fn saved(&self, normed: &[f32]) -> candle_core::Result<(Vec<f32>, Vec<f32>)> {
        // Nothing that holds the lock can panic.
        let saved = self
            .saved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match saved {
            Some((middle, Some(inside))) => Ok((middle, inside)),
            Some((middle, None)) => {
                let inside = self.inside(&middle)?;
                Ok((middle, inside))
            }
            None => self.middle(normed),
        }
    }

    /// Leaves the gradients of the linear layer whose weight is tensor `at`; gives that of its input `xs`.
    fn backward_linear(
        &self,
        at: usize,
        xs: &[f32],
        grad: &[f32],
    ) -> candle_core::Result<Vec<f32>> {
        let (weight, bias) = (&self.bundle.tensors[at], &self.bundle.tensors[at + 1]);
        self.bundle
            .set(at, Linear::weight_gradient(weight, xs, grad)?);
        self.bundle
            .set(at + 1, Linear::bias_gradient(bias, weight, grad)?);
        Linear::input_gradient(weight, grad)
    }

    /// Leaves the gradients of the norm; gives that of its input, with `grad` added.
    fn backward_norm(
        &self,
        (xs, found): (&[f32], &[layer_norm::Moments]),
        inner: &[f32],
        grad: &[f32],
    ) -> candle_core::Result<Vec<f32>> {
        let [weight, bias, ..] = &self.bundle.tensors;
        let scale = floats(weight)?;
        let width = scale.len();
        if weight.track_op() || bias.track_op() {
            let (dw, db) = layer_norm::cpu::backward_affine(xs, found, inner, width);
            for (at, part, values) in [(0, weight, dw), (1, bias, db)] {
                let gradient = Tensor::from_vec(values, width, part.device())?;
                self.bundle.set(at, part.track_op().then_some(gradient));
            }
        }
        let mut dx = layer_norm::cpu::backward(xs, found, Some(&scale), inner, width);
        let rows = rows_per_task(width) * width;
        dx.par_chunks_mut(rows)
            .zip(grad.par_chunks(rows))
            .for_each(|(dx, grad)| {
                dx.iter_mut().zip(grad).for_each(|(dx, grad)| *dx += grad);
            });
        Ok(dx)
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
        let (middle, inside) = self.middle(&self.normed(xs)?.0)?;
        let [.., weight, bias] = &self.bundle.tensors;
        let ys = Linear::values_added(&inside, weight, &floats(bias)?, xs)?;
        if self.keep {
            let inside = self.attention.is_some().then_some(inside);
            let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
            *saved = Some((middle, inside));
        }
        Ok((CpuStorage::F32(ys), xs_l.shape().clone()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        token: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let _timer = self.timer(Pass::Backward, xs.dims());
        let grad = grad.contiguous()?;
        let (values, grad) = (floats(xs)?, floats(&grad)?);
        let (normed, found) = self.normed(&values)?;
        let (middle, inside) = self.saved(&normed)?;
        let inner = self.backward_linear(4, &inside, &grad)?;
        drop(inside);
        let inner = match &self.attention {
            Some(attention) => {
                let call = attention.call(Inputs::Packed(&middle), None);
                let ([inner, _], _) = call.backward(&inner, false)?;
                inner
            }
            None => gelu::cpu::backward(&middle, &inner),
        };
        drop(middle);
        let inner = self.backward_linear(2, &normed, &inner)?;
        let dx = self.backward_norm((&values, &found), &inner, &grad)?;
        let dx = Tensor::from_vec(dx, xs.shape(), xs.device())?;
        Ok((
            xs.track_op().then_some(dx),
            token.track_op().then(|| token.zeros_like()).transpose()?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(any(feature = "cuda", feature = "gpu-emulation"))]
    use crate::ops::testing::check_on_gpus;
    use crate::ops::testing::{check, check_repeats, random};
    use crate::ops::{Precision, with_precision};
    use candle_core::{DType, Var};

    /// Operands for inputs of this shape: input, norm, first and second linear layer.
    fn operands(shape: &[usize], middle: usize, inside: usize) -> Vec<Tensor> {
        let width = shape[shape.len() - 1];
        let small = |seed: u64, shape: &[usize]| (random(seed, shape) * 0.3).unwrap();
        vec![
            random(1, shape),
            random(2, &[width]),
            random(3, &[width]),
            small(4, &[middle, width]),
            small(5, &[middle]),
            small(6, &[width, inside]),
            small(7, &[width]),
        ]
    }

    fn parts(t: &[Tensor]) -> (Affine<'_>, [Affine<'_>; 2]) {
        let part = |at: usize| Affine {
            weight: &t[at],
            bias: &t[at + 1],
        };
        (part(1), [part(3), part(5)])
    }

    fn mlp(t: &[Tensor]) -> Result<Tensor> {
        let (norm, maps) = parts(t);
        residual_mlp(&t[0], norm, 1e-6, maps)
    }

    fn attention(t: &[Tensor], heads: usize) -> Result<Tensor> {
        let (norm, maps) = parts(t);
        residual_attention(&t[0], norm, 1e-6, maps, (heads, 0.4))
    }

    fn plain(t: &[Tensor], inner: Inner) -> Result<Tensor> {
        let (norm, maps) = parts(t);
        reference::residual(&t[0], norm, 1e-6, maps, inner)
    }

    #[test]
    fn follows_the_reference() {
        for (shape, hidden) in [
            (&[3][..], 1),
            (&[2, 5, 12], 33),
            (&[1, 1, 20], 7),
            (&[9, 6], 24),
        ] {
            let inputs = operands(shape, hidden, hidden);
            check(&inputs, 2e-5, mlp, |t| plain(t, Inner::Gelu));
        }
        for (batch, tokens, width, heads, head_dim) in
            [(1, 1, 3, 1, 2), (2, 7, 12, 3, 4), (3, 18, 10, 2, 5)]
        {
            let inside = heads * head_dim;
            let inputs = operands(&[batch, tokens, width], 3 * inside, inside);
            let inner = Inner::Attention { heads, scale: 0.4 };
            check(&inputs, 2e-5, |t| attention(t, heads), |t| plain(t, inner));
        }
    }

    #[cfg(any(feature = "cuda", feature = "gpu-emulation"))]
    #[test]
    fn on_gpus_it_follows_the_reference_in_both_precisions() {
        let both = |inputs: &[Tensor], op: &dyn Fn(&[Tensor]) -> Result<Tensor>, inner| {
            check_on_gpus(inputs, 2e-5, op, |t| plain(t, inner));
            let half = |t: &[Tensor]| with_precision(Precision::Bf16, || op(t));
            check_on_gpus(inputs, 0.04, half, |t| plain(t, inner));
        };
        for (shape, hidden) in [(&[3][..], 1), (&[2, 5, 12], 33), (&[70, 8], 24)] {
            let inputs = operands(shape, hidden, hidden);
            both(&inputs, &mlp, Inner::Gelu);
        }
        for (batch, tokens, width, heads, head_dim) in
            [(1, 1, 3, 1, 2), (2, 7, 12, 3, 4), (3, 18, 10, 2, 5)]
        {
            let inside = heads * head_dim;
            let inputs = operands(&[batch, tokens, width], 3 * inside, inside);
            let inner = Inner::Attention { heads, scale: 0.4 };
            both(&inputs, &|t| attention(t, heads), inner);
        }
    }

    #[test]
    fn backward_can_run_twice_and_gives_the_same() {
        let vars: Vec<Var> = operands(&[2, 5, 8], 24, 8)
            .iter()
            .map(|t| Var::from_tensor(t).unwrap())
            .collect();
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let loss = attention(&tensors, 2)
            .unwrap()
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap();
        let gradients = || -> Vec<Vec<f32>> {
            let grads = loss.backward().unwrap();
            let values = |v: &Var| {
                grads
                    .get(v)
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .to_vec1()
                    .unwrap()
            };
            vars.iter().map(values).collect()
        };
        assert_eq!(gradients(), gradients());
    }

    #[test]
    fn only_what_tracks_gets_a_gradient() {
        let inputs = operands(&[2, 5, 8], 16, 16);
        for trained in 0..inputs.len() {
            let var = Var::from_tensor(&inputs[trained]).unwrap();
            let mut inputs = inputs.clone();
            inputs[trained] = var.as_tensor().clone();
            let grads = mlp(&inputs).unwrap().sum_all().unwrap().backward().unwrap();
            assert!(grads.get(&var).is_some(), "operand {trained}");
            for (other, input) in inputs.iter().enumerate() {
                assert!(
                    other == trained || grads.get(input).is_none(),
                    "operand {other}"
                );
            }
        }
    }

    #[test]
    fn bf16_products_are_near_those_in_f32() {
        let inputs = operands(&[2, 9, 32], 96, 32);
        let exact = attention(&inputs, 4).unwrap();
        let near = with_precision(Precision::Bf16, || attention(&inputs, 4)).unwrap();
        let error = (exact - near).unwrap().abs().unwrap().max_all().unwrap();
        let error = error
            .to_dtype(DType::F64)
            .unwrap()
            .to_scalar::<f64>()
            .unwrap();
        assert!((1e-4..0.2).contains(&error), "{error}");
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let inputs = operands(&[2, 5, 8], 24, 8);
        assert!(attention(&inputs, 3).is_err() && attention(&inputs, 0).is_err());
        for (at, shape) in [
            (1, &[7][..]),
            (3, &[24, 7]),
            (4, &[23]),
            (5, &[7, 8]),
            (6, &[9]),
        ] {
            let mut wrong = inputs.clone();
            wrong[at] = random(1, shape);
            assert!(attention(&wrong, 2).is_err(), "operand {at}");
        }
    }

    #[test]
    fn repeats_bit_for_bit() {
        check_repeats(&operands(&[2, 40, 96], 288, 96), |t| attention(t, 3));
        check_repeats(&operands(&[2, 40, 96], 384, 384), mlp);
    }
}
