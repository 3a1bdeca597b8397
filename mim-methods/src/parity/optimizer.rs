//! The optimizer of a case, and the step it makes.

use std::collections::BTreeSet;

use mim_core::Result;
use mim_core::optim::{AdamW, AdamWConfig, Clip, Gradients, NoDecay};
use mim_core::weights::WeightMap;
use serde::Deserialize;

use super::compare::{Rule, Worst};
use super::run::{Run, not_built};

/// `config.optimizer` of a case.
#[derive(Deserialize)]
pub(super) struct Optimizer {
    kind: String,
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    clip: ClipSetting,
    no_decay: BTreeSet<String>,
    #[serde(default)]
    withheld: BTreeSet<String>,
    lr_scale: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct ClipSetting {
    kind: String,
    value: Option<f64>,
}

impl Optimizer {
    fn clip(&self) -> Result<Clip> {
        Ok(match (self.clip.kind.as_str(), self.clip.value) {
            ("none", _) => Clip::None,
            ("global", Some(max_norm)) => Clip::Global { max_norm },
            ("per_tensor", Some(max_norm)) => Clip::PerTensor { max_norm },
            (kind, value) => return Err(not_built(format!("clipping `{kind}` by {value:?}"))),
        })
    }
}

impl Run<'_> {
    /// (a) the optimizer alone, fed the recorded gradients; (b) end to end, where gradients are large enough.
    pub(super) fn step(&self, settings: &Optimizer, own: Gradients) -> Result<Worst> {
        if settings.kind != "adamw" || settings.lr_scale.is_some() {
            return Err(not_built(format!(
                "the optimizer `{}` of this case",
                settings.kind
            )));
        }
        let recorded = self.case.group("grad.");
        let mut fed = Gradients::new(self.student()?.trainable());
        for (name, gradient) in self.setup.source.import(&recorded)?.iter() {
            if !fed.set(name, gradient.to_device(self.device)?) {
                return Err(self
                    .case
                    .bad(format!("`grad.{name}` belongs to no trainable parameter")));
            }
        }
        let mut worst = Worst::default();
        for (gradients, end_to_end) in [(fed, false), (own, true)] {
            self.load()?;
            let stepped = self.stepped(settings, gradients)?;
            for (name, theirs) in self.case.group("step.").iter() {
                let Some(ours) = stepped.get(name) else {
                    worst.fail(&format!("step.{name}"), "we have no such parameter");
                    continue;
                };
                let gradient = recorded.get(name).filter(|_| end_to_end);
                let gradient: Option<Vec<f32>> =
                    gradient.map(|g| g.flatten_all()?.to_vec1()).transpose()?;
                let ignored = self
                    .tolerance
                    .ignored(&format!("step.{name}"), theirs.elem_count());
                let small = |index: usize| match &gradient {
                    Some(gradient) => {
                        f64::from(gradient[index].abs()) <= self.tolerance.step_min_abs_grad
                    }
                    None => false,
                };
                let skip =
                    |index| small(index) || ignored.iter().any(|range| range.contains(&index));
                let rule = Rule {
                    rtol: 0.,
                    atol: self.tolerance.step_atol,
                    floor: 0.,
                    skip: &skip,
                };
                worst.tensor(&format!("step.{name}"), ours, theirs, &rule)?;
            }
        }
        Ok(worst)
    }

    /// All parameters after one step, by their names.
    fn stepped(&self, settings: &Optimizer, mut gradients: Gradients) -> Result<WeightMap> {
        settings.clip()?.apply(&mut gradients)?;
        let store = self.student()?;
        let mut undecayed = Vec::new();
        for (name, var) in store.trainable() {
            let named = self.theirs(std::iter::once((name.clone(), var.as_detached_tensor())))?;
            if named.names().all(|name| settings.no_decay.contains(name)) {
                undecayed.push(name.clone());
            }
            if named.names().any(|name| settings.withheld.contains(name)) {
                gradients.withhold(&name);
            }
        }
        let no_decay = NoDecay {
            one_dimensional: false,
            suffixes: vec![],
            names: undecayed,
            contains: vec![],
        };
        let config = AdamWConfig {
            betas: settings.betas,
            eps: settings.eps,
            weight_decay: settings.weight_decay,
            no_decay,
        };
        AdamW::new(config, store.trainable())?.step(&gradients, settings.lr)?;
        self.theirs(
            store
                .vars()
                .into_iter()
                .map(|(name, var)| (name, var.as_detached_tensor())),
        )
    }
}
