//! The optimizer of a case, and its step.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;
use mim_core::optim::{
    AdamWConfig, Clip, Gradients, LayerDecay, NoDecay, OptimizerConfig, ParamGroup,
};
use mim_core::weights::WeightMap;
use serde::Deserialize;

use super::compare::{Rule, Worst};
use super::run::{Run, rule};
use super::stores::State;
use super::{Problem, Result};

/// `config.optimizer` of a case.
#[derive(Deserialize)]
pub(super) struct Optimizer {
    kind: String,
    pub(super) lr: f64,
    betas: [f64; 2],
    eps: f64,
    pub(super) weight_decay: f64,
    clip: ClipSetting,
    no_decay: BTreeSet<String>,
    #[serde(default)]
    pub(super) withheld: BTreeSet<String>,
    /// Factors of the learning rate, by name.
    #[serde(default)]
    lr_scale: BTreeMap<String, f64>,
    /// Factors of the weight decay, by name.
    #[serde(default)]
    wd_scale: BTreeMap<String, f64>,
}

/// Prefixes of teachers' names, and the student's prefixes that replace them.
type Followed = BTreeMap<String, String>;

/// The student's parameter that a teacher's `name` follows, or `name` itself.
fn student_name(name: &str, followed: &Followed) -> String {
    if let Some(name) = name.strip_prefix("teacher.") {
        return name.to_owned();
    }
    let found = followed
        .iter()
        .find_map(|(prefix, ours)| Some(format!("{ours}{}", name.strip_prefix(prefix.as_str())?)));
    found.unwrap_or_else(|| name.to_owned())
}

#[derive(Deserialize)]
struct ClipSetting {
    kind: String,
    value: Option<f64>,
}

impl Optimizer {
    /// The optimizer's settings for the parameters of `state`.
    pub(super) fn config(&self, state: State<'_>) -> Result<AdamWConfig> {
        if self.kind != "adamw" {
            let what = format!("the optimizer `{}` of this case", self.kind);
            return Err(Problem::unknown(what));
        }
        let layer_decay = self.layer_decay(state)?;
        let (mut undecayed, mut groups) = (Vec::new(), Vec::new());
        for (name, var) in state.student()?.trainable() {
            let named = state.theirs(std::iter::once((name.clone(), var.as_detached_tensor())))?;
            let scale = |all: &BTreeMap<String, f64>| {
                let found = named.names().find_map(|name| all.get(name));
                found.copied().unwrap_or(1.)
            };
            let lr_scale = match layer_decay {
                Some(_) => 1.,
                None => scale(&self.lr_scale),
            };
            let decay_scale = scale(&self.wd_scale);
            if (lr_scale, decay_scale) != (1., 1.) {
                groups.push(ParamGroup {
                    names: vec![name.clone()],
                    lr_scale,
                    decay_scale,
                    ..ParamGroup::default()
                });
            }
            if named.names().all(|name| self.no_decay.contains(name)) {
                undecayed.push(name);
            }
        }
        Ok(AdamWConfig {
            betas: self.betas,
            eps: self.eps,
            weight_decay: self.weight_decay,
            no_decay: NoDecay {
                one_dimensional: false,
                suffixes: vec![],
                names: undecayed,
                contains: vec![],
            },
            layer_decay,
            groups,
        })
    }

    /// The layer-wise decay of the case. The recorded factors must equal ours.
    fn layer_decay(&self, state: State<'_>) -> Result<Option<f64>> {
        let Some(rate) = state.case.setting::<f64>("layer_decay")? else {
            return Ok(None);
        };
        let trainable = state.student()?.trainable();
        let names = trainable.iter().map(|(name, _)| name.as_str());
        let layers = LayerDecay::of_names(rate, names);
        for (name, var) in &trainable {
            let ours = layers.scale(name);
            let named = state.theirs(std::iter::once((name.clone(), var.as_detached_tensor())))?;
            for known in named.names() {
                let theirs = self.lr_scale.get(known).copied().unwrap_or(1.);
                if (ours - theirs).abs() > 1e-9 * theirs {
                    let what =
                        format!("the rate of `{known}` is scaled by {theirs}, ours by {ours}");
                    return Err(state.case.bad(what).into());
                }
            }
        }
        Ok(Some(rate))
    }

    pub(super) fn clip(&self) -> Result<Clip> {
        Ok(match (self.clip.kind.as_str(), self.clip.value) {
            ("none", _) => Clip::None,
            ("global", Some(max_norm)) => Clip::Global { max_norm },
            ("per_tensor", Some(max_norm)) => Clip::PerTensor { max_norm },
            (kind, value) => {
                return Err(Problem::unknown(format!("clipping `{kind}` by {value:?}")));
            }
        })
    }
}

