//! Gathers rows by id.

mod cpu;
mod gpu;
mod reference;

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Shape, Tensor};

use super::cpu_slices::{floats, is_f32_on_cpu, last_axis, operand};
use super::device_copy::upload;
use super::gpu::is_supported;
use super::grad_accumulator::accumulate_values_or_return;
use super::profile::{Pass, timer};
use crate::{Error, Result};

/// Rows `ids` of `xs`: `[rows, dim]` and `[total]` u32 give `[total, dim]`.
///
/// Ids may repeat and have any order. The gradient of a row is the sum over its uses, always added in
/// the order of `ids`.
///
/// # Errors
///
/// [`Error::Shape`] if the shapes do not match or, on the CPU, if an id is not a row.
pub fn gather_rows(xs: &Tensor, ids: &Tensor) -> Result<Tensor> {
    last_axis("gather_rows", xs)?;
    if xs.rank() != 2 || ids.rank() != 1 || ids.dtype() != DType::U32 {
        return Err(Error::shape(
            "gather_rows",
            "[rows, dim] and [total] u32 ids",
            format!("{:?} and {:?} {:?}", xs.dims(), ids.dims(), ids.dtype()),
            "flatten the input to rows and the ids to one axis of u32",
        ));
    }
    if is_supported(&[xs]) && ids.elem_count() > 0 {
        return Ok(gpu::gather_rows(xs, ids)?);
    }
    if !ids.device().is_cpu() {
        return reference::gather_rows(xs, ids);
    }
    let rows = xs.dim(0)?;
    if let Some(id) = ids
        .to_vec1::<u32>()?
        .iter()
        .find(|id| **id as usize >= rows)
    {
        return Err(Error::shape(
            "gather_rows ids",
            format!("ids below {rows}"),
            id,
            "use ids below the number of rows",
        ));
    }
    if is_f32_on_cpu(&[xs]) {
        return Ok(xs.contiguous()?.apply_op2(&ids.contiguous()?, GatherRows)?);
    }
    reference::gather_rows(xs, ids)
}

/// Tokens `order` of every row: `[rows, tokens, dim]` gives `[rows, order.len(), dim]`.
///
/// Tokens may be omitted or repeated; gradients are as in [`gather_rows`].
///
/// # Errors
///
/// [`Error::Shape`] if the input is not `[rows, tokens, dim]` or an id is not one of its tokens.
pub fn gather_tokens(xs: &Tensor, order: &[u32]) -> Result<Tensor> {
    let (rows, tokens, dim) = xs.dims3()?;
    let outside = order.iter().find(|id| **id as usize >= tokens);
    let total = u32::try_from(rows * tokens)
        .ok()
        .filter(|_| outside.is_none());
    let Some(total) = total else {
        return Err(Error::shape(
            "gather_tokens",
            format!("[rows, more than {} tokens, dim]", outside.unwrap_or(&0)),
            xs.dims(),
            "use ids below the number of tokens, and batches of fewer than 2^32 tokens",
        ));
    };
    if is_supported(&[xs]) && !order.is_empty() {
        return Ok(gpu::gather_tokens(xs, order)?);
    }
    let starts = (0..total).step_by(tokens.max(1));
    let ids: Vec<u32> = starts
        .flat_map(|start| order.iter().map(move |id| start + id))
        .collect();
    let ids = upload(ids, rows * order.len(), xs.device())?;
    let gathered = gather_rows(&xs.flatten(0, 1)?, &ids)?;
    Ok(gathered.reshape((rows, order.len(), dim))?)
}

struct GatherRows;

