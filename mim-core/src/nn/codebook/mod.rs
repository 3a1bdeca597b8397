//! Vector quantisation with a moving-average codebook.

mod config;
mod update;

use candle_core::{D, DType, Tensor, Var};

pub use config::{CodeMetric, CodebookConfig};

use crate::comm::Reduce;
use crate::ops::{Precision, with_precision};
use crate::params::{Draw, Params};
use crate::{Error, Result, StepContext, ops};

/// Vectors compared with all codes at a time.
const ROWS: usize = 4096;
/// Smaller squared lengths count as this value, which is still a normal f32.
const SMALLEST_SQUARE: f64 = 1e-24;

/// Scales the vectors along the last axis of `[..., dim]` to length 1, with gradients; zero stays zero.
///
/// # Errors
///
/// Fails only if the device does.
pub fn unit(xs: &Tensor) -> Result<Tensor> {
    let squares = xs.sqr()?.sum_keepdim(D::Minus1)?;
    Ok(xs.broadcast_div(&squares.maximum(SMALLEST_SQUARE)?.sqrt()?)?)
}

/// A quantised batch.
#[derive(Debug, Clone)]
pub struct Quantized {
    /// The nearest code of each vector, `[rows]` u32.
    pub codes: Tensor,
    /// The values of these codes, `[rows, dim]`; straight-through, their gradient goes to the vectors.
    pub vectors: Tensor,
    /// Mean squared distance of the vectors from their codes: a scalar whose gradient goes to the vectors only, as
    /// codes are not trained by gradients.
    pub commitment: Tensor,
    /// Codebook usage over the batch of all processes.
    pub usage: CodeUsage,
}

/// Codebook usage by a batch; scalars without gradient.
#[derive(Debug, Clone)]
pub struct CodeUsage {
    /// Share of the codes chosen at least once.
    pub live: Tensor,
    /// `exp` of the entropy of the chosen codes: the number of equally frequent codes with the same diversity.
    pub perplexity: Tensor,
}

impl CodeUsage {
    /// Usage of `size` codes by the joint batch of all processes, given this process's `codes` `[rows]` u32.
    ///
    /// # Errors
    ///
    /// Fails if a process cannot be reached.
    pub fn of_codes(codes: &Tensor, size: usize, step: &StepContext) -> Result<Self> {
        let ones = Tensor::ones(codes.dim(0)?, DType::F32, codes.device())?;
        let counts = Tensor::zeros(size, DType::F32, codes.device())?.index_add(codes, &ones, 0)?;
        Self::of_counts(&step.comm.all_reduce(&counts, Reduce::Sum)?)
    }

    /// Live share and perplexity of counts `[size]`.
    fn of_counts(counts: &Tensor) -> Result<Self> {
        let shares = counts.broadcast_div(&counts.sum_all()?)?;
        // 0 ln 0 is 0.
        let entropy = (&shares * shares.maximum(1e-20)?.log()?)?
            .sum_all()?
            .neg()?;
        Ok(Self {
            live: counts.gt(0f32)?.to_dtype(DType::F32)?.mean_all()?,
            perplexity: entropy.exp()?,
        })
    }
}

/// A codebook whose codes are moving averages of the vectors assigned to them; gradients do not train it
/// (van den Oord et al., NeurIPS 2017, appendix A.1; BEiT v2: Peng et al., 2022, `norm_ema_quantizer.py`).
///
/// Its state is buffers of the store. Processes that train together have identical codes, because counts and sums
/// are those of their joint batch.
#[derive(Debug, Clone)]
pub struct Codebook {
    config: CodebookConfig,
    /// `[size, dim]`.
    codes: Var,
    /// Moving counts `[size]`.
    counts: Var,
    /// Moving sums `[size, dim]`; only for the Euclidean metric.
    sums: Option<Var>,
    /// `[1]`: 1 once k-means has run.
    started: Option<Var>,
}

impl Codebook {
    /// Buffers `embedding` `[size, dim]` and `cluster_size` `[size]`; with the Euclidean metric also `embed_avg`
    /// `[size, dim]`, and with k-means also `initted` `[1]`.
    ///
    /// Codes are drawn from a normal distribution and have length 1 with the cosine metric, otherwise a deviation of
    /// `1 / sqrt(dim)`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid or a name is taken.
    pub fn new(params: &Params, config: &CodebookConfig) -> Result<Self> {
        config.validate()?;
        let (size, dim, device) = (config.size, config.dim, params.device());
        #[expect(clippy::cast_possible_truncation, reason = "values are f32")]
        let std = (dim as f64).powf(-0.5) as f32;
        let codes = params.drawn("embedding", &[size, dim], Draw::Normal { std })?;
        let (count, sums) = match config.metric {
            CodeMetric::Cosine => {
                codes.set(&unit(&codes.as_detached_tensor())?)?;
                (Tensor::zeros(size, DType::F32, device)?, None)
            }
            CodeMetric::Euclidean { .. } => {
                let sums = params.buffer("embed_avg", codes.as_detached_tensor().copy()?)?;
                (Tensor::ones(size, DType::F32, device)?, Some(sums))
            }
        };
        let started = match config.kmeans {
            0 => None,
            _ => Some(params.buffer("initted", Tensor::zeros(1, DType::F32, device)?)?),
        };
        Ok(Self {
            config: config.clone(),
            codes,
            counts: params.buffer("cluster_size", count)?,
            sums,
            started,
        })
    }

