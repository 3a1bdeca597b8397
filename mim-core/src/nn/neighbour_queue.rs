//! A queue of earlier outputs for nearest-neighbour look-up.

use candle_core::{D, DType, Device, Tensor, Var};

use crate::params::{Draw, Params};
use crate::{Error, Result, ops};

/// Smaller lengths count as this.
const LEAST_LENGTH: f64 = 1e-12;
/// The cosine assigned to rows of the same image.
const OF_OWN: f32 = -1.;

/// Rows with the index and the class of their images.
#[derive(Debug, Clone, Copy)]
pub struct QueueEntry<'a> {
    /// `[rows, dim]`.
    pub rows: &'a Tensor,
    /// Image indices in the data set, `[rows]` i64; -1 if unknown.
    pub indices: &'a Tensor,
    /// Classes `[rows]` i64; -1 if there is none.
    pub labels: &'a Tensor,
}

/// A first-in, first-out queue of rows from earlier steps (NNCLR, Dwibedi et al., ICCV 2021).
///
/// Its state is buffers, so checkpoints hold it.
#[derive(Debug, Clone)]
pub struct NeighbourQueue {
    x: Var,
    idx: Var,
    cls: Var,
    age: Var,
    ptr: Var,
}

impl NeighbourQueue {
    /// Buffers: the rows `x` `[size, dim]`, initialised by normal draws; image indices `idx`, classes `cls` and `age`,
    /// each `[size]`; the next position `ptr` `[1]`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if `size` or `dim` is 0.
    pub fn new(params: &Params, size: usize, dim: usize) -> Result<Self> {
        if size == 0 || dim == 0 {
            let (why, fix) = (
                "a queue needs at least one row of one value",
                "use 65536, for example",
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

    /// Finds rows of the queue near each of `keys` `[rows, dim]` by cosine similarity, without gradient.
    /// `ranks[row]` selects the neighbour; 0 is the nearest. Rows of the same image (index `indices[row]`, unless -1)
    /// count as the furthest.
    ///
    /// # Errors
    ///
    /// If a shape does not match, or a rank is not below the size.
    pub fn find(&self, keys: &Tensor, indices: &[i64], ranks: &[usize]) -> Result<Tensor> {
        let (rows, size) = (keys.dim(0)?, self.idx.dim(0)?);
        if rows != indices.len() || rows != ranks.len() || ranks.iter().any(|rank| *rank >= size) {
            return Err(Error::shape(
                "looking up a queue",
                format!("{rows} numbers and ranks below {size}"),
                (indices.len(), ranks),
                "give one index and one rank per row, and a queue of at least topk rows",
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

    /// Positions of the neighbours for `cosines` `[rows, size]`, computed on the host.
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

    /// The same on the device, without waiting for a GPU: takes the maximum of each row once per rank.
    fn search_there(&self, cosines: &Tensor, indices: &[i64], ranks: &[usize]) -> Result<Tensor> {
        let ((rows, size), device) = (cosines.dims2()?, cosines.device());
        // No image has index -2.
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

    /// Overwrites the oldest rows.
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
                format!("1 to {size} rows, each with an index and a class"),
                (count, entry.indices.dims(), entry.labels.dims()),
                "use a larger queue_size or a smaller batch",
            ));
        }
        // No value is read back here, so nothing waits for a GPU.
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
    fn the_oldest_rows_are_overwritten_and_the_position_wraps_around() {
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
    fn neighbours_are_nearest_by_angle_and_from_other_images() {
        let (store, queue) = queue(&[[0., 9.], [4., 0.1], [5., 5.]]);
        let idx = Tensor::new(&[1i64, 2, 3], &Device::Cpu).unwrap();
        store.var("queue.idx").unwrap().set(&idx).unwrap();
        let keys = Tensor::new(&[[1f32, 0.]; 4], &Device::Cpu).unwrap();
        let found = queue.find(&keys, &[-1, -1, 2, 2], &[0, 1, 0, 2]).unwrap();
        let found: Vec<Vec<f32>> = found.to_vec2().unwrap();
        assert_eq!(found, [[4., 0.1], [5., 5.], [5., 5.], [4., 0.1]]);
        // Both searches find the same.
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
