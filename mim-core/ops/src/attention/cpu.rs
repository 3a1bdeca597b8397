//! f32 kernels of attention: one task per head and image, without transposed copies.

#![expect(unsafe_code, reason = "heads write interleaved columns of one output")]

use candle_core::Result;
use rayon::prelude::*;

use crate::matmul::{Accumulate, Destination, Matrix, multiply};
use crate::precision::Precision;
use crate::simd::multiversion;
use crate::softmax::{backward_rows, forward_rows};

/// Sizes of an attention layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    /// Query tokens per image.
    pub(crate) queries: usize,
    /// Key tokens per image.
    pub(crate) keys: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
}

/// Bias of the scores, `[images, heads, tokens, tokens]`; the first two axes are used cyclically.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bias<'a> {
    pub(super) values: &'a [f32],
    pub(super) images: usize,
    pub(super) heads: usize,
}

/// Queries, keys and values, packed in one array or in two.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Inputs<'a> {
    /// `[batch, tokens, 3, heads, head_dim]`.
    Packed(&'a [f32]),
    /// `[batch, queries, heads, head_dim]` and `[batch, keys, 2, heads, head_dim]`.
    Apart(&'a [f32], &'a [f32]),
}

/// Which of queries, keys and values, in packing order.
#[derive(Debug, Clone, Copy)]
enum Part {
    Query,
    Key,
    Value,
}

impl Sizes {
    fn dim(self) -> usize {
        self.heads * self.head_dim
    }

    fn scores(self) -> usize {
        self.queries * self.keys
    }

    /// Layout of part `index` of the `parts` parts that lie side by side in `rows` rows per image.
    fn place(self, rows: usize, index: usize, parts: usize) -> Place {
        Place {
            rows,
            start: index * self.dim(),
            row_stride: parts * self.dim(),
            heads: self.heads,
            head_dim: self.head_dim,
        }
    }

    /// Layout of the output, `[batch, queries, heads, head_dim]`.
    fn attended(self) -> Place {
        self.place(self.queries, 0, 1)
    }

    /// One task per head and image.
    fn tasks(self) -> usize {
        self.batch * self.heads
    }

    /// Where the scores of one head are written.
    fn square_of(self, values: &mut [f32]) -> Destination<'static> {
        Destination {
            start: values.as_mut_ptr(),
            row_stride: self.keys,
            init: Accumulate::Zero,
        }
    }

    fn square(self, values: &[f32]) -> Result<Matrix<'_>> {
        Matrix::dense(values, self.queries, self.keys)
    }
}

/// Layout of the heads of one part: side by side in the rows of one array.
#[derive(Debug, Clone, Copy)]
struct Place {
    rows: usize,
    start: usize,
    row_stride: usize,
    heads: usize,
    head_dim: usize,
}

impl Place {
    /// Offset of one head of one image.
    fn offset(self, task: usize) -> usize {
        let (image, head) = (task / self.heads, task % self.heads);
        image * self.rows * self.row_stride + self.start + head * self.head_dim
    }

    fn head(self, xs: &[f32], task: usize) -> Result<Matrix<'_>> {
        let from = &xs[self.offset(task)..];
        Matrix::new(from, [self.rows, self.head_dim], self.row_stride)
    }
}

impl<'a> Inputs<'a> {
    fn arrays(self) -> [&'a [f32]; 2] {
        match self {
            Self::Packed(qkv) => [qkv, &[]],
            Self::Apart(q, kv) => [q, kv],
        }
    }

    /// Index of the array that holds a part, and the layout inside it.
    fn locate(self, part: Part, sizes: Sizes) -> (usize, Place) {
        match (self, part) {
            (Self::Packed(_), part) => (0, sizes.place(sizes.keys, part as usize, 3)),
            (Self::Apart(..), Part::Query) => (0, sizes.place(sizes.queries, 0, 1)),
            (Self::Apart(..), Part::Key) => (1, sizes.place(sizes.keys, 0, 2)),
            (Self::Apart(..), Part::Value) => (1, sizes.place(sizes.keys, 1, 2)),
        }
    }

    fn head(self, part: Part, sizes: Sizes, task: usize) -> Result<Matrix<'a>> {
        let (array, place) = self.locate(part, sizes);
        place.head(self.arrays()[array], task)
    }
}

/// An output whose heads are written by different threads; each thread writes its own columns.
#[derive(Clone, Copy)]
struct Interleaved {
    start: *mut f32,
    place: Place,
}

// SAFETY: the pointer is used only through `head`, by one thread per head.
unsafe impl Sync for Interleaved {}

impl Interleaved {
    fn head(&self, task: usize) -> Destination<'static> {
        Destination {
            start: self.start.wrapping_add(self.place.offset(task)),
            row_stride: self.place.row_stride,
            init: Accumulate::Zero,
        }
    }
}

multiversion! {
    fn add(out: &mut [f32], xs: &[f32]) {
        for (out, x) in out.iter_mut().zip(xs) {
            *out += x;
        }
    }
}

/// One call of attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(super) inputs: Inputs<'a>,
    pub(super) bias: Option<Bias<'a>>,
    pub(super) scale: f32,
    pub(super) sizes: Sizes,
    /// Precision of the calling thread; worker threads do not know it.
    pub(super) precision: Precision,
}

