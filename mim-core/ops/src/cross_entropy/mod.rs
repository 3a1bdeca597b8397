//! Softmax cross-entropy of rows.

mod cpu;
mod gpu;
mod reference;

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Shape, Tensor, bail};

use super::cpu_slices::{accumulation_dtype, floats, is_f32_on_cpu, last_axis, operand};
use super::gpu::is_supported;
use super::profile::{Pass, timer};
use crate::{Error, Result};

/// `-log softmax(logits / temperature)[id]` of each row: `[rows, V]` and u32 `[rows]` give `[rows]`.
///
/// A logit of -inf excludes a class. The backward pass needs only three numbers per row.
///
/// # Errors
///
/// [`Error::Shape`] if the shapes do not match or, on the CPU, if an id is not a class. On a GPU the host does not
/// read the ids; a row with a wrong id becomes NaN. [`Error::InvalidArgument`] if the temperature is not positive.
pub fn cross_entropy(logits: &Tensor, ids: &Tensor, temperature: f64) -> Result<Tensor> {
    let (rows, classes, scale) = check(logits, temperature)?;
    if ids.dims() != [rows] || ids.dtype() != DType::U32 {
        return Err(Error::shape(
            "cross_entropy ids",
            format!("[{rows}] in u32"),
            (ids.dims(), ids.dtype()),
            "give the class of each row",
        ));
    }
    if is_supported(&[logits]) {
        return Ok(gpu::cross_entropy(logits, ids, scale)?);
    }
    if !logits.device().is_cpu() {
        return reference::cross_entropy(logits, ids, temperature);
    }
    let known = |id: &&u32| (**id as usize) < classes;
    if let Some(id) = ids.to_vec1::<u32>()?.iter().find(|id| !known(id)) {
        return Err(Error::shape(
            "cross_entropy ids",
            format!("ids below {classes}"),
            id,
            "give logits for as many classes as there are ids",
        ));
    }
    if is_f32_on_cpu(&[logits]) {
        let op = CrossEntropy::new(scale);
        return Ok(logits.contiguous()?.apply_op2(&ids.contiguous()?, op)?);
    }
    reference::cross_entropy(logits, ids, temperature)
}

/// `-Σ p log softmax(logits / temperature)` of each row: logits `[rows, V]` and targets p `[n, V]` give `[rows]`.
///
/// Row r uses target r % n, and `rows` is a multiple of n. Targets need not sum to 1. They may track gradients; then
/// plain candle operations are used, which store more. As in PyTorch, a logit of -inf gives NaN where its
/// target is 0.
///
/// # Errors
///
/// [`Error::Shape`] if the shapes do not match, [`Error::InvalidArgument`] if the temperature is not a positive
/// number.
pub fn soft_cross_entropy(logits: &Tensor, targets: &Tensor, temperature: f64) -> Result<Tensor> {
    let (rows, classes, scale) = check(logits, temperature)?;
    let fit = match *targets.dims() {
        [count, width] => width == classes && count > 0 && rows.is_multiple_of(count),
        _ => false,
    };
    if !fit || !targets.dtype().is_float() {
        return Err(Error::shape(
            "soft_cross_entropy targets",
            format!("[{rows}, {classes}] floats, or fewer rows that divide {rows}"),
            (targets.dims(), targets.dtype()),
            "give one probability for each class",
        ));
    }
    if targets.track_op() {
        return reference::soft_cross_entropy(logits, targets, temperature);
    }
    let targets = &targets.to_dtype(accumulation_dtype(logits.dtype()))?;
    if is_supported(&[logits, targets]) {
        return Ok(gpu::cross_entropy(logits, targets, scale)?);
    }
    if is_f32_on_cpu(&[logits, targets]) {
        let op = CrossEntropy::new(scale);
        return Ok(logits.contiguous()?.apply_op2(&targets.contiguous()?, op)?);
    }
    reference::soft_cross_entropy(logits, targets, temperature)
}

/// Number of rows, number of classes, and the reciprocal of the temperature.
fn check(logits: &Tensor, temperature: f64) -> Result<(usize, usize, f32)> {
    if temperature.is_nan() || temperature <= 0. {
        return Err(Error::argument(
            "cross_entropy",
            "temperature",
            temperature,
            "logits are divided by it",
            "use a positive number",
        ));
    }
    last_axis("cross_entropy", logits)?;
    let (rows, classes) = logits.dims2()?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernels compute in f32"
    )]
    let scale = temperature.recip() as f32;
    Ok((rows, classes, scale))
}

struct CrossEntropy {
    /// Logits are multiplied by this.
    scale: f32,
    found: OnceLock<Vec<cpu::Row>>,
}

impl CrossEntropy {
    fn new(scale: f32) -> Self {
        Self {
            scale,
            found: OnceLock::new(),
        }
    }
}

