//! Gathering of rows on a GPU.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{DType, Result, Tensor};

use crate::device_copy::send;
use crate::gpu::{Arg, Buffer, Grid, Kernel, differentiable, launch, rows};
use crate::grad_accumulator::{accumulate_if_tracked, tracked_id};

/// End of a chain, as in `gather_rows.cu`.
const NO_ROW: u32 = u32::MAX;

/// Linked lists of the positions of each row id in the ids of one image: the first position for each row, and the
/// next position of the same row for each position.
#[derive(Clone)]
struct Chains {
    first: Tensor,
    next: Tensor,
}

impl Chains {
    /// From ids on the host; all are below `rows`.
    fn of(ids: &[u32], rows: usize, like: &Tensor) -> Result<Self> {
        let mut first = vec![NO_ROW; rows];
        let mut next = vec![NO_ROW; ids.len()];
        for (place, id) in ids.iter().enumerate().rev() {
            let own = u32::try_from(place).map_err(candle_core::Error::wrap)?;
            next[place] = std::mem::replace(&mut first[*id as usize], own);
        }
        Ok(Self {
            first: send(first, rows, like.device())?,
            next: send(next, ids.len(), like.device())?,
        })
    }

    /// From ids on the device, without a copy to the host: one thread per row scans all ids.
    fn on_device(ids: &Tensor, rows: usize) -> Result<Self> {
        let unwritten = |count: usize| Tensor::zeros(count, DType::U32, ids.device());
        let (first, next) = (unwritten(rows)?, unwritten(ids.elem_count())?);
        let mut args = [
            Arg::Read(ids),
            Arg::Change(&first),
            Arg::Change(&next),
            Arg::Count(ids.elem_count()),
            Arg::Count(rows),
        ];
        let kernel = Kernel::new("gather_rows", "gather_rows_chains");
        // SAFETY: there is one first position per row and one next position per id.
        unsafe { launch(ids.device(), &kernel, Grid::each(rows), &mut args)? };
        Ok(Self { first, next })
    }
}

/// Rows per image, rows gathered per image, and their width.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    images: usize,
    rows: usize,
    count: usize,
    width: usize,
}

fn forward(xs: &Tensor, ids: &Tensor, sizes: Sizes) -> Result<Buffer> {
    let total = sizes.images * sizes.count;
    let mut ys = Buffer::new((total, sizes.width), DType::F32, xs.device())?;
    let mut args = [
        Arg::Read(xs),
        Arg::Read(ids),
        Arg::Write(&mut ys),
        Arg::Count(total),
        Arg::Count(sizes.count),
        Arg::Count(sizes.rows),
        Arg::Count(sizes.width),
    ];
    let kernel = Kernel::new("gather_rows", "gather_rows_forward");
    // SAFETY: `xs` is `[images * rows, width]`, `ys` is `[images * count, width]`, and ids are below `rows`.
    unsafe { launch(xs.device(), &kernel, rows::warps(total), &mut args)? };
    Ok(ys)
}

fn backward(grad: &Tensor, chains: &Chains, sizes: Sizes) -> Result<Tensor> {
    let total = sizes.images * sizes.rows;
    let mut dx = Buffer::new((total, sizes.width), DType::F32, grad.device())?;
    let mut args = [
        Arg::Read(grad),
        Arg::Read(&chains.first),
        Arg::Read(&chains.next),
        Arg::Write(&mut dx),
        Arg::Count(total),
        Arg::Count(sizes.count),
        Arg::Count(sizes.rows),
        Arg::Count(sizes.width),
    ];
    let kernel = Kernel::new("gather_rows", "gather_rows_backward");
    // SAFETY: as in `forward`; chains end, and their positions are below `count`.
    unsafe { launch(grad.device(), &kernel, rows::warps(total), &mut args)? };
    Ok(dx.into_tensor())
}

/// See [`super::gather_rows()`]; neither `xs` nor `ids` is empty.
pub(super) fn gather_rows(xs: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (xs, ids) = (xs.contiguous()?, ids.contiguous()?);
    let (rows, width) = xs.dims2()?;
    let count = ids.elem_count();
    let sizes = Sizes {
        images: 1,
        rows,
        count,
        width,
    };
    let ys = forward(&xs, &ids, sizes)?;
    let table = tracked_id(&xs);
    differentiable([&xs], ys, move |_, grad| {
        let chains = Chains::on_device(&ids, rows)?;
        Ok([accumulate_if_tracked(
            table,
            backward(grad, &chains, sizes)?,
        )?])
    })
}

/// See [`super::gather_tokens`]; nothing is empty, and every id in `order` is below the number of tokens.
pub(super) fn gather_tokens(xs: &Tensor, order: &[u32]) -> Result<Tensor> {
    let xs = xs.contiguous()?;
    let (images, tokens, width) = xs.dims3()?;
    let sizes = Sizes {
        images,
        rows: tokens,
        count: order.len(),
        width,
    };
    let ids = send(order.to_vec(), order.len(), xs.device())?;
    let ys = forward(&xs, &ids, sizes)?.reshaped((images, order.len(), width));
    if !xs.track_op() {
        return Ok(ys.into_tensor());
    }
    let chains = Chains::of(order, tokens, &xs)?;
    differentiable([&xs], ys, move |_, grad| {
        let dx = backward(grad, &chains, sizes)?;
        Ok([Some(dx.reshape((images, tokens, width))?)])
    })
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use super::super::{gather_rows, gather_tokens, reference};
    use crate::testing::{check_on_gpu, random};
    use candle_core::{Device, Tensor};

    #[test]
    fn follows_the_reference() {
        for (rows, width, total) in [(1u32, 1, 1u32), (5, 3, 9), (300, 33, 60), (40, 8, 600)] {
            let ids: Vec<u32> = (0..total).map(|i| (i * i * 7 + 3) % rows).collect();
            let ids = Tensor::new(ids, &Device::Cpu).unwrap();
            let there = |t: &Tensor| ids.to_device(t.device()).unwrap();
            check_on_gpu(
                &[random(1, &[rows as usize, width])],
                1e-6,
                |t| gather_rows(&t[0], &there(&t[0])),
                |t| reference::gather_rows(&t[0], &ids),
            );
        }
    }

    #[test]
    fn the_same_tokens_of_every_row_follow_the_reference() {
        let order = [2u32, 0, 2, 4, 2];
        let ids = Tensor::new(&order, &Device::Cpu).unwrap();
        check_on_gpu(
            &[random(1, &[3, 5, 6])],
            1e-6,
            |t| gather_tokens(&t[0], &order),
            |t| Ok(t[0].index_select(&ids, 1)?),
        );
    }
}
