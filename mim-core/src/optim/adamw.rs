//! AdamW with a serialisable state.

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::optimizer::all_known;
use super::{Gradients, LayerDecay, NoDecay, Optimizer, ParamGroup};
use crate::ops::{AdamWParam, AdamWStep, adamw_steps};
use crate::weights::{LoadReport, WeightMap};
use crate::{Error, Result};

/// Settings of [`AdamW`]; `Default` is MAE's pre-training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay rates of the two moments. Default `[0.9, 0.95]`.
    pub betas: [f64; 2],
    /// Added to the denominator. Default 1e-8.
    pub eps: f64,
    /// Decoupled weight decay, multiplied by the learning rate. Default 0.05.
    pub weight_decay: f64,
    /// Parameters without decay.
    pub no_decay: NoDecay,
    /// Factor of the learning rate for each layer towards the input ([`LayerDecay`]), such as 0.65 in
    /// fine-tuning; `None` (the default) for one rate everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_decay: Option<f64>,
    /// Parameters with their own factors of learning rate and weight decay. Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<ParamGroup>,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.05,
            no_decay: NoDecay::default(),
            layer_decay: None,
            groups: Vec::new(),
        }
    }
}

impl AdamWConfig {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first setting out of range.
    pub fn validate(&self) -> Result<()> {
        let bad = |field: &'static str, value: String, why: &'static str, fix: &'static str| {
            Err(Error::config("optimizer", field, value, why, fix))
        };
        if !self.betas.iter().all(|beta| (0. ..1.).contains(beta)) {
            return bad(
                "betas",
                format!("{:?}", self.betas),
                "both must be in [0, 1)",
                "use [0.9, 0.95]",
            );
        }
        if self.eps.is_nan() || self.eps <= 0. {
            return bad(
                "eps",
                self.eps.to_string(),
                "it must be positive",
                "use 1e-8",
            );
        }
        if self.weight_decay.is_nan() || self.weight_decay < 0. {
            return bad(
                "weight_decay",
                self.weight_decay.to_string(),
                "it cannot be negative",
                "use 0.05, or 0",
            );
        }
        match self.layer_decay {
            Some(rate) if !(rate > 0. && rate <= 1.) => bad(
                "layer_decay",
                rate.to_string(),
                "it must be above 0 and at most 1",
                "use 0.65, for example",
            ),
            _ => self.groups.iter().try_for_each(ParamGroup::validate),
        }
    }
}

/// AdamW (Loshchilov and Hutter, 2019) with PyTorch's formula; a parameter without a gradient does not change.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    name: String,
    var: Var,
    /// Factor of the learning rate.
    lr_scale: f64,
    /// Factor of the weight decay; 0 for no decay.
    decay_scale: f64,
    moments: [Var; 2],
    /// Steps taken. Before the first one, the moments are zero and not part of the state.
    step: u32,
}

impl AdamW {
    /// Creates an optimizer for these parameters; the moments are zero.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is out of range; otherwise it fails only if the device does.
    pub fn new(config: AdamWConfig, trainable: Vec<(String, Var)>) -> Result<Self> {
        config.validate()?;
        let names = trainable.iter().map(|(name, _)| name.as_str());
        let layers = config
            .layer_decay
            .map(|rate| LayerDecay::of_names(rate, names));
        let slot = |(name, var): (String, Var)| {
            let own = config.groups.iter().filter(|group| group.holds(&name));
            let (lr_scale, decay_scale) = own.fold((1., 1.), |(lr, decay), group| {
                (lr * group.lr_scale, decay * group.decay_scale)
            });
            let by_layer = layers.as_ref().map_or(1., |layers| layers.scale(&name));
            let decays = !config.no_decay.holds(&name, var.dims());
            // Allocate here, not in the first step: there the moments would lie between temporary allocations and
            // fragment the memory.
            let zeros = || Var::zeros(var.dims(), DType::F32, var.device());
            let moments = [zeros()?, zeros()?];
            Ok(Slot {
                name,
                var,
                lr_scale: lr_scale * by_layer,
                decay_scale: if decays { decay_scale } else { 0. },
                moments,
                step: 0,
            })
        };
        let slots: Result<_> = trainable.into_iter().map(slot).collect();
        Ok(Self {
            config,
            slots: slots?,
        })
    }

