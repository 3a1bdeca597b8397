//! Multi-head self-attention and cross-attention.

mod cpu;
mod cross;
pub(super) mod gpu;
mod reference;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};

use self::cpu::{Call, Sizes};
use super::cpu_slices::{floats, is_f32_on_cpu, operand};
use super::gpu::is_supported;
use super::precision::precision;
use super::profile::{Pass, timer};
use crate::{Error, Result};

pub(super) use self::cpu::{Bias, Inputs};
pub use self::cross::cross_attention;

/// `softmax(scale q kᵀ + bias) v` for each head.
///
/// `qkv` is `[batch, tokens, 3 * dim]`, its last axis packed as (3, heads, dim / heads) as in timm;
/// `bias` is `[n, 1 or heads, tokens, tokens]`, where `n` divides `batch`. It is used cyclically:
/// row `r` uses bias `r % n`, as for the windows of an image. It may hold -inf to hide keys. The
/// result is `[batch, tokens, dim]`. `scale` is usually `(dim / heads)^-0.5`. Vaswani et al.
/// (NeurIPS 2017), Sec. 3.2. The f32 kernel stores no weights: the backward pass computes them again.
///
/// # Errors
///
/// [`Error::Shape`] if the last axis does not divide into three parts of `heads` equal heads, or
/// the bias does not fit.
pub fn attention(qkv: &Tensor, heads: usize, bias: Option<&Tensor>, scale: f64) -> Result<Tensor> {
    let sizes = sizes(qkv.dims(), heads)?;
    if let Some(bias) = bias {
        check_bias(bias, sizes)?;
    }
    let mut operands = vec![qkv];
    operands.extend(bias);
    if is_supported(&operands) && sizes.head_dim <= gpu::WIDEST {
        return Ok(gpu::attention(qkv, bias, (sizes, narrow(scale)))?);
    }
    if !is_f32_on_cpu(&operands) {
        return reference::attention(qkv, heads, bias, scale);
    }
    let scale = narrow(scale);
    let op = Attention { sizes, scale };
    let qkv = qkv.contiguous()?;
    Ok(match bias {
        Some(bias) => qkv.apply_op2(&bias.contiguous()?, op)?,
        None => qkv.apply_op1(op)?,
    })
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernels compute in f32"
)]
fn narrow(scale: f64) -> f32 {
    scale as f32
}

pub(super) fn sizes(qkv: &[usize], heads: usize) -> Result<Sizes> {
    match *qkv {
        [batch, tokens, packed]
            if heads > 0 && batch > 0 && tokens > 0 && packed > 0 && packed % (3 * heads) == 0 =>
        {
            Ok(Sizes {
                batch,
                queries: tokens,
                keys: tokens,
                heads,
                head_dim: packed / (3 * heads),
            })
        }
        _ => Err(Error::shape(
            "attention qkv",
            format!("[batch, tokens, 3 * {heads} heads * head_dim], none of them 0"),
            qkv,
            "pack queries, keys and values in the last axis, with a multiple of `heads` values each",
        )),
    }
}

pub(crate) fn check_bias(bias: &Tensor, sizes: Sizes) -> Result<()> {
    let Sizes {
        batch,
        queries: tokens,
        heads,
        ..
    } = sizes;
    match *bias.dims() {
        [b, h, rows, cols]
            if b > 0
                && batch.is_multiple_of(b)
                && (h == 1 || h == heads)
                && (rows, cols) == (tokens, tokens) =>
        {
            Ok(())
        }
        _ => Err(Error::shape(
            "attention bias",
            format!("[a divisor of {batch}, 1 or {heads}, {tokens}, {tokens}]"),
            bias.dims(),
            "give one value for each pair of tokens, with axes for rows and heads",
        )),
    }
}

pub(super) struct Attention {
    sizes: Sizes,
    scale: f32,
}

impl Attention {
    /// Attention over packed inputs of this shape, with this bias.
    pub(super) fn of(
        qkv: [usize; 3],
        (heads, scale): (usize, f64),
        bias: Option<&Tensor>,
    ) -> Result<Self> {
        let scale = narrow(scale);
        let sizes = sizes(&qkv, heads)?;
        bias.map_or(Ok(()), |bias| check_bias(bias, sizes))?;
        Ok(Self { sizes, scale })
    }

