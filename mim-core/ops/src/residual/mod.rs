//! The two halves of a pre-norm transformer block, each as one operation:
//! `x + d g (W2 f(W1 LN(x) + b1) + b2)`, where `f` is GELU or attention, `g` layer scale and `d` drop path.
//!
//! A fused half block stores only the input of `f` (and the output of attention) for the backward pass, and frees it
//! there. A chain of operations would store every intermediate value until the step ends. Also, no
//! gradient of an intermediate value passes through candle's store.

mod cpu;
mod gpu;
mod op;
mod reference;

use std::sync::Mutex;

use candle_core::Tensor;

use self::op::Residual;
use super::attention::Attention;
use super::cpu_slices::is_f32_on_cpu;
use super::multi_operand::MultiOperand;
use crate::{Error, Result};

/// Weight and bias of a norm or of a linear layer.
#[derive(Debug, Clone, Copy)]
pub struct Affine<'a> {
    /// `[dim]` of a norm, `[outputs, inputs]` of a linear layer.
    pub weight: &'a Tensor,
    /// `[dim]` or `[outputs]`.
    pub bias: &'a Tensor,
}

/// The layers of a half block, except the function in the middle.
#[derive(Debug, Clone, Copy)]
pub struct HalfBlock<'a> {
    /// The layer norm at the input.
    pub norm: Affine<'a>,
    /// Its epsilon.
    pub eps: f64,
    /// The linear layers before and after the middle.
    pub linears: [Affine<'a>; 2],
    /// Layer scale `[dim]`: factors for the columns of the branch (Touvron et al., "Going deeper with Image
    /// Transformers", ICCV 2021).
    pub scale: Option<&'a Tensor>,
    /// Factors of the branch, one per sample of the first axis: with drop path, 0 or more than 1.
    pub samples: Option<&'a [f32]>,
}

/// `xs + fc2(gelu(fc1(norm(xs))))`: the feed-forward half of a block.
///
/// `xs` is `[..., dim]`; the `linears` of `half` are fc1 and fc2.
///
/// # Errors
///
/// [`Error::Shape`] if the shapes do not match.
pub fn residual_mlp(xs: &Tensor, half: &HalfBlock<'_>) -> Result<Tensor> {
    apply(xs, half, Inner::Gelu)
}

/// `xs + proj(attention(qkv(norm(xs))))`: the attention half of a block.
///
/// `xs` is `[batch, tokens, dim]`; the `linears` of `half` are qkv, packed as in
/// [`attention()`](super::attention()), and proj. `scale` multiplies the scores and `bias` is added
/// to them, as in `attention`.
///
/// # Errors
///
/// [`Error::Shape`] if the shapes do not match.
pub fn residual_attention(
    xs: &Tensor,
    half: &HalfBlock<'_>,
    (heads, scale): (usize, f64),
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let inner = Inner::Attention { heads, scale, bias };
    apply(xs, half, inner)
}

/// The function between the two linear layers.
#[derive(Debug, Clone, Copy)]
enum Inner<'a> {
    Gelu,
    Attention {
        heads: usize,
        scale: f64,
        bias: Option<&'a Tensor>,
    },
}

impl Inner<'_> {
    /// Width of its input relative to its output.
    fn parts(self) -> usize {
        match self {
            Self::Gelu => 1,
            Self::Attention { .. } => 3,
        }
    }
}

impl HalfBlock<'_> {
    /// Whether all shapes match this token width.
    fn fits(&self, width: usize, parts: usize) -> bool {
        let [first, second] = self.linears;
        let (&[middle, inputs], &[outputs, inside]) = (first.weight.dims(), second.weight.dims())
        else {
            return false;
        };
        let rows = [
            (Some(self.norm.weight), width),
            (Some(self.norm.bias), width),
            (Some(first.bias), middle),
            (Some(second.bias), width),
            (self.scale, width),
        ];
        (inputs, outputs, middle) == (width, width, parts * inside)
            && width > 0
            && inside > 0
            && rows
                .iter()
                .all(|(row, len)| row.is_none_or(|row| row.dims() == [*len]))
    }

    /// Weight and bias of the norm, of the first and of the second layer, layer scale, and the attention bias,
    /// all contiguous; absent ones are placeholders without a gradient.
    fn operands(&self, bias: Option<&Tensor>) -> Result<(MultiOperand<8>, Tensor)> {
        let none = self.norm.bias.detach();
        let [norm, first, second] =
            [self.norm, self.linears[0], self.linears[1]].map(|part| [part.weight, part.bias]);
        let optional = [self.scale, bias].map(|tensor| tensor.unwrap_or(&none));
        let [[nw, nb], [w1, b1], [w2, b2], [scale, bias]] =
            [norm, first, second, optional].map(|pair| pair.map(Tensor::contiguous));
        Ok(MultiOperand::new([
            nw?, nb?, w1?, b1?, w2?, b2?, scale?, bias?,
        ])?)
    }

    fn check_samples(&self, xs: &Tensor) -> Result<()> {
        match self.samples {
            Some(samples) if xs.dims().first() != Some(&samples.len()) => Err(Error::shape(
                "factors of a residual branch",
                format!("one for each of the samples of {:?}", xs.dims()),
                samples.len(),
                "draw one factor for each index of the first axis",
            )),
            _ => Ok(()),
        }
    }
}