impl CustomOp2 for GatherRows {
    fn name(&self) -> &'static str {
        "gather_rows"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_l: &Layout,
        ids: &CpuStorage,
        ids_l: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let _timer = timer("gather_rows", Pass::Forward, xs_l.dims(), 0.);
        let (_, width) = xs_l.shape().dims2()?;
        let total = ids_l.shape().elem_count();
        let ids = &ids.as_slice::<u32>()?[ids_l.start_offset()..][..total];
        let ys = cpu::forward(operand(xs, xs_l)?, ids, width);
        Ok((CpuStorage::F32(ys), (total, width).into()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        ids: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let _timer = timer("gather_rows", Pass::Backward, xs.dims(), 0.);
        let (rows, width) = xs.dims2()?;
        let grad = grad.contiguous()?;
        let dx = cpu::backward(&floats(&grad)?, &ids.to_vec1::<u32>()?, rows, width);
        Ok((accumulate_values_or_return(xs, dx)?, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_repeats, random};
    use candle_core::{Device, Var};

    fn ids(total: u32, rows: u32) -> Tensor {
        let ids: Vec<u32> = (0..total).map(|i| (i * i * 7 + 3) % rows).collect();
        Tensor::new(ids, &Device::Cpu).unwrap()
    }

    #[test]
    fn repeated_rows_add_up_and_unused_rows_get_zero() {
        let xs = Var::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &Device::Cpu).unwrap();
        let ids = Tensor::new(&[2u32, 0, 2], &Device::Cpu).unwrap();
        let ys = gather_rows(&xs, &ids).unwrap();
        assert_eq!(ys.to_vec2::<f32>().unwrap(), [[5., 6.], [1., 2.], [5., 6.]]);
        let grads = ys.sum_all().unwrap().backward().unwrap();
        let grad = grads.get(&xs).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(grad, [[1., 1.], [0., 0.], [2., 2.]]);
    }

    #[test]
    fn follows_the_reference() {
        for (rows, width, total) in [(1, 1, 1), (5, 3, 9), (100, 33, 60), (392, 96, 200)] {
            let ids = ids(total, rows);
            check(
                &[random(1, &[rows as usize, width])],
                1e-6,
                |t| gather_rows(&t[0], &ids),
                |t| reference::gather_rows(&t[0], &ids),
            );
        }
    }

    #[test]
    fn takes_strided_input_and_ids() {
        let ids = ids(8, 4).reshape((4, 2)).unwrap();
        let ids = ids.narrow(1, 1, 1).unwrap().squeeze(1).unwrap();
        check(
            &[random(1, &[3, 4])],
            1e-6,
            |t| gather_rows(&t[0].t()?, &ids),
            |t| reference::gather_rows(&t[0].t()?, &ids.contiguous()?),
        );
    }

    #[test]
    fn gathers_nothing_and_refuses_wrong_ids() {
        let xs = random(1, &[3, 4]);
        let none = Tensor::new(Vec::<u32>::new(), &Device::Cpu).unwrap();
        assert_eq!(gather_rows(&xs, &none).unwrap().dims(), [0, 4]);
        assert!(gather_rows(&xs, &Tensor::new(&[3u32], &Device::Cpu).unwrap()).is_err());
        assert!(gather_rows(&xs, &Tensor::new(&[0i64], &Device::Cpu).unwrap()).is_err());
        assert!(gather_rows(&random(1, &[2, 3, 4]), &none).is_err());
    }

    #[test]
    fn the_same_tokens_are_taken_from_every_row() {
        let xs = Var::new(&[[[1f32], [2.], [3.]], [[4.], [5.], [6.]]], &Device::Cpu).unwrap();
        let ys = gather_tokens(&xs, &[2, 0, 2]).unwrap();
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(ys.dims(), [2, 3, 1]);
        assert_eq!(values(&ys), [3., 1., 3., 6., 4., 6.]);
        let grads = ys.sum_all().unwrap().backward().unwrap();
        assert_eq!(values(grads.get(&xs).unwrap()), [1., 0., 2., 1., 0., 2.]);
        let error = gather_tokens(&xs, &[3]).unwrap_err().to_string();
        assert!(error.contains("more than 3 tokens"), "{error}");
    }

    #[test]
    fn repeats_bit_for_bit() {
        let ids = ids(5000, 40);
        check_repeats(&[random(3, &[40, 192])], |t| gather_rows(&t[0], &ids));
    }
}