    /// Names of the parameters without weight decay, in order.
    pub fn undecayed(&self) -> Vec<&str> {
        self.slots
            .iter()
            .filter(|slot| slot.decay_scale == 0.)
            .map(|slot| slot.name.as_str())
            .collect()
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()> {
        let config = &self.config;
        let mut moving = Vec::with_capacity(self.slots.len());
        for slot in &mut self.slots {
            let Some(grad) = gradients.get(&slot.name) else {
                continue;
            };
            slot.step += 1;
            let step = AdamWStep {
                lr: lr * slot.lr_scale,
                beta1: config.betas[0],
                beta2: config.betas[1],
                eps: config.eps,
                weight_decay: config.weight_decay * slot.decay_scale,
                step: slot.step as usize,
            };
            let slot: &Slot = slot;
            let [exp_avg, exp_avg_sq] = &slot.moments;
            moving.push(AdamWParam {
                param: &slot.var,
                grad,
                exp_avg,
                exp_avg_sq,
                step,
            });
        }
        Ok(adamw_steps(&moving)?)
    }

    fn set_weight_decay(&mut self, weight_decay: f64) {
        self.config.weight_decay = weight_decay;
    }

    /// `<name>.exp_avg`, `<name>.exp_avg_sq` and `<name>.step` of each parameter updated so far.
    fn state(&self) -> Result<WeightMap> {
        let mut state = WeightMap::default();
        for Slot {
            name,
            moments: [first, second],
            step,
            ..
        } in self.slots.iter().filter(|slot| slot.step > 0)
        {
            state.insert(format!("{name}.exp_avg"), first.as_detached_tensor());
            state.insert(format!("{name}.exp_avg_sq"), second.as_detached_tensor());
            state.insert(format!("{name}.step"), Tensor::new(*step, &Device::Cpu)?);
        }
        Ok(state)
    }

    fn load_state(&mut self, state: &WeightMap) -> Result<()> {
        let mut report = LoadReport::default();
        let mut known = Vec::new();
        for slot in &mut self.slots {
            let part = |part: &str| state.get(&format!("{}.{part}", slot.name));
            let (Some(first), Some(second), Some(step)) =
                (part("exp_avg"), part("exp_avg_sq"), part("step"))
            else {
                continue;
            };
            for moment in [first, second] {
                if moment.dims() != slot.var.dims() {
                    let shapes = (slot.var.dims().to_vec(), moment.dims().to_vec());
                    report
                        .misshaped
                        .push((slot.name.clone(), shapes.0, shapes.1));
                }
            }
            if report.misshaped.is_empty() {
                for (own, saved) in slot.moments.iter().zip([first, second]) {
                    own.set(&saved.to_device(slot.var.device())?)?;
                }
                slot.step = step.to_dtype(DType::U32)?.to_scalar()?;
            }
            known.extend(
                ["exp_avg", "exp_avg_sq", "step"].map(|part| format!("{}.{part}", slot.name)),
            );
        }
        all_known(report, known, state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn var(values: &[f32]) -> (String, Var) {
        (
            "fc.weight".to_owned(),
            Var::from_slice(values, (1, values.len()), &Device::Cpu).unwrap(),
        )
    }

    fn stepped(optimizer: &mut AdamW, var: &(String, Var), gradient: &[f32]) -> Vec<f32> {
        let mut gradients = Gradients::new(vec![var.clone()]);
        gradients.set(
            &var.0,
            Tensor::from_slice(gradient, (1, gradient.len()), &Device::Cpu).unwrap(),
        );
        optimizer.step(&gradients, 0.1).unwrap();
        var.1.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_first_step_is_the_sign_of_the_gradient_after_decay() {
        let var = var(&[1., -2.]);
        let mut optimizer = AdamW::new(AdamWConfig::default(), vec![var.clone()]).unwrap();
        let values = stepped(&mut optimizer, &var, &[0.3, -0.7]);
        let want = [1. * (1. - 0.005) - 0.1, -2. * (1. - 0.005) + 0.1];
        assert!(
            values.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6),
            "{values:?}"
        );
    }

    #[test]
    fn a_saved_state_resumes_bit_exactly() {
        let (whole, halves) = (var(&[1., -2.]), var(&[1., -2.]));
        let mut first = AdamW::new(AdamWConfig::default(), vec![whole.clone()]).unwrap();
        stepped(&mut first, &whole, &[0.3, -0.7]);
        let want = stepped(&mut first, &whole, &[-0.1, 0.2]);
        let mut before = AdamW::new(AdamWConfig::default(), vec![halves.clone()]).unwrap();
        stepped(&mut before, &halves, &[0.3, -0.7]);
        let mut after = AdamW::new(AdamWConfig::default(), vec![halves.clone()]).unwrap();
        after.load_state(&before.state().unwrap()).unwrap();
        assert_eq!(stepped(&mut after, &halves, &[-0.1, 0.2]), want);
    }

    #[test]
    fn refuses_the_state_of_other_parameters() {
        let mut optimizer = AdamW::new(AdamWConfig::default(), vec![var(&[1.])]).unwrap();
        let mut state = WeightMap::default();
        state.insert("other.exp_avg", Tensor::new(&[1f32], &Device::Cpu).unwrap());
        assert!(
            optimizer
                .load_state(&state)
                .unwrap_err()
                .to_string()
                .contains("other.exp_avg")
        );
    }

    #[test]
    fn parameters_without_gradient_do_not_change() {
        let var = var(&[1., -2.]);
        let mut optimizer = AdamW::new(AdamWConfig::default(), vec![var.clone()]).unwrap();
        optimizer
            .step(&Gradients::new(vec![var.clone()]), 0.1)
            .unwrap();
        assert_eq!(
            var.1.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            [1., -2.]
        );
        assert!(optimizer.state().unwrap().is_empty());
    }
}