impl CustomOp2 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        l: &Layout,
        targets: &CpuStorage,
        targets_l: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let _timer = timer("cross_entropy", Pass::Forward, l.dims(), 0.);
        let (rows, width) = l.shape().dims2()?;
        let targets = match targets {
            CpuStorage::U32(ids) => cpu::Targets::Ids(
                &ids[targets_l.start_offset()..][..targets_l.shape().elem_count()],
            ),
            shares => cpu::Targets::Shares(operand(shares, targets_l)?),
        };
        let (losses, found) = cpu::forward(operand(logits, l)?, targets, width, self.scale);
        // An op value runs once, so the cell is empty.
        let _ = self.found.set(found);
        Ok((CpuStorage::F32(losses), rows.into()))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        _losses: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let _timer = timer("cross_entropy", Pass::Backward, logits.dims(), 0.);
        let Some(found) = self.found.get() else {
            bail!("cross_entropy: backward without forward");
        };
        let grad = grad.contiguous()?;
        let (ids, shares);
        let targets = match targets.dtype() {
            DType::U32 => {
                ids = targets.to_vec1()?;
                cpu::Targets::Ids(&ids)
            }
            _ => {
                shares = floats(targets)?;
                cpu::Targets::Shares(&shares)
            }
        };
        let dx = cpu::backward(
            &floats(logits)?,
            targets,
            found,
            &floats(&grad)?,
            self.scale,
        );
        let dx = Tensor::from_vec(dx, logits.shape(), logits.device())?;
        Ok((Some(dx), None))
    }
}

#[cfg(test)]
mod testing {
    use candle_core::{Device, Tensor};

    use crate::testing::random;

    pub(super) fn ids(rows: usize, classes: usize) -> Tensor {
        let ids = (0..rows).map(|row| u32::try_from((row * row * 7 + 3) % classes).unwrap());
        Tensor::from_iter(ids, &Device::Cpu).unwrap()
    }

