//! Objectives: losses of predictions and targets.
//!
//! All losses are f32 scalars, for any dtype of the prediction. They are the same whether a decoder
//! predicts all tokens or only those included in the loss.

mod neighbour_contrast;
mod pairing;
mod self_distillation;

pub use neighbour_contrast::{ContrastRows, NeighbourContrast, NeighbourContrastConfig};
pub use pairing::Region;
pub use self_distillation::{DistillationLogits, SelfDistillation, SelfDistillationConfig};

use crate::parts::Settings;
use crate::{Objective, Result};

/// Settings of an objective, as named in a config.
pub trait ObjectiveSettings: Settings {
    /// Checks the settings and builds the objective.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) naming the setting.
    fn build(&self) -> Result<Box<dyn Objective>>;
}

crate::parts! {
    /// Objectives that a config can name.
    pub fn objectives() -> dyn ObjectiveSettings as "objective";
    regression => RegressionConfig, Regression, RegressionKind, RowNorm, TokenWeights;
    cosine => CosineConfig, Cosine, CosineAxis;
    chamfer => ChamferConfig, Chamfer, ChamferKind, ChamferObjective;
    cross_entropy => CrossEntropyConfig, CrossEntropy;
    info_nce => InfoNceConfig, InfoNce;
    patch_nce => PatchNceConfig, PatchNce;
    uni_grad => UniGradConfig, UniGrad;
}

#[cfg(test)]
pub(crate) mod testing {
    //! Shared helpers of the objectives' tests.

    use candle_core::{Device, Tensor, Var};

    use crate::{Mask, Objective, PatchGrid, Prediction, Rows, StepContext, Target};

    /// Two images of 2x3 patches with two and three hidden patches, not in image order.
    pub(crate) fn mask() -> Mask {
        let order = vec![0, 3, 5, 2, 4, 1, 1, 3, 4, 5, 0, 2];
        Mask::new(PatchGrid::new(2, 3), order, vec![4, 3]).unwrap()
    }

    /// Pseudo-random numbers in `[-1, 1)`.
    pub(crate) fn noise(shape: &[usize], seed: u64) -> Tensor {
        let total: usize = shape.iter().product();
        let values: Vec<f32> = (0..total as u64)
            .map(|i| {
                let x = (i + 1 + seed * 1000).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                ((x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32
                    / (1 << 23) as f32
                    - 1.
            })
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    pub(crate) fn predicted(values: &Tensor, rows: Rows, mask: &Mask) -> Prediction {
        Prediction {
            values: values.clone(),
            rows,
            grid: mask.grid(),
        }
    }

    pub(crate) fn loss(
        objective: &impl Objective,
        prediction: &Prediction,
        target: &Target,
        mask: &Mask,
    ) -> Tensor {
        let terms = objective.loss(prediction, target, mask, &StepContext::new(0));
        terms.unwrap().total().unwrap()
    }

    /// The loss of `[2, 6, C]` values predicted for all patches, and for their hidden rows alone,
    /// with both gradients; asserts that they agree.
    pub(crate) fn same_from_all_and_from_hidden(
        objective: &impl Objective,
        values: &Tensor,
        target: &Target,
    ) -> f32 {
        let mask = mask();
        let var = Var::from_tensor(values).unwrap();
        let ids = mask.flat(true, 2, &Device::Cpu).unwrap();
        let hidden = var.flatten(0, 1).unwrap().index_select(&ids, 0).unwrap();
        let mut found = vec![];
        for (values, rows) in [(var.as_tensor(), Rows::Patches), (&hidden, Rows::Masked)] {
            let loss = loss(objective, &predicted(values, rows, &mask), target, &mask);
            let grad = loss.backward().unwrap().get(&var).unwrap().clone();
            let grad: Vec<f32> = grad.flatten_all().unwrap().to_vec1().unwrap();
            found.push((loss.to_scalar::<f32>().unwrap(), grad));
        }
        assert!((found[0].0 - found[1].0).abs() < 1e-6);
        for (a, b) in found[0].1.iter().zip(&found[1].1) {
            assert!((a - b).abs() < 1e-6, "{a} against {b}");
        }
        found[0].0
    }

    /// Asserts that the gradient of `[2, 6, C]` predictions is the slope of the loss.
    pub(crate) fn gradient_is_the_slope(
        objective: &impl Objective,
        values: &Tensor,
        target: &Target,
    ) {
        const STEP: f32 = 1e-2;
        let mask = mask();
        let at = |values: &Tensor| {
            let prediction = predicted(values, Rows::Patches, &mask);
            loss(objective, &prediction, target, &mask)
        };
        let var = Var::from_tensor(values).unwrap();
        let grad = at(&var).backward().unwrap().get(&var).unwrap().clone();
        let grad: Vec<f32> = grad.flatten_all().unwrap().to_vec1().unwrap();
        assert!(grad.iter().any(|g| g.abs() > 1e-3));
        let flat: Vec<f32> = values.flatten_all().unwrap().to_vec1().unwrap();
        for (i, grad) in grad.iter().enumerate() {
            let moved = |by: f32| -> f32 {
                let mut values_moved = flat.clone();
                values_moved[i] += by;
                let xs = Tensor::from_vec(values_moved, values.shape(), &Device::Cpu).unwrap();
                at(&xs).to_scalar().unwrap()
            };
            let slope = (moved(STEP) - moved(-STEP)) / (2. * STEP);
            let close = (slope - grad).abs() < 2e-3 * (1. + grad.abs());
            assert!(close, "element {i}: slope {slope}, gradient {grad}");
        }
    }
}