    pub(super) fn call<'a>(&self, inputs: Inputs<'a>, bias: Option<Bias<'a>>) -> Call<'a> {
        Call {
            inputs,
            bias,
            scale: self.scale,
            sizes: self.sizes,
            precision: precision(),
        }
    }

    /// Floating-point operations of the matrix products in a pass: two products forward, five backward.
    pub(super) fn flop(&self, pass: Pass) -> f64 {
        let Sizes {
            batch,
            queries,
            keys,
            heads,
            head_dim,
        } = self.sizes;
        let product = 2. * (batch * queries * keys * heads * head_dim) as f64;
        product * if pass == Pass::Backward { 5. } else { 2. }
    }

    fn forward(
        &self,
        inputs: Inputs<'_>,
        bias: Option<Bias<'_>>,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let ys = self.call(inputs, bias).forward()?;
        let Sizes {
            batch,
            queries,
            heads,
            head_dim,
            ..
        } = self.sizes;
        Ok((
            CpuStorage::F32(ys),
            (batch, queries, heads * head_dim).into(),
        ))
    }

    /// Gradients of the packed input and, if `keep`, of all scores.
    fn backward(
        &self,
        qkv: &Tensor,
        bias: Option<Bias<'_>>,
        grad: &Tensor,
        keep: bool,
    ) -> candle_core::Result<(Tensor, Vec<f32>)> {
        let values = floats(qkv)?;
        let call = self.call(Inputs::Packed(&values), bias);
        let ([dx, _], scores) = call.backward(&floats(&grad.contiguous()?)?, keep)?;
        Ok((Tensor::from_vec(dx, qkv.shape(), qkv.device())?, scores))
    }

    /// The gradient of the bias from the gradients of all scores.
    pub(super) fn bias_gradient(
        &self,
        bias: &Tensor,
        scores: &[f32],
    ) -> candle_core::Result<Tensor> {
        let (images, heads, _, _) = bias.dims4()?;
        let values = cpu::backward_bias(scores, [images, heads], self.sizes);
        Tensor::from_vec(values, bias.shape(), bias.device())
    }
}

impl<'a> Bias<'a> {
    pub(super) fn new(values: &'a [f32], shape: &Shape) -> candle_core::Result<Self> {
        let (images, heads, _, _) = shape.dims4()?;
        Ok(Self {
            values,
            images,
            heads,
        })
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let _timer = timer(
            "attention",
            Pass::Forward,
            l.dims(),
            self.flop(Pass::Forward),
        );
        self.forward(Inputs::Packed(operand(qkv, l)?), None)
    }

    fn bwd(
        &self,
        qkv: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        let _timer = timer(
            "attention",
            Pass::Backward,
            qkv.dims(),
            self.flop(Pass::Backward),
        );
        Ok(Some(self.backward(qkv, None, grad, false)?.0))
    }
}

