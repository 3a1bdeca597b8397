//! Attention on a GPU.

mod call;

use candle_core::{DType, Result, Tensor};

pub(crate) use self::call::{Attended, Call, Inputs, WIDEST};
use super::cpu::Sizes;
use crate::gpu::{differentiable, rows};
use crate::linear::gpu::compute_type;

/// See [`super::attention()`].
pub(super) fn attention(
    qkv: &Tensor,
    bias: Option<&Tensor>,
    (sizes, scale): (Sizes, f32),
) -> Result<Tensor> {
    let dtype = compute_type();
    let qkv = qkv.contiguous()?;
    let bias = bias.map(Tensor::contiguous).transpose()?;
    let call = Call {
        inputs: Inputs::Packed(rows::cast(&qkv.detach(), dtype)?),
        bias: bias.as_ref().map(Tensor::detach),
        sizes,
        scale,
    };
    let tracked = [qkv.track_op(), bias.as_ref().is_some_and(Tensor::track_op)];
    let (ys, lse) = call.result()?;
    let backward = move |ys: &Tensor, grad: &Tensor| -> Result<[Option<Tensor>; 2]> {
        let (ys, grad) = (rows::cast(ys, dtype)?, rows::cast(grad, dtype)?);
        let (inputs, bias) = call.backward((&ys, &lse), &grad, tracked[1])?;
        let dx = match tracked[0] {
            true => Some(rows::cast(inputs.first(), DType::F32)?),
            false => None,
        };
        Ok([dx, bias])
    };
    match &bias {
        Some(bias) => differentiable([&qkv, bias], ys, backward),
        None => differentiable([&qkv], ys, move |ys, grad| {
            let [dx, _] = backward(ys, grad)?;
            Ok([dx])
        }),
    }
}

/// See [`super::cross_attention()`].
pub(super) fn cross_attention(
    q: &Tensor,
    kv: &Tensor,
    (sizes, scale): (Sizes, f32),
) -> Result<Tensor> {
    let dtype = compute_type();
    let (q, kv) = (q.contiguous()?, kv.contiguous()?);
    let call = Call {
        inputs: Inputs::Apart(
            rows::cast(&q.detach(), dtype)?,
            rows::cast(&kv.detach(), dtype)?,
        ),
        bias: None,
        sizes,
        scale,
    };
    let tracked = [q.track_op(), kv.track_op()];
    let (ys, lse) = call.result()?;
    differentiable([&q, &kv], ys, move |ys, grad| {
        let (ys, grad) = (rows::cast(ys, dtype)?, rows::cast(grad, dtype)?);
        let (inputs, _) = call.backward((&ys, &lse), &grad, false)?;
        let Inputs::Apart(dq, dkv) = inputs else {
            return Ok([None, None]);
        };
        let (dq, dkv) = (rows::cast(&dq, DType::F32)?, rows::cast(&dkv, DType::F32)?);
        Ok([tracked[0].then_some(dq), tracked[1].then_some(dkv)])
    })
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use super::super::{attention, cross_attention, reference};
    use crate::Result;
    use crate::testing::{check_on_gpu, random};
    use crate::{Precision, with_precision};
    use candle_core::Tensor;

    fn check(
        inputs: &[Tensor],
        op: impl Fn(&[Tensor]) -> Result<Tensor>,
        reference: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) {
        check_on_gpu(inputs, 5e-6, &op, &reference);
        let half = |t: &[Tensor]| with_precision(Precision::Bf16, || op(t));
        check_on_gpu(inputs, 0.02, half, &reference);
    }

    #[test]
    fn follows_the_reference() {
        for (batch, tokens, heads, width) in [
            (1, 1, 1, 1),
            (2, 1, 3, 4),
            (3, 17, 2, 5),
            (1, 50, 2, 64),
            (1, 66, 1, 96),
        ] {
            let qkv = random(1, &[batch, tokens, 3 * heads * width]);
            check(
                &[qkv],
                |t| attention(&t[0], heads, None, 0.3),
                |t| reference::attention(&t[0], heads, None, 0.3),
            );
        }
    }

    #[test]
    fn follows_the_reference_with_bias() {
        let (batch, tokens, heads, width) = (4, 11, 2, 6);
        let qkv = random(1, &[batch, tokens, 3 * heads * width]);
        for (b, h) in [(1, heads), (batch, heads), (2, 1), (1, 1)] {
            check(
                &[qkv.clone(), random(2, &[b, h, tokens, tokens])],
                |t| attention(&t[0], heads, Some(&t[1]), 0.4),
                |t| reference::attention(&t[0], heads, Some(&t[1]), 0.4),
            );
        }
    }

    #[test]
    fn follows_the_reference_across() {
        for (batch, queries, keys, heads, width) in
            [(1, 1, 1, 1, 1), (2, 5, 1, 3, 4), (2, 7, 17, 2, 42)]
        {
            let dim = heads * width;
            let inputs = [
                random(1, &[batch, queries, dim]),
                random(2, &[batch, keys, 2 * dim]),
            ];
            check(
                &inputs,
                // With a single key, the gradient of the queries is only rounding error, so they get a random one.
                |t| Ok((cross_attention(&t[0], &t[1], heads, 0.3)? + &t[0])?),
                |t| Ok((reference::cross_attention(&t[0], &t[1], heads, 0.3)? + &t[0])?),
            );
        }
    }
}