impl Call<'_> {
    /// Attention weights of one head of one image, `[queries, keys]`.
    fn weights(&self, task: usize, weights: &mut [f32]) -> Result<()> {
        let Self { inputs, sizes, .. } = *self;
        let query = inputs.head(Part::Query, sizes, task)?;
        let key = inputs.head(Part::Key, sizes, task)?;
        let own = sizes.square_of(weights);
        // SAFETY: `weights` holds queries x keys values and belongs to this task alone.
        unsafe { multiply(own, self.scale, query, key.transposed(), self.precision)? };
        if let Some(bias) = self.bias {
            let (image, head) = (task / sizes.heads, task % sizes.heads);
            let chunk = image % bias.images * bias.heads + head % bias.heads;
            add(weights, &bias.values[chunk * sizes.scores()..]);
        }
        forward_rows(weights, sizes.keys);
        Ok(())
    }

    /// The output, `[batch, queries, dim]`.
    pub(crate) fn forward(&self) -> Result<Vec<f32>> {
        let sizes = self.sizes;
        let len = sizes.batch * sizes.queries * sizes.dim();
        let mut out = Vec::<f32>::with_capacity(len);
        let to = Interleaved {
            start: out.as_mut_ptr(),
            place: sizes.attended(),
        };
        (0..sizes.tasks()).into_par_iter().try_for_each_init(
            || vec![0f32; sizes.scores()],
            |weights, task| {
                self.weights(task, weights)?;
                let value = self.inputs.head(Part::Value, sizes, task)?;
                let weights = sizes.square(weights)?;
                // SAFETY: `out` holds the columns of every head; this task writes only its own.
                unsafe { multiply(to.head(task), 1.0, weights, value, self.precision) }
            },
        )?;
        // SAFETY: the capacity is `len`, and every head of every image has written its values.
        unsafe { out.set_len(len) };
        Ok(out)
    }

    /// The gradient of each input array, and of the scores `[batch, heads, queries, keys]` if `keep`.
    ///
    /// The weights are computed again: for long images, storing them would take more memory than everything else.
    pub(crate) fn backward(&self, grad: &[f32], keep: bool) -> Result<([Vec<f32>; 2], Vec<f32>)> {
        let sizes = self.sizes;
        let mut outs = self
            .inputs
            .arrays()
            .map(|xs| Vec::<f32>::with_capacity(xs.len()));
        let [query, key, value] = [Part::Query, Part::Key, Part::Value].map(|part| {
            let (array, place) = self.inputs.locate(part, sizes);
            let start = outs[array].as_mut_ptr();
            Interleaved { start, place }
        });
        let head = |task: usize, weights: &mut [f32], scores: &mut [f32]| {
            let to = [query.head(task), key.head(task), value.head(task)];
            self.backward_head(task, grad, to, [weights, scores])
        };
        let scratch = || vec![0f32; sizes.scores()];
        let mut kept = vec![
            0f32;
            if keep {
                sizes.tasks() * sizes.scores()
            } else {
                0
            }
        ];
        if keep {
            kept.par_chunks_mut(sizes.scores())
                .enumerate()
                .try_for_each_init(scratch, |weights, (task, scores)| {
                    head(task, weights, scores)
                })?;
        } else {
            (0..sizes.tasks()).into_par_iter().try_for_each_init(
                || (scratch(), scratch()),
                |(weights, scores), task| head(task, weights, scores),
            )?;
        }
        for (out, xs) in outs.iter_mut().zip(self.inputs.arrays()) {
            // SAFETY: the capacity equals the size of the input, and every head of every image has written its
            // values.
            unsafe { out.set_len(xs.len()) };
        }
        Ok((outs, kept))
    }

    /// The gradients of one head of one image: those of queries, keys and values go to `to`, then those of the scores.
    fn backward_head(
        &self,
        task: usize,
        grad: &[f32],
        to: [Destination<'_>; 3],
        [weights, scores]: [&mut [f32]; 2],
    ) -> Result<()> {
        let (sizes, precision) = (self.sizes, self.precision);
        let part = |part| self.inputs.head(part, sizes, task);
        let grad = sizes.attended().head(grad, task)?;
        self.weights(task, weights)?;
        let own = sizes.square_of(scores);
        // SAFETY: `scores` holds queries x keys values, and each destination one head's rows; all belong to
        // this task alone.
        unsafe {
            let turned = sizes.square(weights)?.transposed();
            multiply(to[2], 1.0, turned, grad, precision)?;
            multiply(own, 1.0, grad, part(Part::Value)?.transposed(), precision)?;
        }
        backward_rows(weights, scores, sizes.keys);
        let scores = sizes.square(scores)?;
        // SAFETY: as above.
        unsafe {
            multiply(to[0], self.scale, scores, part(Part::Key)?, precision)?;
            let query = part(Part::Query)?;
            multiply(to[1], self.scale, scores.transposed(), query, precision)
        }
    }
}

/// Sums the score gradients that share a bias, over the images first, in order.
pub(super) fn backward_bias(scores: &[f32], [images, heads]: [usize; 2], sizes: Sizes) -> Vec<f32> {
    let mut out = vec![0f32; images * heads * sizes.scores()];
    out.par_chunks_mut(sizes.scores())
        .enumerate()
        .for_each(|(chunk, out)| {
            for image in (chunk / heads..sizes.batch).step_by(images) {
                for head in (chunk % heads..sizes.heads).step_by(heads) {
                    add(
                        out,
                        &scores[(image * sizes.heads + head) * sizes.scores()..],
                    );
                }
            }
        });
    out
}
