//! f32 kernels of attention: one task a head of an image, no transposed copies.

#![expect(unsafe_code, reason = "heads write interleaved columns of one output")]

use candle_core::Result;
use rayon::prelude::*;

use crate::ops::matmul::{Destination, Matrix, multiply};
use crate::ops::simd::multiversion;
use crate::ops::softmax::{backward_rows, forward_rows};

/// Sizes of an attention layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) tokens: usize,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
}

/// What is added to the scores: `[images, heads, tokens, tokens]`, either count 1 or full.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bias<'a> {
    pub(super) values: &'a [f32],
    pub(super) images: usize,
    pub(super) heads: usize,
}

/// The three parts of a packed row, in their order.
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
        self.tokens * self.tokens
    }

    /// Offset of a head's part in the packed `[batch, tokens, 3, heads, head_dim]`.
    fn packed_offset(self, task: usize, part: Part) -> usize {
        let (image, head) = (task / self.heads, task % self.heads);
        (image * self.tokens * 3 + part as usize) * self.dim() + head * self.head_dim
    }

    /// Offset of a head in `[batch, tokens, heads, head_dim]`.
    fn offset(self, task: usize) -> usize {
        task / self.heads * self.tokens * self.dim() + task % self.heads * self.head_dim
    }

    fn packed(self, qkv: &[f32], task: usize, part: Part) -> Result<Matrix<'_>> {
        Matrix::new(
            &qkv[self.packed_offset(task, part)..],
            [self.tokens, self.head_dim],
            3 * self.dim(),
        )
    }

    fn head(self, xs: &[f32], task: usize) -> Result<Matrix<'_>> {
        let from = &xs[self.offset(task)..];
        Matrix::new(from, [self.tokens, self.head_dim], self.dim())
    }

    fn square(self, values: &[f32]) -> Result<Matrix<'_>> {
        Matrix::dense(values, self.tokens, self.tokens)
    }

    /// Calls `f` for every head of every image, with its chunk of `squares` or with scratch.
    fn each_head(
        self,
        squares: &mut [f32],
        f: impl Fn(usize, &mut [f32]) -> Result<()> + Sync,
    ) -> Result<()> {
        if squares.is_empty() {
            (0..self.batch * self.heads)
                .into_par_iter()
                .try_for_each_init(|| vec![0f32; self.scores()], |own, task| f(task, own))
        } else {
            squares
                .par_chunks_mut(self.scores())
                .enumerate()
                .try_for_each(|(task, own)| f(task, own))
        }
    }
}

/// An output whose heads are written by different threads, each its own columns.
#[derive(Clone, Copy)]
struct Interleaved {
    start: *mut f32,
    row_stride: usize,
}

// SAFETY: the pointer is only used through `head`, by one thread for each head.
unsafe impl Sync for Interleaved {}

impl Interleaved {
    fn head(&self, offset: usize) -> Destination {
        Destination {
            start: self.start.wrapping_add(offset),
            row_stride: self.row_stride,
            accumulate: false,
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

/// The attended values `[batch, tokens, dim]`, and the weights `[batch, heads, tokens, tokens]`
/// if they are to be kept.
pub(super) fn forward(
    qkv: &[f32],
    bias: Option<Bias<'_>>,
    scale: f32,
    sizes: Sizes,
    keep: bool,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let tasks = sizes.batch * sizes.heads;
    let mut out = vec![0f32; sizes.batch * sizes.tokens * sizes.dim()];
    let mut weights = vec![0f32; if keep { tasks * sizes.scores() } else { 0 }];
    let to = Interleaved {
        start: out.as_mut_ptr(),
        row_stride: sizes.dim(),
    };
    sizes.each_head(&mut weights, |task, weights| {
        let query = sizes.packed(qkv, task, Part::Query)?;
        let key = sizes.packed(qkv, task, Part::Key)?;
        let own = Destination {
            start: weights.as_mut_ptr(),
            row_stride: sizes.tokens,
            accumulate: false,
        };
        // SAFETY: `weights` holds tokens x tokens values and is this task's alone.
        unsafe { multiply(own, scale, query, key.transposed())? };
        if let Some(bias) = bias {
            let (image, head) = (task / sizes.heads, task % sizes.heads);
            let chunk = image % bias.images * bias.heads + head % bias.heads;
            add(weights, &bias.values[chunk * sizes.scores()..]);
        }
        forward_rows(weights, sizes.tokens);
        let value = sizes.packed(qkv, task, Part::Value)?;
        // SAFETY: `out` holds every head's columns, and these are this task's alone.
        unsafe {
            multiply(
                to.head(sizes.offset(task)),
                1.0,
                sizes.square(weights)?,
                value,
            )
        }
    })?;
    Ok((out, weights))
}

/// The gradient of `qkv`, and of the scores `[batch, heads, tokens, tokens]` if they are to be kept.
pub(super) fn backward(
    qkv: &[f32],
    weights: &[f32],
    grad: &[f32],
    scale: f32,
    sizes: Sizes,
    keep: bool,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let mut out = vec![0f32; qkv.len()];
    let mut scores = vec![0f32; if keep { weights.len() } else { 0 }];
    let to = Interleaved {
        start: out.as_mut_ptr(),
        row_stride: 3 * sizes.dim(),
    };
    sizes.each_head(&mut scores, |task, scores| {
        let part = |part| sizes.packed(qkv, task, part);
        let to = |part| to.head(sizes.packed_offset(task, part));
        let grad = sizes.head(grad, task)?;
        let weights = &weights[task * sizes.scores()..(task + 1) * sizes.scores()];
        let own = Destination {
            start: scores.as_mut_ptr(),
            row_stride: sizes.tokens,
            accumulate: false,
        };
        // SAFETY: `scores` holds tokens x tokens values, `out` every head's columns of each part;
        // both are this task's alone.
        unsafe {
            multiply(
                to(Part::Value),
                1.0,
                sizes.square(weights)?.transposed(),
                grad,
            )?;
            multiply(own, 1.0, grad, part(Part::Value)?.transposed())?;
        }
        backward_rows(weights, scores, sizes.tokens);
        let scores = sizes.square(scores)?;
        // SAFETY: as above.
        unsafe {
            multiply(to(Part::Query), scale, scores, part(Part::Key)?)?;
            multiply(
                to(Part::Key),
                scale,
                scores.transposed(),
                part(Part::Query)?,
            )
        }
    })?;
    Ok((out, scores))
}

/// Adds up the gradients of the scores that share a bias, images first, in their order.
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
