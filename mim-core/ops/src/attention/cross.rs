//! Cross-attention.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use super::cpu::{Inputs, Sizes};
use super::{Attention, gpu, narrow, reference};
use crate::cpu_slices::{floats, is_f32_on_cpu, operand};
use crate::gpu::is_supported;
use crate::profile::{Pass, timer};
use crate::{Error, Result};

/// `softmax(scale q kᵀ) v` for each head; keys and values come from other tokens than the queries.
///
/// `q` is `[batch, queries, dim]`, `kv` is `[batch, keys, 2 * dim]`, its last axis packed as
/// (2, heads, dim / heads); the result is `[batch, queries, dim]`. Vaswani et al. (NeurIPS 2017),
/// Sec. 3.2. The f32 kernel stores no weights: the backward pass computes them again.
///
/// # Errors
///
/// [`Error::Shape`] if `dim` is not a multiple of `heads`, or the arguments do not fit together.
pub fn cross_attention(q: &Tensor, kv: &Tensor, heads: usize, scale: f64) -> Result<Tensor> {
    let sizes = sizes(q, kv, heads)?;
    if is_supported(&[q, kv]) && sizes.head_dim <= gpu::WIDEST {
        return Ok(gpu::cross_attention(q, kv, (sizes, narrow(scale)))?);
    }
    if !is_f32_on_cpu(&[q, kv]) {
        return reference::cross_attention(q, kv, heads, scale);
    }
    let scale = narrow(scale);
    let op = Cross(Attention { sizes, scale });
    Ok(q.contiguous()?.apply_op2(&kv.contiguous()?, op)?)
}

fn sizes(q: &Tensor, kv: &Tensor, heads: usize) -> Result<Sizes> {
    match (q.dims(), kv.dims()) {
        (&[batch, queries, dim], &[images, keys, packed])
            if heads > 0
                && batch * queries * keys * dim > 0
                && dim.is_multiple_of(heads)
                && (images, packed) == (batch, 2 * dim) =>
        {
            Ok(Sizes {
                batch,
                queries,
                keys,
                heads,
                head_dim: dim / heads,
            })
        }
        (q, kv) => Err(Error::shape(
            "cross-attention",
            format!(
                "[batch, queries, {heads} heads * head_dim] and [batch, keys, twice that], none of them 0"
            ),
            (q, kv),
            "give queries, and keys and values packed in the last axis, of the same width and batch",
        )),
    }
}

struct Cross(Attention);

impl CustomOp2 for Cross {
    fn name(&self) -> &'static str {
        "cross_attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_l: &Layout,
        kv: &CpuStorage,
        kv_l: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let flop = self.0.flop(Pass::Forward);
        let _timer = timer("cross_attention", Pass::Forward, q_l.dims(), flop);
        let inputs = Inputs::Apart(operand(q, q_l)?, operand(kv, kv_l)?);
        self.0.forward(inputs, None)
    }

    fn bwd(
        &self,
        q: &Tensor,
        kv: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let flop = self.0.flop(Pass::Backward);
        let _timer = timer("cross_attention", Pass::Backward, q.dims(), flop);
        let inputs = (floats(q)?, floats(kv)?);
        let inputs = Inputs::Apart(&inputs.0, &inputs.1);
        let call = self.0.call(inputs, None);
        let ([dq, dkv], _) = call.backward(&floats(&grad.contiguous()?)?, false)?;
        let gradient = |dx: Vec<f32>, xs: &Tensor| match xs.track_op() {
            true => Tensor::from_vec(dx, xs.shape(), xs.device()).map(Some),
            false => Ok(None),
        };
        Ok((gradient(dq, q)?, gradient(dkv, kv)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention;
    use crate::testing::{check, check_repeats, random};
    use candle_core::{Device, Var};

    #[test]
    fn known_values() {
        // One head of width 1: the first query weighs both keys equally, the second attends only to the key 100.
        let q = Tensor::new(&[[[0f32], [1.]]], &Device::Cpu).unwrap();
        let kv = Tensor::new(&[[[0f32, 1.], [100., 5.], [0., 3.]]], &Device::Cpu).unwrap();
        let ys = cross_attention(&q, &kv, 1, 1.0).unwrap();
        assert_eq!(ys.to_vec3::<f32>().unwrap(), [[[3.], [5.]]]);
    }

    #[test]
    fn follows_the_reference() {
        for (batch, queries, keys, heads, width) in [
            (1, 1, 1, 1, 1),
            (2, 5, 1, 3, 4),
            (3, 7, 17, 2, 5),
            (2, 33, 10, 3, 42),
        ] {
            let dim = heads * width;
            let inputs = [
                random(1, &[batch, queries, dim]),
                random(2, &[batch, keys, 2 * dim]),
            ];
            check(
                &inputs,
                5e-6,
                |t| cross_attention(&t[0], &t[1], heads, 0.3),
                |t| reference::cross_attention(&t[0], &t[1], heads, 0.3),
            );
        }
    }

    #[test]
    fn on_the_same_tokens_it_equals_attention() {
        let qkv = random(1, &[2, 9, 3 * 12]);
        let (q, kv) = (
            qkv.narrow(2, 0, 12).unwrap(),
            qkv.narrow(2, 12, 24).unwrap(),
        );
        let values = |ys: Tensor| ys.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(
            values(cross_attention(&q, &kv, 3, 0.5).unwrap()),
            values(attention(&qkv, 3, None, 0.5).unwrap())
        );
    }

    #[test]
    fn either_operand_can_train_alone() {
        let (q, kv) = (random(1, &[2, 3, 4]), random(2, &[2, 5, 8]));
        for tracked_id in [0, 1] {
            let var = Var::from_tensor([&q, &kv][tracked_id]).unwrap();
            let mut inputs = [q.clone(), kv.clone()];
            inputs[tracked_id] = var.as_tensor().clone();
            let ys = cross_attention(&inputs[0], &inputs[1], 2, 1.0).unwrap();
            let grads = ys.sum_all().unwrap().backward().unwrap();
            assert!(grads.get(&var).is_some() && grads.get(&inputs[1 - tracked_id]).is_none());
        }
    }

    #[test]
    fn refuses_mismatched_shapes() {
        let q = random(1, &[2, 5, 4]);
        for (shape, heads) in [
            ([2, 3, 8], 0),
            ([2, 3, 8], 3),
            ([1, 3, 8], 2),
            ([2, 3, 4], 2),
            ([2, 0, 8], 2),
        ] {
            let kv = Tensor::zeros(&shape, q.dtype(), q.device()).unwrap();
            assert!(cross_attention(&q, &kv, heads, 1.0).is_err(), "{shape:?}");
        }
    }

    #[test]
    fn repeats_bit_for_bit() {
        let inputs = [random(1, &[3, 40, 96]), random(2, &[3, 25, 192])];
        check_repeats(&inputs, |t| cross_attention(&t[0], &t[1], 3, 0.2));
    }
}
