//! Stochastic depth.

use candle_core::Tensor;
use rand::RngExt;

use crate::{Purpose, Result, StepContext, ops};

/// Drops residual branches per sample and scales the kept ones by `1 / (1 - rate)` (Huang et al., 2016).
#[derive(Debug, Clone, Copy)]
pub struct DropPath {
    rate: f64,
    lane: u32,
}

impl DropPath {
    /// `lane` is the random stream of a branch, so that each branch draws its own samples.
    pub fn new(rate: f64, lane: u32) -> Self {
        Self { rate, lane }
    }

    /// Whether it can drop anything in this step.
    fn acts(&self, step: &StepContext) -> bool {
        self.rate != 0. && step.training && step.stochastic_depth
    }

    /// The branch factors of `rows` samples; `None` if nothing can be dropped in this step.
    pub(super) fn factors(&self, rows: usize, step: &StepContext) -> Option<Vec<f32>> {
        if !self.acts(step) {
            return None;
        }
        let mut rng = step.rng(Purpose::DropPath, self.lane);
        let kept = 1. / (1. - self.rate);
        #[expect(clippy::cast_possible_truncation, reason = "a factor of order one")]
        let factor = |drop: bool| if drop { 0f32 } else { kept as f32 };
        let factors = (0..rows).map(|_| factor(rng.random::<f64>() < self.rate));
        Some(factors.collect())
    }

    /// Drops in training and returns the input otherwise; `xs` is `[rows, tokens, dim]`.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn forward(&self, xs: Tensor, step: &StepContext) -> Result<Tensor> {
        let rows = xs.dim(0)?;
        match self.factors(rows, step) {
            Some(factors) => {
                let factors = ops::upload(factors, (rows, 1, 1), xs.device())?;
                Ok(xs.broadcast_mul(&factors)?)
            }
            None => Ok(xs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn drops_whole_samples_and_keeps_the_mean() {
        let xs = Tensor::ones((4000, 1, 2), DType::F32, &Device::Cpu).unwrap();
        let ys = DropPath::new(0.25, 0)
            .forward(xs.clone(), &StepContext::new(0))
            .unwrap();
        let values: Vec<Vec<f32>> = ys.squeeze(1).unwrap().to_vec2().unwrap();
        assert!(
            values
                .iter()
                .all(|row| row[0] == row[1] && (row[0] == 0. || (row[0] - 4. / 3.).abs() < 1e-6))
        );
        let dropped = values.iter().filter(|row| row[0] == 0.).count();
        assert!((850..1150).contains(&dropped), "{dropped}");
        let same = DropPath::new(0.25, 0)
            .forward(xs, &StepContext::inference())
            .unwrap();
        assert_eq!(same.mean_all().unwrap().to_scalar::<f32>().unwrap(), 1.);
    }
}
