//! LARS, alone and in MAE's linear probe.

use candle_core::{DType, Device, Tensor, Var};
use mim_core::nn::{BatchNorm, Linear};
use mim_core::optim::{Gradients, LarsConfig, NoDecay, OptimizerConfig};
use mim_core::params::Init;
use mim_core::{ParamStore, StepContext, ops};
use serde::Deserialize;

use super::super::{Case, Result};
use super::Given;

/// Three steps with recorded gradients.
pub(super) fn lars(case: &Case, device: &Device) -> Result<Given> {
    const NAMES: [&str; 3] = ["weight", "bias", "zero_matrix"];
    let config = LarsConfig {
        momentum: case.needs("momentum")?,
        trust_coefficient: case.needs("trust_coefficient")?,
        weight_decay: case.needs("weight_decay")?,
        no_decay: undecayed(case.needs("no_decay")?),
    };
    let vars = NAMES.map(|name| -> Result<(String, Var)> {
        let start = case.on(&format!("input.{name}"), device)?;
        Ok((name.to_owned(), Var::from_tensor(&start)?))
    });
    let vars = vars.into_iter().collect::<Result<Vec<_>>>()?;
    let mut optimizer = OptimizerConfig::from(config).build(vars.clone())?;
    let mut given = Given::default();
    let rates: Vec<f64> = case.needs("lr")?;
    case.fixed("steps", rates.len())?;
    for (step, lr) in (1..).zip(rates) {
        let mut gradients = Gradients::new(vars.clone());
        for name in NAMES {
            gradients.set(name, case.on(&format!("input.grad{step}.{name}"), device)?);
        }
        optimizer.step(&gradients, lr)?;
        let state = optimizer.state()?;
        for (name, var) in &vars {
            given.expect(&format!("step{step}.{name}"), var.as_tensor().copy()?);
            let momentum = state.get(&format!("{name}.momentum"));
            let none = || case.bad(format!("the optimizer has no momentum of {name}"));
            let momentum = momentum.ok_or_else(none)?;
            given.expect(&format!("mu{step}.{name}"), momentum.copy()?);
        }
    }
    Ok(given)
}

/// The parameters with these names.
fn undecayed(names: Vec<String>) -> NoDecay {
    NoDecay {
        one_dimensional: false,
        suffixes: vec![],
        names,
        contains: vec![],
    }
}

#[derive(Deserialize)]
struct Settings {
    kind: String,
    lr: f64,
    momentum: f64,
    trust_coefficient: f64,
    weight_decay: f64,
    no_decay: Vec<String>,
}

/// A batch norm without weights, and a linear map.
struct Probe {
    norm: BatchNorm,
    head: Linear,
    /// The norm's, which is not trained.
    fixed: ParamStore,
    store: ParamStore,
}

/// Where the case holds the linear map.
const HEAD: &str = "head.1";

impl Probe {
    fn new(case: &Case, device: &Device) -> Result<Self> {
        case.fixed("bn_momentum", 0.1)?;
        case.fixed("affine", false)?;
        let (width, classes) = (case.needs("embed_dim")?, case.needs("num_classes")?);
        let fixed = ParamStore::teacher(device);
        let norm = BatchNorm::new(&fixed.root(), width, case.needs("bn_eps")?)?;
        if let Some(weight) = fixed.var("weight") {
            weight.set(&Tensor::ones(width, DType::F32, device)?)?;
        }
        let store = ParamStore::new(device, 0, Init::Mae.build(1));
        let head = Linear::new(&store.root().pp(HEAD), width, classes)?;
        store.load(&case.group("param."))?;
        Ok(Self {
            norm,
            head,
            fixed,
            store,
        })
    }

    /// The normalised features and the logits.
    fn forward(&self, features: &Tensor, step: &StepContext) -> Result<(Tensor, Tensor)> {
        let normed = self.norm.forward(features, step)?;
        let logits = self.head.forward(&normed)?;
        Ok((normed, logits))
    }

    /// Forward and backward of step `index`.
    fn gradients(&self, case: &Case, index: usize, given: &mut Given) -> Result<Gradients> {
        let device = self.store.device();
        let features = case.on(&format!("input.features{index}"), device)?;
        case.fixed("batch", features.dim(0)?)?;
        let labels = case.on(&format!("input.labels{index}"), device)?;
        let (normed, logits) = self.forward(&features, &StepContext::new(0))?;
        let losses = ops::cross_entropy(&logits, &labels.to_dtype(DType::U32)?, 1.)?;
        let loss = losses.mean_all()?;
        let mut gradients = Gradients::new(self.store.trainable());
        gradients.backward(&loss)?;
        given.expect(&format!("normed{index}"), normed);
        given.expect(&format!("logits{index}"), logits);
        given.expect(&format!("loss{index}"), loss);
        for (name, _, gradient) in gradients.iter() {
            let gradient = gradient.cloned();
            let none = || case.bad(format!("no gradient arrives at {name}"));
            let part = name.rsplit('.').next().unwrap_or(name);
            given.recorded(&format!("grad{index}.{part}"), gradient.ok_or_else(none)?);
        }
        Ok(gradients)
    }
}

/// MAE's linear probe on recorded features: two steps, then an evaluation.
pub(super) fn linear_probe(case: &Case, device: &Device) -> Result<Given> {
    let (probe, settings): (_, Settings) = (Probe::new(case, device)?, case.needs("optimizer")?);
    if settings.kind != "lars" {
        return Err(case
            .bad(format!("the optimizer `{}`", settings.kind))
            .into());
    }
    let config = LarsConfig {
        momentum: settings.momentum,
        trust_coefficient: settings.trust_coefficient,
        weight_decay: settings.weight_decay,
        no_decay: undecayed(settings.no_decay),
    };
    let mut optimizer = OptimizerConfig::from(config).build(probe.store.trainable())?;
    let mut given = Given::default();
    for index in 1..=case.needs("steps")? {
        let gradients = probe.gradients(case, index, &mut given)?;
        optimizer.step(&gradients, settings.lr)?;
        for (name, var) in probe.store.vars() {
            let part = name.rsplit('.').next().unwrap_or(&name);
            let now = var.as_tensor().copy()?;
            given.expect(&format!("{part}_after{index}"), now);
        }
        for name in ["running_mean", "running_var"] {
            if let Some(var) = probe.fixed.var(name) {
                given.expect(&format!("{name}{index}"), var.as_tensor().copy()?);
            }
        }
    }
    let features = case.on("input.eval_features", device)?;
    let (_, logits) = probe.forward(&features, &StepContext::inference())?;
    given.expect("eval_logits", logits);
    Ok(given)
}
