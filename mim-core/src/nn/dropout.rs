//! Dropout.

use candle_core::Tensor;
use rand::RngExt;

use crate::{Purpose, Result, StepContext, ops};

/// Zeroes single values in training and scales the kept ones by `1 / (1 - rate)` (Srivastava et al., 2014).
#[derive(Debug, Clone, Copy, Default)]
pub struct Dropout {
    rate: f64,
    lane: u32,
}

impl Dropout {
    /// `lane` is the random stream of a layer, so that each layer draws its own values.
    pub fn new(rate: f64, lane: u32) -> Self {
        Self { rate, lane }
    }

    /// Whether it can drop anything in this step: never outside training, and never in teachers.
    pub fn acts(&self, step: &StepContext) -> bool {
        self.rate != 0. && step.training && step.stochastic_depth
    }

    /// Drops values of a tensor of any shape in training, and returns it unchanged otherwise.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn forward(&self, xs: Tensor, step: &StepContext) -> Result<Tensor> {
        if !self.acts(step) {
            return Ok(xs);
        }
        let mut rng = step.rng(Purpose::Dropout, self.lane);
        #[expect(clippy::cast_possible_truncation, reason = "numbers of order one")]
        let (rate, kept) = (self.rate as f32, (1. / (1. - self.rate)) as f32);
        let factor = |drop: bool| if drop { 0f32 } else { kept };
        let factors = (0..xs.elem_count()).map(|_| factor(rng.random::<f32>() < rate));
        let factors = ops::upload(factors.collect::<Vec<_>>(), xs.shape(), xs.device())?;
        let factors = factors.to_dtype(xs.dtype())?;
        Ok((xs * factors)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn drops_single_values_keeps_the_mean_and_skips_teachers() {
        let xs = Tensor::ones((100, 100), DType::F32, &Device::Cpu).unwrap();
        let dropout = Dropout::new(0.25, 0);
        let step = StepContext::new(0);
        let values = |step: &StepContext| -> Vec<f32> {
            let ys = dropout.forward(xs.clone(), step).unwrap();
            ys.flatten_all().unwrap().to_vec1().unwrap()
        };
        let dropped = values(&step);
        let zeros = dropped.iter().filter(|value| **value == 0.).count();
        assert!((2300..2700).contains(&zeros), "{zeros}");
        assert!(
            dropped
                .iter()
                .all(|v| *v == 0. || (v - 4. / 3.).abs() < 1e-6)
        );
        assert_eq!(dropped, values(&step));
        for other in [step.teacher(), StepContext::inference()] {
            assert_eq!(values(&other), [1.; 10_000]);
        }
    }
}
