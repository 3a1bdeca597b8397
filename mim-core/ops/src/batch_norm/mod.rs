//! Batch normalisation with batch statistics.

mod all_reduce_sum;
mod cpu;
mod gpu;
mod reference;

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Shape, Tensor};

use super::cpu_slices::{expect_shape, floats, is_f32_on_cpu, last_axis, operand};
use super::gpu::is_supported;
use super::grad_accumulator::{accumulate_values_or_return, mark_collective};
use super::profile::{Pass, timer};
use crate::{Error, Result};
pub use all_reduce_sum::{AllReduceSum, sum_over_all};

/// Normalised values and the statistics used.
#[derive(Debug, Clone)]
pub struct BatchNormOutput {
    /// The values, in the shape of the input.
    pub ys: Tensor,
    /// Mean of each channel, `[dim]`, without gradient.
    pub mean: Tensor,
    /// Biased variance of each channel, `[dim]`, without gradient.
    pub variance: Tensor,
}

/// `(x - mean) / √(var + eps) * weight + bias`, with mean and biased variance over all axes but the last.
///
/// `xs` is `[..., dim]`, `weight` and `bias` are `[dim]`. Ioffe and Szegedy (arXiv:1502.03167).
///
/// # Errors
///
/// [`Error::Shape`](crate::Error::Shape) if the last axis is missing or empty, or weight or bias
/// do not match it.
pub fn batch_norm(
    xs: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<BatchNormOutput> {
    normalise(xs, (weight, bias), eps, None)
}

/// [`batch_norm`] of `xs` `[..., dim]` with `(weight, bias)`, both `[dim]`, and with statistics over the rows of all processes
/// of `comm`. Every process must have the same number of rows.
///
/// Gradients are those of the sum of all losses. For weight and bias, each process gets the share of its own rows.
///
/// # Errors
///
/// As [`batch_norm`]; also fails if a process cannot be reached.
pub fn sync_batch_norm(
    xs: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    eps: f64,
    comm: &Arc<dyn AllReduceSum>,
) -> Result<BatchNormOutput> {
    let comm = (comm.world() > 1).then_some(comm);
    normalise(xs, (weight, bias), eps, comm)
}

fn normalise(
    xs: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    eps: f64,
    comm: Option<&Arc<dyn AllReduceSum>>,
) -> Result<BatchNormOutput> {
    let width = last_axis("batch_norm", xs)?;
    expect_shape("batch_norm", "weight", weight, &[width])?;
    expect_shape("batch_norm", "bias", bias, &[width])?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernels compute in f32"
    )]
    let narrow = eps as f32;
    if comm.is_none() && is_supported(&[xs, weight, bias]) {
        return Ok(gpu::batch_norm(xs, [weight, bias], narrow)?);
    }
    if !is_f32_on_cpu(&[xs, weight, bias]) || xs.elem_count() == 0 {
        return reference::batch_norm(xs, (weight, bias), eps, comm);
    }
    let (xs, weight, bias) = (xs.contiguous()?, weight.contiguous()?, bias.contiguous()?);
    let comm = comm.cloned();
    let group = (comm.as_ref().map_or(1, |comm| comm.world()), |sums| {
        over_all(comm.as_ref(), sums)
    });
    let columns = cpu::columns(&floats(&xs)?, width, narrow, group)?;
    let row = |values: &[f32]| Tensor::from_slice(values, width, xs.device());
    Ok(BatchNormOutput {
        mean: row(&columns.mean)?,
        variance: row(&columns.variance)?,
        ys: xs.apply_op3(&weight, &bias, BatchNorm { columns, comm })?,
    })
}

/// The sums over all processes.
fn over_all(comm: Option<&Arc<dyn AllReduceSum>>, sums: Vec<f32>) -> Result<Vec<f32>> {
    let Some(comm) = comm else {
        return Ok(sums);
    };
    let sums = Tensor::new(sums, &Device::Cpu)?;
    let sums = comm.all_reduce_sum(&sums).map_err(Error::AllReduce)?;
    Ok(sums.to_vec1()?)
}

