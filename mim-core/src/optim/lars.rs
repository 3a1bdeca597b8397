//! LARS with a serialisable state.

use candle_core::{DType, Var};
use serde::{Deserialize, Serialize};

use super::optimizer::all_known;
use super::{Gradients, NoDecay, Optimizer};
use crate::ops::{LarsParam, LarsStep, lars_steps};
use crate::weights::{LoadReport, WeightMap};
use crate::{Error, Result};

/// Settings of [`Lars`]; `Default` is MAE's linear probing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LarsConfig {
    /// Share of the previous direction that is kept. Default 0.9.
    pub momentum: f64,
    /// Length of a step before the learning rate, relative to the norm of the parameter. Default 0.001.
    pub trust_coefficient: f64,
    /// Weight decay, added to the gradient. Default 0.
    pub weight_decay: f64,
    /// Parameters without weight decay and without scaling of their gradients.
    pub no_decay: NoDecay,
}

impl Default for LarsConfig {
    fn default() -> Self {
        Self {
            momentum: 0.9,
            trust_coefficient: 0.001,
            weight_decay: 0.,
            no_decay: NoDecay::default(),
        }
    }
}

impl LarsConfig {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first setting out of range.
    pub fn validate(&self) -> Result<()> {
        let (field, value, why, fix) = if !(0. ..1.).contains(&self.momentum) {
            ("momentum", self.momentum, "it must be in [0, 1)", "use 0.9")
        } else if !(self.trust_coefficient > 0. && self.trust_coefficient.is_finite()) {
            let value = self.trust_coefficient;
            (
                "trust_coefficient",
                value,
                "it must be positive",
                "use 0.001",
            )
        } else if !(self.weight_decay >= 0. && self.weight_decay.is_finite()) {
            let value = self.weight_decay;
            ("weight_decay", value, "it cannot be negative", "use 0")
        } else {
            return Ok(());
        };
        Err(Error::config("optimizer", field, value, why, fix))
    }
}

/// SGD with momentum and steps proportional to the norm of the parameter (You et al., arXiv 1708.03888), with the
/// formula of MAE's linear probing; see [`lars_steps`]. A parameter without a gradient does not change.
#[derive(Debug)]
pub struct Lars {
    config: LarsConfig,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    name: String,
    var: Var,
    plain: bool,
    momentum: Var,
}

impl Lars {
    /// Creates an optimizer for these parameters; the momentum is zero.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is out of range; otherwise it fails only if the device does.
    pub fn new(config: LarsConfig, trainable: Vec<(String, Var)>) -> Result<Self> {
        config.validate()?;
        let slot = |(name, var): (String, Var)| {
            Ok(Slot {
                plain: config.no_decay.holds(&name, var.dims()),
                momentum: Var::zeros(var.dims(), DType::F32, var.device())?,
                name,
                var,
            })
        };
        let slots: Result<_> = trainable.into_iter().map(slot).collect();
        Ok(Self {
            config,
            slots: slots?,
        })
    }
}

impl Optimizer for Lars {
    fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()> {
        let config = &self.config;
        let moving = self.slots.iter().filter_map(|slot| {
            Some(LarsParam {
                param: &slot.var,
                grad: gradients.get(&slot.name)?,
                momentum: &slot.momentum,
                step: LarsStep {
                    lr,
                    momentum: config.momentum,
                    weight_decay: if slot.plain { 0. } else { config.weight_decay },
                    trust: (!slot.plain).then_some(config.trust_coefficient),
                },
            })
        });
        Ok(lars_steps(&moving.collect::<Vec<_>>())?)
    }

    fn set_weight_decay(&mut self, weight_decay: f64) {
        self.config.weight_decay = weight_decay;
    }

    /// `<name>.momentum` of each parameter.
    fn state(&self) -> Result<WeightMap> {
        let mut state = WeightMap::default();
        for slot in &self.slots {
            let momentum = slot.momentum.as_detached_tensor();
            state.insert(format!("{}.momentum", slot.name), momentum);
        }
        Ok(state)
    }

    fn load_state(&mut self, state: &WeightMap) -> Result<()> {
        let mut report = LoadReport::default();
        let mut known = Vec::new();
        for slot in &self.slots {
            let name = format!("{}.momentum", slot.name);
            let shape = slot.var.dims();
            match state.get(&name) {
                Some(saved) if saved.dims() == shape => {
                    slot.momentum.set(&saved.to_device(slot.var.device())?)?;
                }
                Some(saved) => {
                    let shapes = (shape.to_vec(), saved.dims().to_vec());
                    report.misshaped.push((name.clone(), shapes.0, shapes.1));
                }
                None => report.missing.push(name.clone()),
            }
            known.push(name);
        }
        all_known(report, known, state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    fn var(name: &str, values: &[f32]) -> (String, Var) {
        let var = Var::from_slice(values, (1, values.len()), &Device::Cpu).unwrap();
        (name.to_owned(), var)
    }

    fn stepped(optimizer: &mut Lars, var: &(String, Var), gradient: &[f32]) -> Vec<f32> {
        let mut gradients = Gradients::new(vec![var.clone()]);
        let gradient = Tensor::from_slice(gradient, (1, gradient.len()), &Device::Cpu).unwrap();
        gradients.set(&var.0, gradient);
        optimizer.step(&gradients, 2.).unwrap();
        var.1.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn lars(var: &(String, Var)) -> Lars {
        let config = LarsConfig {
            momentum: 0.5,
            trust_coefficient: 0.1,
            ..LarsConfig::default()
        };
        Lars::new(config, vec![var.clone()]).unwrap()
    }

    #[test]
    fn weights_step_by_their_norm_and_biases_by_their_gradient() {
        let (weight, bias) = (var("fc.weight", &[3., -4.]), var("fc.bias", &[3., -4.]));
        assert_eq!(stepped(&mut lars(&weight), &weight, &[0., 10.]), [3., -5.]);
        assert_eq!(stepped(&mut lars(&bias), &bias, &[0., 10.]), [3., -24.]);
    }

    #[test]
    fn a_saved_state_resumes_bit_exactly() {
        let (whole, halves) = (var("w", &[1., -2.]), var("w", &[1., -2.]));
        let mut first = lars(&whole);
        stepped(&mut first, &whole, &[0.3, -0.7]);
        let want = stepped(&mut first, &whole, &[-0.1, 0.2]);
        let mut before = lars(&halves);
        stepped(&mut before, &halves, &[0.3, -0.7]);
        let mut after = lars(&halves);
        after.load_state(&before.state().unwrap()).unwrap();
        assert_eq!(stepped(&mut after, &halves, &[-0.1, 0.2]), want);
    }

    #[test]
    fn refuses_other_states_and_settings() {
        let own = var("w", &[1.]);
        let others = [var("v", &[1.]), var("w", &[1., 2.])];
        for (other, part) in others.iter().zip(["v.momentum", "[1, 2]"]) {
            let error = lars(&own).load_state(&lars(other).state().unwrap());
            let error = error.unwrap_err().to_string();
            assert!(
                error.contains(part) && error.contains("w.momentum"),
                "{error}"
            );
        }
        let config = LarsConfig {
            trust_coefficient: 0.,
            ..LarsConfig::default()
        };
        let error = Lars::new(config, vec![]).unwrap_err().to_string();
        assert!(error.contains("`trust_coefficient` is 0"), "{error}");
    }
}