fn apply(xs: &Tensor, half: &HalfBlock<'_>, inner: Inner<'_>) -> Result<Tensor> {
    half.check_samples(xs)?;
    let width = xs.dims().last().copied().unwrap_or(0);
    let [first, second] = half.linears;
    let bias = match inner {
        Inner::Gelu => None,
        Inner::Attention { bias, .. } => bias,
    };
    let always = [half.norm, first, second].map(|part| [part.weight, part.bias]);
    let all = [
        always.as_flattened(),
        half.scale.as_slice(),
        bias.as_slice(),
        &[xs],
    ]
    .concat();
    let fits = half.fits(width, inner.parts());
    if fits && gpu::is_supported(xs, &all, first.weight.dims()[0], inner) {
        return gpu::residual(xs, half, inner);
    }
    if !fits || !is_f32_on_cpu(&all) {
        return reference::residual(xs, half, inner);
    }
    let attention = match inner {
        Inner::Gelu => None,
        Inner::Attention { heads, scale, .. } => {
            let (batch, tokens, _) = xs.dims3()?;
            let shape = [batch, tokens, first.weight.dims()[0]];
            Some(Attention::of(shape, (heads, scale), bias)?)
        }
    };
    let (operands, handle) = half.operands(bias)?;
    let op = Residual {
        operands,
        scaled: half.scale.is_some(),
        biased: bias.is_some(),
        eps: narrow(half.eps),
        attention,
        samples: half.samples.map(<[f32]>::to_vec),
        keep: all.iter().any(|t| t.track_op()),
        saved: Mutex::new(None),
    };
    Ok(xs.contiguous()?.apply_op2(&handle, op)?)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernels compute in f32"
)]
fn narrow(x: f64) -> f32 {
    x as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(feature = "cuda")]
    use crate::testing::check_on_gpu;
    use crate::testing::{check, check_repeats, random};
    use crate::{Precision, with_precision};
    use candle_core::{DType, Var};

    /// Operands for an input of this shape: input, norm, first and second linear layer.
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

    /// The operands after those of [`operands`] are layer scale and the attention bias.
    fn half<'a>(t: &'a [Tensor], samples: Option<&'a [f32]>) -> HalfBlock<'a> {
        let part = |at: usize| Affine {
            weight: &t[at],
            bias: &t[at + 1],
        };
        HalfBlock {
            norm: part(1),
            eps: 1e-6,
            linears: [part(3), part(5)],
            scale: t.get(7),
            samples,
        }
    }

    fn mlp(t: &[Tensor]) -> Result<Tensor> {
        residual_mlp(&t[0], &half(t, None))
    }

    fn attention(t: &[Tensor], heads: usize) -> Result<Tensor> {
        residual_attention(&t[0], &half(t, None), (heads, 0.4), t.get(8))
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
            let plain = |t: &[Tensor]| reference::residual(&t[0], &half(t, None), Inner::Gelu);
            check(&inputs, 2e-5, mlp, plain);
        }
        for (batch, tokens, width, heads, head_dim) in
            [(1, 1, 3, 1, 2), (2, 7, 12, 3, 4), (3, 18, 10, 2, 5)]
        {
            let inside = heads * head_dim;
            let inputs = operands(&[batch, tokens, width], 3 * inside, inside);
            let (scale, bias) = (0.4, None);
            let inner = Inner::Attention { heads, scale, bias };
            let plain = |t: &[Tensor]| reference::residual(&t[0], &half(t, None), inner);
            check(&inputs, 2e-5, |t| attention(t, heads), plain);
        }
    }

    #[test]
    fn layer_scale_drop_path_and_bias_follow_the_reference() {
        let samples = [0., 1.25, 1.25];
        for (tokens, width, heads, images) in [(1, 4, 1, 1), (7, 12, 3, 1), (18, 10, 2, 3)] {
            let shape = [3, tokens, width];
            let mut inputs = operands(&shape, 2 * width, 2 * width);
            inputs.push(random(8, &[width]));
            for samples in [None, Some(&samples[..])] {
                check(
                    &inputs,
                    2e-5,
                    |t| residual_mlp(&t[0], &half(t, samples)),
                    |t| reference::residual(&t[0], &half(t, samples), Inner::Gelu),
                );
            }
            let mut inputs = operands(&shape, 3 * width, width);
            inputs.push(random(8, &[width]));
            inputs.push(random(9, &[images, heads, tokens, tokens]));
            check(
                &inputs,
                2e-5,
                |t| residual_attention(&t[0], &half(t, Some(&samples)), (heads, 0.4), t.get(8)),
                |t| {
                    let (scale, bias) = (0.4, t.get(8));
                    let inner = Inner::Attention { heads, scale, bias };
                    reference::residual(&t[0], &half(t, Some(&samples)), inner)
                },
            );
        }
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn on_a_gpu_it_follows_the_reference_in_both_precisions() {
        /// Heads of attention and whether it has a bias; `None` for GELU.
        type Heads = Option<(usize, Option<Tensor>)>;
        let both =
            |inputs: &[Tensor], samples: Option<&[f32]>, inner: &dyn Fn(&[Tensor]) -> Heads| {
                let op = |t: &[Tensor]| match inner(t) {
                    Some((heads, bias)) => {
                        residual_attention(&t[0], &half(t, samples), (heads, 0.4), bias.as_ref())
                    }
                    None => residual_mlp(&t[0], &half(t, samples)),
                };
                let plain = |t: &[Tensor]| {
                    let found = inner(t);
                    let inner = match &found {
                        Some((heads, bias)) => Inner::Attention {
                            heads: *heads,
                            scale: 0.4,
                            bias: bias.as_ref(),
                        },
                        None => Inner::Gelu,
                    };
                    reference::residual(&t[0], &half(t, samples), inner)
                };
                check_on_gpu(inputs, 2e-5, op, plain);
                let rough = |t: &[Tensor]| with_precision(Precision::Bf16, || op(t));
                check_on_gpu(inputs, 0.04, rough, plain);
            };
        for (shape, hidden) in [(&[3][..], 1), (&[2, 5, 12], 33), (&[70, 8], 24)] {
            both(&operands(shape, hidden, hidden), None, &|_| None);
        }
        for (batch, tokens, width, heads, head_dim) in
            [(1, 1, 3, 1, 2), (2, 7, 12, 3, 4), (3, 18, 10, 2, 5)]
        {
            let inside = heads * head_dim;
            let mut inputs = operands(&[batch, tokens, width], 3 * inside, inside);
            both(&inputs, None, &|_| Some((heads, None)));
            let samples: Vec<f32> = (0..batch).map(|at| [1.25, 0.][at % 2]).collect();
            both(&inputs, Some(&samples), &|_| Some((heads, None)));
            inputs.push(random(8, &[width]));
            inputs.push(random(9, &[1, heads, tokens, tokens]));
            both(&inputs, Some(&samples), &|t| {
                Some((heads, t.get(8).cloned()))
            });
        }
    }

    #[test]
    fn drop_path_without_layer_scale_follows_the_reference() {
        let (inputs, samples) = (operands(&[2, 3, 5], 9, 9), [1.5, 0.]);
        check(
            &inputs,
            2e-5,
            |t| residual_mlp(&t[0], &half(t, Some(&samples))),
            |t| reference::residual(&t[0], &half(t, Some(&samples)), Inner::Gelu),
        );
        let wrong = residual_mlp(&inputs[0], &half(&inputs, Some(&[1.]))).unwrap_err();
        assert!(
            wrong
                .to_string()
                .contains("one for each of the samples of [2, 3, 5]")
        );
    }

    #[test]
    fn backward_can_run_twice_and_gives_the_same() {
        let mut inputs = operands(&[2, 5, 8], 24, 8);
        inputs.push(random(8, &[8]));
        let vars: Vec<Var> = inputs
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
    fn only_tracked_operands_get_gradients() {
        let mut inputs = operands(&[2, 5, 8], 16, 16);
        inputs.push(random(8, &[8]));
        for tracked_id in 0..inputs.len() {
            let var = Var::from_tensor(&inputs[tracked_id]).unwrap();
            let mut inputs = inputs.clone();
            inputs[tracked_id] = var.as_tensor().clone();
            let grads = mlp(&inputs).unwrap().sum_all().unwrap().backward().unwrap();
            assert!(grads.get(&var).is_some(), "operand {tracked_id}");
            for (other, input) in inputs.iter().enumerate() {
                assert!(
                    other == tracked_id || grads.get(input).is_none(),
                    "operand {other}"
                );
            }
        }
    }

    #[test]
    fn bf16_products_are_close_to_f32() {
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
    fn refuses_mismatched_shapes() {
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