impl Run<'_> {
    /// Compares (a) the optimizer alone, given the recorded gradients; (b) the whole step, for gradients that are large
    /// enough.
    ///
    /// `buffers` are those after the forward pass. They, and what precedes the pass, are the same in both.
    pub(super) fn step(
        &mut self,
        settings: &Optimizer,
        own: Gradients,
        buffers: &BTreeMap<String, Tensor>,
    ) -> Result<Worst> {
        let recorded = self.case.group("grad.");
        let mut fed = Gradients::new(self.state().student()?.trainable());
        for (name, gradient) in self.setup.source.import(&recorded)?.iter() {
            if !fed.set(name, gradient.to_device(self.device)?) {
                return Err(self
                    .case
                    .bad(format!("`grad.{name}` belongs to no trainable parameter"))
                    .into());
            }
        }
        let mut worst = Worst::default();
        for (gradients, end_to_end) in [(fed, false), (own, true)] {
            self.state().load()?;
            self.setup.method.before_step(&self.setup.step)?;
            self.state().restore(buffers)?;
            let stepped = self.stepped(settings, gradients)?;
            let gradients = end_to_end.then_some(&recorded);
            self.compare(&stepped, gradients, &mut worst)?;
        }
        Ok(worst)
    }

    /// Compares what the forward pass alone changes (codebooks), for a case without optimizer.
    pub(super) fn after_forward(&self) -> Result<Worst> {
        let mut worst = Worst::default();
        if !self.case.group("step.").is_empty() {
            self.compare(&self.state().all_theirs()?, None, &mut worst)?;
        }
        Ok(worst)
    }

    /// Compares all `step.` tensors. With `gradients`, only values whose gradients are large enough.
    fn compare(
        &self,
        stepped: &WeightMap,
        gradients: Option<&WeightMap>,
        worst: &mut Worst,
    ) -> Result<()> {
        let followed = self
            .case
            .setting::<Followed>("ema_names")?
            .unwrap_or_default();
        let buffers = self.state().buffer_names()?;
        for (name, theirs) in self.case.group("step.").iter() {
            let full = format!("step.{name}");
            let Some(ours) = stepped.get(name) else {
                // What the source skips (counts of batches) is not part of our state.
                let one = WeightMap::from_iter([(name.to_owned(), theirs.clone())]);
                if self.setup.source.import(&one)?.is_empty() {
                    continue;
                }
                worst.fail(&full, "we have no such parameter");
                continue;
            };
            let gradient = gradients.and_then(|all| all.get(&student_name(name, &followed)));
            let gradient: Option<Vec<f32>> =
                gradient.map(|g| g.flatten_all()?.to_vec1()).transpose()?;
            let ignored = self.tolerance.ignored(&full, theirs.elem_count());
            let small = |index: usize| match &gradient {
                Some(gradient) => {
                    f64::from(gradient[index].abs()) <= self.tolerance.step_min_abs_grad
                }
                None => false,
            };
            let skip = |index| small(index) || ignored.iter().any(|range| range.contains(&index));
            // Statistics are outputs of the forward pass.
            let rule = match buffers.iter().any(|buffer| buffer == name) {
                true => rule((self.tolerance.rtol, self.tolerance.atol), &skip),
                false => Rule {
                    rtol: 0.,
                    atol: self.tolerance.step_atol,
                    floor: 0.,
                    skip: &skip,
                },
            };
            worst.tensor(&full, ours, theirs, &rule)?;
        }
        Ok(())
    }

    /// All parameters after one step, by their names.
    fn stepped(&mut self, settings: &Optimizer, mut gradients: Gradients) -> Result<WeightMap> {
        settings.clip()?.apply(&mut gradients)?;
        let state = self.state();
        let store = state.student()?;
        for (name, var) in store.trainable() {
            let named = state.theirs(std::iter::once((name.clone(), var.as_detached_tensor())))?;
            if named.names().any(|name| settings.withheld.contains(name)) {
                gradients.withhold(|known| known == name);
            }
        }
        let config = settings.config(state)?;
        let mut optimizer = OptimizerConfig::from(config).build(store.trainable())?;
        optimizer.step(&gradients, settings.lr)?;
        self.setup.method.after_step(&self.setup.step)?;
        // Steps of a case are the last of their epoch.
        self.setup.method.end_epoch(&self.setup.step)?;
        self.state().all_theirs()
    }
}