impl CustomOp2 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        qkv_l: &Layout,
        bias: &CpuStorage,
        bias_l: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let _timer = timer(
            "attention",
            Pass::Forward,
            qkv_l.dims(),
            self.flop(Pass::Forward),
        );
        let bias = Bias::new(operand(bias, bias_l)?, bias_l.shape())?;
        self.forward(Inputs::Packed(operand(qkv, qkv_l)?), Some(bias))
    }

    fn bwd(
        &self,
        qkv: &Tensor,
        bias: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let _timer = timer(
            "attention",
            Pass::Backward,
            qkv.dims(),
            self.flop(Pass::Backward),
        );
        let values = floats(bias)?;
        let added = Some(Bias::new(&values, bias.shape())?);
        let (dx, scores) = self.backward(qkv, added, grad, bias.track_op())?;
        let dx = qkv.track_op().then_some(dx);
        if !bias.track_op() {
            return Ok((dx, None));
        }
        Ok((dx, Some(self.bias_gradient(bias, &scores)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_repeats, random};
    use candle_core::{Device, Var};

    #[test]
    fn known_values() {
        // One head of width 1: the scores are q k, so token 0 (q = 0) averages the values 1 and 5.
        let qkv = Tensor::new(&[[[0f32, 1., 1.], [100., 0., 5.]]], &Device::Cpu).unwrap();
        let ys = attention(&qkv, 1, None, 1.0).unwrap();
        assert_eq!(ys.to_vec3::<f32>().unwrap(), [[[3.], [1.]]]);
        let hide = Tensor::new(&[[[[0f32, f32::NEG_INFINITY], [0., 0.]]]], &Device::Cpu).unwrap();
        let ys = attention(&qkv, 1, Some(&hide), 1.0).unwrap();
        assert_eq!(ys.to_vec3::<f32>().unwrap(), [[[1.], [1.]]]);
    }

    #[test]
    fn follows_the_reference() {
        for (batch, tokens, heads, width) in [
            (1, 1, 1, 1),
            (2, 1, 3, 4),
            (3, 17, 2, 5),
            (1, 50, 4, 64),
            (2, 65, 3, 32),
        ] {
            let qkv = random(1, &[batch, tokens, 3 * heads * width]);
            check(
                &[qkv],
                5e-6,
                |t| attention(&t[0], heads, None, 0.3),
                |t| reference::attention(&t[0], heads, None, 0.3),
            );
        }
    }

    #[test]
    fn follows_the_reference_with_bias() {
        let (batch, tokens, heads, width) = (3, 11, 2, 6);
        let qkv = random(1, &[batch, tokens, 3 * heads * width]);
        for (b, h) in [(1, heads), (batch, heads), (batch, 1), (1, 1)] {
            check(
                &[qkv.clone(), random(2, &[b, h, tokens, tokens])],
                5e-6,
                |t| attention(&t[0], heads, Some(&t[1]), 0.4),
                |t| reference::attention(&t[0], heads, Some(&t[1]), 0.4),
            );
        }
    }

    #[test]
    fn fewer_biases_than_rows_are_used_cyclically() {
        let (tokens, heads) = (5, 2);
        let qkv = random(1, &[6, tokens, 3 * heads * 4]);
        for (rows, bias_heads) in [(2, heads), (3, heads), (2, 1)] {
            let bias = random(2, &[rows, bias_heads, tokens, tokens]);
            check(
                &[qkv.clone(), bias.clone()],
                5e-6,
                |t| attention(&t[0], heads, Some(&t[1]), 0.4),
                |t| reference::attention(&t[0], heads, Some(&t[1]), 0.4),
            );
            let repeated = Tensor::cat(&vec![&bias; 6 / rows], 0).unwrap();
            let values = |bias: &Tensor| {
                let ys = attention(&qkv, heads, Some(bias), 0.4).unwrap();
                ys.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            assert_eq!(values(&bias), values(&repeated));
        }
    }

    #[test]
    fn takes_strided_operands() {
        let inputs = [random(1, &[4, 2, 24]), random(2, &[4, 4, 2])];
        let bias = |t: &Tensor| -> Result<Tensor> { Ok(t.permute((2, 1, 0))?.unsqueeze(0)?) };
        check(
            &inputs,
            5e-6,
            |t| attention(&t[0].transpose(0, 1)?, 2, Some(&bias(&t[1])?), 0.5),
            |t| reference::attention(&t[0].transpose(0, 1)?, 2, Some(&bias(&t[1])?), 0.5),
        );
    }

    #[test]
    fn bias_alone_can_train() {
        let bias = Var::from_tensor(&random(2, &[1, 2, 5, 5])).unwrap();
        let qkv = random(1, &[2, 5, 12]);
        let ys = attention(&qkv, 2, Some(&bias), 1.0).unwrap();
        let grads = ys.sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&bias).is_some() && grads.get(&qkv).is_none());
    }

    #[test]
    fn backward_can_run_twice() {
        let qkv = Var::from_tensor(&random(1, &[2, 5, 12])).unwrap();
        let loss = attention(&qkv, 2, None, 1.0)
            .unwrap()
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap();
        let grad = || {
            let grads = loss.backward().unwrap();
            grads
                .get(&qkv)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        assert_eq!(grad(), grad());
    }

    #[test]
    fn refuses_mismatched_shapes() {
        let qkv = random(1, &[2, 5, 12]);
        for heads in [0, 3] {
            assert!(attention(&qkv, heads, None, 1.0).is_err());
        }
        for shape in [[3, 2, 5, 5], [4, 2, 5, 5], [1, 3, 5, 5], [1, 2, 5, 4]] {
            assert!(attention(&qkv, 2, Some(&random(2, &shape)), 1.0).is_err());
        }
    }

    #[test]
    fn repeats_bit_for_bit() {
        let inputs = [random(1, &[3, 50, 3 * 96]), random(2, &[1, 3, 50, 50])];
        check_repeats(&inputs, |t| attention(&t[0], 3, Some(&t[1]), 0.2));
    }
}
