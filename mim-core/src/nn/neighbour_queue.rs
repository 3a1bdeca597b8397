//! A queue of earlier outputs in which nearest neighbours are found.

use candle_core::{D, DType, Device, Tensor, Var};

use crate::params::{Draw, Params};
use crate::{Error, Result, ops};

/// Lengths below this count as this.
const LEAST_LENGTH: f64 = 1e-12;
/// What the cosine of a row of the same image counts as.
const OF_OWN: f32 = -1.;

/// Rows with what is known of their images: where they stand in their data set, and their class.
#[derive(Debug, Clone, Copy)]
pub struct QueueEntry<'a> {
    /// `[rows, dim]`.
    pub rows: &'a Tensor,
    /// Numbers of the images `[rows]` i64; -1 where it is not known.
    pub indices: &'a Tensor,
    /// Classes `[rows]` i64; -1 where there is none.
    pub labels: &'a Tensor,
}

/// Rows of earlier steps, first in, first out (NNCLR, Dwibedi et al., ICCV 2021).
///
/// All of it is buffers, so that checkpoints hold it.
#[derive(Debug, Clone)]
pub struct NeighbourQueue {
    x: Var,
    idx: Var,
    cls: Var,
    age: Var,
    ptr: Var,
}

impl NeighbourQueue {
    /// Buffers `x` `[size, dim]`, which starts at normal draws, and the numbers of its rows' images `idx`, their
    /// classes `cls` and `age` `[size]`, and the next place `ptr` `[1]`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if it has no rows.
    pub fn new(params: &Params, size: usize, dim: usize) -> Result<Self> {
        if size == 0 || dim == 0 {
            let (why, fix) = (
                "it has at least one row of one value",
                "use for instance 65536",
            );
            return Err(Error::config("queue", "queue_size", size, why, fix));
        }
        let filled = |name: &str, value: i64, count: usize| {
            params.buffer(name, Tensor::full(value, count, params.device())?)
        };
        Ok(Self {
            x: params.drawn("x", &[size, dim], Draw::Normal { std: 1. })?,
            idx: filled("idx", -1, size)?,
            cls: filled("cls", -1, size)?,
            age: filled("age", 0, size)?,
            ptr: filled("ptr", 0, 1)?,
        })
    }

    /// Rows of the queue near to those of `keys` `[rows, dim]` by the cosine of their angle, without gradient:
    /// `ranks[row]` says which one, 0 for the nearest. Rows of the same image, of number `indices[row]` if that is not
    /// -1, count as the furthest.
    ///
    /// # Errors
    ///
    /// If a shape does not fit, or a rank is not below the size.
    pub fn find(&self, keys: &Tensor, indices: &[i64], ranks: &[usize]) -> Result<Tensor> {
        let (rows, size) = (keys.dim(0)?, self.idx.dim(0)?);
        if rows != indices.len() || rows != ranks.len() || ranks.iter().any(|rank| *rank >= size) {
            return Err(Error::shape(
                "looking up a queue",
                format!("{rows} numbers and ranks below {size}"),
                (indices.len(), ranks),
                "give one of each for each row, and a queue with as many rows as topk",
            ));
        }
        let queue = self.x.as_detached_tensor();
        let cosines = of_length_one(&keys.detach())?.matmul(&of_length_one(&queue)?.t()?)?;
        let found = match keys.device() {
            Device::Cpu => self.search(&cosines, indices, ranks)?,
            _ => self.search_there(&cosines, indices, ranks)?,
        };
        Ok(queue.index_select(&found, 0)?)
    }