    /// Targets from 0 to 4; a third of them are 0.
    pub(super) fn shares(rows: usize, classes: usize) -> Tensor {
        let values = random(17, &[rows, classes]);
        let thirds = (0..rows * classes).map(|at| f32::from(u8::from(at % 3 > 0)));
        let thirds = Tensor::from_iter(thirds, &Device::Cpu).unwrap();
        let thirds = thirds.reshape(values.shape()).unwrap();
        ((values + 2.).unwrap() * thirds).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{ids, shares};
    use super::*;
    use crate::testing::{check, check_repeats, random};
    use candle_core::{Device, Var};

    fn flat(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn known_values() {
        let logits = Tensor::new(&[[0f32, 3f32.ln() / 2.], [50., 0.]], &Device::Cpu).unwrap();
        let ids = Tensor::new(&[1u32, 1], &Device::Cpu).unwrap();
        let losses = flat(&cross_entropy(&logits, &ids, 0.5).unwrap());
        assert!((losses[0] - (4f32 / 3.).ln()).abs() < 1e-6 && losses[1] == 100.);
        // One target for both rows; it sums to 2.
        let targets = Tensor::new(&[[1f32, 1.]], &Device::Cpu).unwrap();
        let losses = flat(&soft_cross_entropy(&logits, &targets, 0.5).unwrap());
        let want = 4f32.ln() + (4f32 / 3.).ln();
        assert!((losses[0] - want).abs() < 1e-6 && losses[1] == 100.);
    }

    #[test]
    fn follows_the_reference() {
        for (rows, width, temperature) in [
            (1, 1, 1.0),
            (4, 1, 0.5),
            (1, 9, 0.1),
            (7, 50, 3.0),
            (130, 197, 1.0),
            (6, 3000, 0.04),
        ] {
            let logits = [(random(1, &[rows, width]) * 3.0).unwrap()];
            let ids = ids(rows, width);
            check(
                &logits,
                5e-6,
                |t| cross_entropy(&t[0], &ids, temperature),
                |t| reference::cross_entropy(&t[0], &ids, temperature),
            );
            for count in [rows, 1] {
                let shares = shares(count, width);
                check(
                    &logits,
                    5e-6,
                    |t| soft_cross_entropy(&t[0], &shares, temperature),
                    |t| reference::soft_cross_entropy(&t[0], &shares, temperature),
                );
            }
        }
    }

    #[test]
    fn large_logits_keep_precision() {
        // All logits are near 1e5, where one f32 step is 1/128.
        let logits = [(random(1, &[5, 40]) + 1e5).unwrap()];
        let ids = ids(5, 40);
        let (op, exact) = (
            |t: &[Tensor]| cross_entropy(&t[0], &ids, 0.1),
            |t: &[Tensor]| reference::cross_entropy(&t[0], &ids, 0.1),
        );
        let wide = logits[0].to_dtype(DType::F64).unwrap();
        let (got, got_grads) = crate::testing::run(&logits, op);
        let (want, want_grads) = crate::testing::run(&[wide], exact);
        for (got, want) in [(&got, &want), (&got_grads[0], &want_grads[0])] {
            let want = flat(&want.to_dtype(DType::F32).unwrap());
            for (got, want) in flat(got).iter().zip(want) {
                assert!(
                    (got - want).abs() < 1e-5 * want.abs().max(1.),
                    "{got}, {want}"
                );
            }
        }
    }

    #[test]
    fn takes_strided_input() {
        let every_other = ids(8, 6).reshape((4, 2)).unwrap().narrow(1, 1, 1).unwrap();
        let ids = every_other.squeeze(1).unwrap();
        check(
            &[random(1, &[6, 5])],
            5e-6,
            |t| cross_entropy(&t[0].t()?.narrow(0, 1, 4)?, &ids, 0.5),
            |t| reference::cross_entropy(&t[0].t()?.narrow(0, 1, 4)?, &ids, 0.5),
        );
        let shares = shares(6, 3).t().unwrap().narrow(0, 1, 2).unwrap();
        check(
            &[random(1, &[5, 6])],
            5e-6,
            |t| soft_cross_entropy(&t[0].narrow(0, 1, 4)?, &shares, 0.5),
            |t| reference::soft_cross_entropy(&t[0].narrow(0, 1, 4)?, &shares, 0.5),
        );
    }

    #[test]
    fn targets_that_track_gradients_get_them() {
        check(
            &[random(1, &[6, 5]), shares(3, 5)],
            5e-6,
            |t| soft_cross_entropy(&t[0], &t[1], 0.5),
            |t| reference::soft_cross_entropy(&t[0], &t[1], 0.5),
        );
    }

    #[test]
    fn excluded_classes_add_no_loss_and_nan_propagates() {
        let hidden = f32::NEG_INFINITY;
        let rows = [[0f32, hidden, 0.], [hidden; 3], [1., f32::NAN, 0.]];
        let logits = Var::new(&rows, &Device::Cpu).unwrap();
        let ids = Tensor::new(&[0u32, 1, 2], &Device::Cpu).unwrap();
        let losses = cross_entropy(&logits, &ids, 1.0).unwrap();
        let found = flat(&losses);
        assert!((found[0] - 2f32.ln()).abs() < 1e-6);
        assert!(found[1].is_nan() && found[2].is_nan());
        let grads = losses.sum_all().unwrap().backward().unwrap();
        let grad = flat(grads.get(&logits).unwrap());
        assert_eq!(grad[..3], [-0.5, 0., 0.5]);
        assert!(grad[3..].iter().all(|g| g.is_nan()));
        // As in PyTorch and the reference.
        let shares = Tensor::new(&[[1f32, 0., 0.]], &Device::Cpu).unwrap();
        for losses in [
            soft_cross_entropy(&logits, &shares, 1.0),
            reference::soft_cross_entropy(&logits, &shares, 1.0),
        ] {
            assert!(flat(&losses.unwrap()).iter().all(|loss| loss.is_nan()));
        }
    }

    #[test]
    fn refuses_wrong_shapes_and_ids() {
        let logits = random(1, &[4, 5]);
        let message = |ids: &[u32]| {
            let ids = Tensor::new(ids, &Device::Cpu).unwrap();
            cross_entropy(&logits, &ids, 1.0).unwrap_err().to_string()
        };
        assert!(message(&[0, 5, 1, 1]).contains("expected \"ids below 5\", got 5"));
        assert!(message(&[0, 1]).contains("[4] in u32"));
        for (ids, logits) in [
            (ids(4, 5), random(1, &[4])),
            (ids(4, 1), random(1, &[4, 0])),
        ] {
            assert!(cross_entropy(&logits, &ids, 1.0).is_err());
        }
        for shape in [&[4, 6][..], &[3, 5], &[0, 5], &[8, 5], &[5]] {
            assert!(soft_cross_entropy(&logits, &random(2, shape), 1.0).is_err());
        }
        for temperature in [0.0, -1.0, f64::NAN] {
            let error = cross_entropy(&logits, &ids(4, 5), temperature).unwrap_err();
            assert!(error.to_string().contains("`temperature`"), "{error}");
            assert!(soft_cross_entropy(&logits, &shares(4, 5), temperature).is_err());
        }
    }

    #[test]
    fn repeats_bit_for_bit() {
        let logits = [random(3, &[700, 99])];
        let (ids, shares) = (ids(700, 99), shares(350, 99));
        check_repeats(&logits, |t| cross_entropy(&t[0], &ids, 0.2));
        check_repeats(&logits, |t| soft_cross_entropy(&t[0], &shares, 0.2));
    }
}
