//! Parameters frozen in the first epochs.

use serde::{Deserialize, Serialize};

use super::Gradients;
use crate::StepContext;

/// Freezes some parameters in the first epochs: they are neither updated nor decayed (DINO's last layer).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Freeze {
    /// Substring of the parameter names.
    pub contains: String,
    /// First epoch, from 0, in which they train.
    pub until_epoch: usize,
}

impl Freeze {
    /// Drops the gradients of the parameters that are frozen at `step`.
    pub fn apply(&self, gradients: &mut Gradients, step: &StepContext) {
        if step.epoch < self.until_epoch {
            gradients.withhold(|name| name.contains(&self.contains));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor, Var};

    #[test]
    fn freezes_by_name_until_its_epoch() {
        let names = ["head.last_layer.weight_v", "head.mlp.0.weight"];
        let zero = || Var::new(&[0f32], &Device::Cpu).unwrap();
        let vars = names.map(|name| (name.to_owned(), zero()));
        let freeze = Freeze {
            contains: "last_layer".to_owned(),
            until_epoch: 1,
        };
        for (epoch, left) in [(0, [false, true]), (1, [true, true])] {
            let mut gradients = Gradients::new(vars.to_vec());
            for name in names {
                gradients.set(name, Tensor::new(&[1f32], &Device::Cpu).unwrap());
            }
            let step = StepContext {
                epoch,
                ..StepContext::new(0)
            };
            freeze.apply(&mut gradients, &step);
            assert_eq!(names.map(|name| gradients.get(name).is_some()), left);
        }
    }
}