    /// The places of neighbours for `cosines` `[rows, size]`, on the host.
    fn search(&self, cosines: &Tensor, indices: &[i64], ranks: &[usize]) -> Result<Tensor> {
        let (rows, size) = cosines.dims2()?;
        let cosines: Vec<f32> = cosines.flatten_all()?.to_vec1()?;
        let known: Vec<i64> = self.idx.as_detached_tensor().to_vec1()?;
        let mut found = Vec::with_capacity(rows);
        let of_row = cosines.chunks(size).zip(indices.iter().zip(ranks));
        for (cosines, (&own, &rank)) in of_row {
            let value = |place: usize| match own >= 0 && known[place] == own {
                true => OF_OWN,
                false => cosines[place],
            };
            let mut order: Vec<(f32, u32)> = (0..size).map(value).zip(0u32..).collect();
            let (_, (_, place), _) =
                order.select_nth_unstable_by(rank, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            found.push(*place);
        }
        Ok(ops::upload(found, rows, self.x.device())?)
    }

    /// The same without waiting for a GPU: the largest of each row, so often as the highest rank asks.
    fn search_there(&self, cosines: &Tensor, indices: &[i64], ranks: &[usize]) -> Result<Tensor> {
        let ((rows, size), device) = (cosines.dims2()?, cosines.device());
        // No image has this number.
        let own = indices.iter().map(|own| if *own < 0 { -2 } else { *own });
        let own = ops::upload(own.collect(), (rows, 1), device)?;
        let known = self.idx.as_detached_tensor().unsqueeze(0)?;
        let same = known.broadcast_eq(&own)?;
        let least = |value: f32| Tensor::full(value, (rows, size), device);
        let mut left = same.where_cond(&least(OF_OWN)?, cosines)?;
        let last = u32::try_from(size).unwrap_or(u32::MAX);
        let places = ops::upload((0..last).collect(), (1, size), device)?;
        let taken = least(f32::MIN)?;
        let mut best = Vec::new();
        for _ in 0..=ranks.iter().copied().max().unwrap_or(0) {
            let largest = left.argmax_keepdim(1)?;
            left = places.broadcast_eq(&largest)?.where_cond(&taken, &left)?;
            best.push(largest.squeeze(1)?);
        }
        let chosen = ranks
            .iter()
            .enumerate()
            .map(|(row, rank)| rank * rows + row);
        let chosen: Vec<u32> = chosen.filter_map(|at| u32::try_from(at).ok()).collect();
        let chosen = ops::upload(chosen, rows, device)?;
        Ok(Tensor::cat(&best, 0)?.index_select(&chosen, 0)?)
    }

    /// Writes rows over the oldest ones.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if there are more rows than the queue holds.
    pub fn push(&self, entry: QueueEntry<'_>) -> Result<()> {
        let (count, size) = (entry.rows.dim(0)?, self.idx.dim(0)?);
        if count == 0
            || count > size
            || [entry.indices, entry.labels].map(Tensor::dims) != [[count]; 2]
        {
            return Err(Error::shape(
                "rows for a queue",
                format!("1 to its {size}, with a number and a class each"),
                (count, entry.indices.dims(), entry.labels.dims()),
                "use a larger queue_size or a smaller batch",
            ));
        }
        // Nothing here asks what is where: a GPU is not waited for.
        let device = self.x.device();
        let last = i64::try_from(size).unwrap_or(i64::MAX);
        let ptr = self.ptr.as_detached_tensor();
        let behind = ops::upload((0..last).collect(), size, device)?.broadcast_sub(&ptr)?;
        let around = behind
            .lt(0i64)?
            .where_cond(&(&behind + size as f64)?, &behind)?;
        let fresh = around.lt(i64::try_from(count).unwrap_or(i64::MAX))?;
        let from = around.minimum((count - 1) as f64)?.to_dtype(DType::U32)?;
        let rows = entry
            .rows
            .detach()
            .to_dtype(DType::F32)?
            .index_select(&from, 0)?;
        let wide = fresh
            .unsqueeze(1)?
            .broadcast_as(rows.shape())?
            .contiguous()?;
        self.x
            .set(&wide.where_cond(&rows, &self.x.as_detached_tensor())?)?;
        for (var, values) in [(&self.idx, entry.indices), (&self.cls, entry.labels)] {
            let values = values.to_dtype(DType::I64)?.index_select(&from, 0)?;
            var.set(&fresh.where_cond(&values, &var.as_detached_tensor())?)?;
        }
        let age = self.age.as_detached_tensor();
        let age = fresh.where_cond(&age.zeros_like()?, &age)?;
        self.age.set(&(age + count as f64)?)?;
        let next = (ptr + count as f64)?;
        self.ptr
            .set(&next.ge(last)?.where_cond(&(&next - size as f64)?, &next)?)?;
        Ok(())
    }
}

/// `x / max(|x|, 1e-12)` over the last axis.
pub(crate) fn of_length_one(xs: &Tensor) -> Result<Tensor> {
    let squares = xs.sqr()?.sum_keepdim(D::Minus1)?;
    let least = LEAST_LENGTH * LEAST_LENGTH;
    Ok(xs.broadcast_div(&squares.maximum(least)?.sqrt()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;

    fn queue(values: &[[f32; 2]]) -> (ParamStore, NeighbourQueue) {
        let store = ParamStore::cpu(0);
        let queue = NeighbourQueue::new(&store.root().pp("queue"), values.len(), 2).unwrap();
        let flat: Vec<f32> = values.iter().flatten().copied().collect();
        let values = Tensor::from_vec(flat, (values.len(), 2), &Device::Cpu).unwrap();
        store.var("queue.x").unwrap().set(&values).unwrap();
        (store, queue)
    }

    fn numbers(store: &ParamStore, name: &str) -> Vec<i64> {
        let var = store.var(&format!("queue.{name}")).unwrap();
        var.as_detached_tensor().to_vec1().unwrap()
    }

    #[test]
    fn the_oldest_rows_are_written_over_and_the_place_wraps_around() {
        let (store, queue) = queue(&[[1., 0.]; 3]);
        assert_eq!(numbers(&store, "idx"), [-1; 3]);
        let push = |rows: &Tensor, indices: &[i64], labels: &[i64]| {
            let number = |values: &[i64]| Tensor::new(values, &Device::Cpu).unwrap();
            queue.push(QueueEntry {
                rows,
                indices: &number(indices),
                labels: &number(labels),
            })
        };
        let rows = Tensor::new(&[[2f32, 0.], [3., 0.]], &Device::Cpu).unwrap();
        push(&rows, &[7, 8], &[0, 1]).unwrap();
        push(&rows, &[9, 10], &[2, -1]).unwrap();
        assert_eq!(numbers(&store, "idx"), [10, 8, 9]);
        assert_eq!(numbers(&store, "cls"), [-1, 1, 2]);
        assert_eq!(numbers(&store, "age"), [2, 4, 2]);
        assert_eq!(numbers(&store, "ptr"), [1]);
        let x: Vec<Vec<f32>> = store.var("queue.x").unwrap().to_vec2().unwrap();
        assert_eq!(x, [[3., 0.], [3., 0.], [2., 0.]]);
        assert!(push(&rows, &[1], &[2]).is_err());
        let many = Tensor::zeros((4, 2), DType::F32, &Device::Cpu).unwrap();
        let error = push(&many, &[0; 4], &[0; 4]).unwrap_err().to_string();
        assert!(error.contains("larger queue_size"), "{error}");
    }

    #[test]
    fn neighbours_are_near_by_angle_and_of_other_images() {
        let (store, queue) = queue(&[[0., 9.], [4., 0.1], [5., 5.]]);
        let idx = Tensor::new(&[1i64, 2, 3], &Device::Cpu).unwrap();
        store.var("queue.idx").unwrap().set(&idx).unwrap();
        let keys = Tensor::new(&[[1f32, 0.]; 4], &Device::Cpu).unwrap();
        let found = queue.find(&keys, &[-1, -1, 2, 2], &[0, 1, 0, 2]).unwrap();
        let found: Vec<Vec<f32>> = found.to_vec2().unwrap();
        assert_eq!(found, [[4., 0.1], [5., 5.], [5., 5.], [4., 0.1]]);
        // Both ways find the same.
        let x = store.var("queue.x").unwrap();
        let cosines = of_length_one(&keys).unwrap();
        let cosines = cosines
            .matmul(&of_length_one(x.as_tensor()).unwrap().t().unwrap())
            .unwrap();
        let (indices, ranks) = ([-1, -1, 2, 2], [0, 1, 0, 2]);
        let here = queue.search(&cosines, &indices, &ranks).unwrap();
        let there = queue.search_there(&cosines, &indices, &ranks).unwrap();
        assert_eq!(
            here.to_vec1::<u32>().unwrap(),
            there.to_vec1::<u32>().unwrap()
        );
        assert!(queue.find(&keys, &[-1; 4], &[3; 4]).is_err());
    }
}