struct BatchNorm {
    columns: cpu::Columns,
    comm: Option<Arc<dyn AllReduceSum>>,
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_l: &Layout,
        weight: &CpuStorage,
        weight_l: &Layout,
        bias: &CpuStorage,
        bias_l: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let _timer = timer("batch_norm", Pass::Forward, xs_l.dims(), 0.);
        let affine = (operand(weight, weight_l)?, operand(bias, bias_l)?);
        let ys = cpu::forward(operand(xs, xs_l)?, &self.columns, affine);
        Ok((CpuStorage::F32(ys), xs_l.shape().clone()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let _timer = timer("batch_norm", Pass::Backward, xs.dims(), 0.);
        let grad = grad.contiguous()?;
        let (values, grad) = (floats(xs)?, floats(&grad)?);
        let (dw, db) = cpu::backward_affine(&values, &self.columns, &grad);
        let mut dx = None;
        if xs.track_op() {
            let weight = floats(weight)?;
            if self.comm.is_some() {
                mark_collective();
            }
            let sums = over_all(self.comm.as_ref(), [&dw[..], &db].concat());
            let sums = sums.map_err(candle_core::Error::wrap)?;
            let sums = sums.split_at(dw.len());
            let values = cpu::backward(&values, &self.columns, &weight, &grad, sums);
            dx = Some(Tensor::from_vec(values, xs.shape(), xs.device())?);
        }
        let row = |parameter: &Tensor, values| match parameter.track_op() {
            true => accumulate_values_or_return(parameter, values),
            false => Ok(None),
        };
        Ok((dx, row(weight, dw)?, row(bias, db)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Threads, check, check_repeats, random};
    use candle_core::Var;

    fn plain(xs: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<BatchNormOutput> {
        reference::batch_norm(xs, (weight, bias), 1e-5, None)
    }

    #[test]
    fn known_values() {
        let xs = Tensor::new(&[[1f32, 2.], [3., 2.]], &Device::Cpu).unwrap();
        let weight = Tensor::new(&[2f32, 3.], &Device::Cpu).unwrap();
        let bias = Tensor::new(&[0.5f32, 0.25], &Device::Cpu).unwrap();
        let normed = batch_norm(&xs, &weight, &bias, 0.0625).unwrap();
        assert_eq!(normed.mean.to_vec1::<f32>().unwrap(), [2., 2.]);
        assert_eq!(normed.variance.to_vec1::<f32>().unwrap(), [1., 0.]);
        // The first column is ±1 / √1.0625; the second has zero variance.
        let unit = 2. / 1.0625f32.sqrt();
        let found = normed.ys.to_vec2::<f32>().unwrap().concat();
        for (y, want) in found.iter().zip([0.5 - unit, 0.25, 0.5 + unit, 0.25]) {
            assert!((y - want).abs() < 1e-6, "{y} against {want}");
        }
    }

    #[test]
    fn follows_the_reference() {
        for shape in [&[3, 7][..], &[2, 3, 5], &[40, 5, 33], &[2, 197, 768]] {
            let width = shape[shape.len() - 1];
            let inputs = [random(1, shape), random(2, &[width]), random(3, &[width])];
            check(
                &inputs,
                1e-5,
                |t| Ok(batch_norm(&t[0], &t[1], &t[2], 1e-5)?.ys),
                |t| Ok(plain(&t[0], &t[1], &t[2])?.ys),
            );
            let (own, plain) = (
                batch_norm(&inputs[0], &inputs[1], &inputs[2], 1e-5).unwrap(),
                plain(&inputs[0], &inputs[1], &inputs[2]).unwrap(),
            );
            let [own, theirs] =
                [own, plain].map(|normed| Tensor::cat(&[normed.mean, normed.variance], 0).unwrap());
            let off = (own - theirs).unwrap().abs().unwrap().max(0).unwrap();
            assert!(off.to_scalar::<f32>().unwrap() < 1e-5);
        }
    }

    #[test]
    fn takes_strided_input() {
        let inputs = [random(1, &[6, 4, 3]), random(2, &[6]), random(3, &[6])];
        check(
            &inputs,
            1e-5,
            |t| Ok(batch_norm(&t[0].transpose(0, 2)?, &t[1], &t[2], 1e-5)?.ys),
            |t| Ok(plain(&t[0].transpose(0, 2)?, &t[1], &t[2])?.ys),
        );
    }

    #[test]
    fn refuses_wrong_weights() {
        let (xs, w) = (random(1, &[2, 4]), random(2, &[3]));
        let message = batch_norm(&xs, &w, &w, 1e-6).unwrap_err().to_string();
        assert!(
            message.contains("batch_norm weight: expected [4], got [3]"),
            "{message}"
        );
    }

    #[test]
    fn repeats_bit_for_bit() {
        let inputs = [random(1, &[5000, 48]), random(2, &[48]), random(3, &[48])];
        check_repeats(&inputs, |t| Ok(batch_norm(&t[0], &t[1], &t[2], 1e-5)?.ys));
    }

    type Norm =
        fn(&Tensor, (&Tensor, &Tensor), f64, &Arc<dyn AllReduceSum>) -> Result<BatchNormOutput>;

    /// Output and moments, then the gradients of rows, weight and bias for a random weighting of the output.
    fn all_of(
        norm: Norm,
        inputs: &[Tensor; 3],
        weighting: &Tensor,
        comm: &Arc<dyn AllReduceSum>,
    ) -> (Vec<Tensor>, Vec<Tensor>) {
        let vars = inputs.each_ref().map(|xs| Var::from_tensor(xs).unwrap());
        let normed = norm(&vars[0], (&vars[1], &vars[2]), 1e-5, comm).unwrap();
        let loss = (&normed.ys * weighting).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        let own = vars.iter().map(|var| gradients.get(var).unwrap().clone());
        (vec![normed.ys, normed.mean, normed.variance], own.collect())
    }

    fn assert_close(own: &Tensor, wanted: &Tensor) {
        let off = (own - wanted)
            .unwrap()
            .abs()
            .unwrap()
            .flatten_all()
            .unwrap();
        let off = off.max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(off < 2e-6, "{off}");
    }

    #[test]
    fn several_processes_normalise_as_one() {
        as_one(sync_batch_norm);
        as_one(|xs, affine, eps, comm| {
            let comm = (comm.world() > 1).then_some(comm);
            reference::batch_norm(xs, affine, eps, comm)
        });
    }

    fn as_one(norm: Norm) {
        let weighting = random(4, &[6, 2, 5]);
        let inputs = [random(1, &[6, 2, 5]), random(2, &[5]), random(3, &[5])];
        let (whole, gradients) = all_of(norm, &inputs, &weighting, &Threads::group(1)[0]);
        let share = |xs: &Tensor, rank| xs.narrow(0, 2 * rank, 2).unwrap();
        let found: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = Threads::group(3)
                .into_iter()
                .enumerate()
                .map(|(rank, comm)| {
                    let (inputs, weighting) = (&inputs, &weighting);
                    scope.spawn(move || {
                        let own = [
                            share(&inputs[0], rank),
                            inputs[1].clone(),
                            inputs[2].clone(),
                        ];
                        all_of(norm, &own, &share(weighting, rank), &comm)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        for (rank, (values, own)) in found.iter().enumerate() {
            assert_close(&values[0], &share(&whole[0], rank));
            assert_close(&values[1], &whole[1]);
            assert_close(&values[2], &whole[2]);
            assert_close(&own[0], &share(&gradients[0], rank));
        }
        for parameter in 1..3 {
            let sum = found[1..]
                .iter()
                .fold(found[0].1[parameter].clone(), |sum, (_, own)| {
                    (sum + &own[parameter]).unwrap()
                });
            assert_close(&sum, &gradients[parameter]);
        }
    }
}