    /// The settings.
    pub fn config(&self) -> &CodebookConfig {
        &self.config
    }

    /// The index of the code nearest to each of `vectors` `[rows, dim]`, `[rows]` u32; ties go to the lowest index.
    ///
    /// Products are f32 at every training precision: in bf16 many indices would differ.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for vectors of another width.
    pub fn nearest(&self, vectors: &Tensor) -> Result<Tensor> {
        let vectors = self.compared(&vectors.detach())?;
        nearest(&vectors, &self.codes.as_detached_tensor())
    }

    /// The values of `codes` `[rows]`, `[rows, dim]`, without gradient.
    ///
    /// # Errors
    ///
    /// If an index is not a code.
    pub fn lookup(&self, codes: &Tensor) -> Result<Tensor> {
        Ok(ops::gather_rows(&self.codes.as_detached_tensor(), codes)?)
    }

    /// Replaces each of `vectors` `[rows, dim]` by its nearest code.
    ///
    /// A training step then moves the codes towards the vectors; the returned values are those before the move.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for vectors of another width, or if a process cannot be reached.
    pub fn quantize(&self, vectors: &Tensor, step: &StepContext) -> Result<Quantized> {
        let vectors = self.compared(vectors)?;
        let plain = vectors.detach();
        if step.training {
            self.start(&plain, step)?;
        }
        let codes = nearest(&plain, &self.codes.as_detached_tensor())?;
        let chosen = self.lookup(&codes)?;
        let counted = self.count(&plain, &codes, step)?;
        let usage = CodeUsage::of_counts(&counted.counts)?;
        if step.training {
            self.follow(&counted)?;
            self.restart(&plain, step)?;
        }
        Ok(Quantized {
            codes,
            commitment: (&vectors - &chosen)?.sqr()?.mean_all()?,
            vectors: (&vectors + (&chosen - &plain)?)?,
            usage,
        })
    }

    /// Vectors in the form that is compared with codes.
    fn compared(&self, vectors: &Tensor) -> Result<Tensor> {
        if vectors.rank() != 2 || vectors.dim(1)? != self.config.dim || vectors.dim(0)? == 0 {
            return Err(Error::shape(
                "vectors for a codebook",
                format!("[rows, {}], the width of its codes", self.config.dim),
                vectors.dims(),
                "map the tokens to the codebook's `dim`",
            ));
        }
        let vectors = vectors.to_dtype(DType::F32)?;
        match self.config.metric {
            CodeMetric::Cosine => unit(&vectors),
            CodeMetric::Euclidean { .. } => Ok(vectors),
        }
    }

    /// Counts and sums of the joint batch.
    fn count(&self, vectors: &Tensor, codes: &Tensor, step: &StepContext) -> Result<Counted> {
        let (rows, device) = (vectors.dim(0)?, vectors.device());
        let ones = Tensor::ones((rows, 1), DType::F32, device)?;
        // One all-reduce for both.
        let all = Tensor::cat(&[vectors, &ones], 1)?;
        let zeros = Tensor::zeros((self.config.size, self.config.dim + 1), DType::F32, device)?;
        let all = zeros.index_add(codes, &all, 0)?;
        let all = match step.training {
            true => step.comm.all_reduce(&all, Reduce::Sum)?,
            false => all,
        };
        Ok(Counted {
            sums: all.narrow(1, 0, self.config.dim)?,
            counts: all.narrow(1, self.config.dim, 1)?.squeeze(1)?,
        })
    }
}

/// Sums and counts of the vectors assigned to each code.
struct Counted {
    /// `[size, dim]`.
    sums: Tensor,
    /// `[size]`.
    counts: Tensor,
}

/// The index of the nearest of `codes` `[size, dim]` for each of `vectors` `[rows, dim]`.
fn nearest(vectors: &Tensor, codes: &Tensor) -> Result<Tensor> {
    // |z - e|^2 without |z|^2, which is the same for all codes.
    let squares = codes.sqr()?.sum(1)?;
    let doubled = (codes * -2.)?;
    let rows = vectors.dim(0)?;
    let mut found = Vec::with_capacity(rows.div_ceil(ROWS));
    for first in (0..rows).step_by(ROWS) {
        let part = vectors.narrow(0, first, ROWS.min(rows - first))?;
        let scores = with_precision(Precision::F32, || {
            ops::linear(&part.contiguous()?, &doubled, Some(&squares))
        })?;
        found.push(scores.argmin(1)?);
    }
    Ok(Tensor::cat(&found, 0)?)
}

#[cfg(test)]
mod tests;
