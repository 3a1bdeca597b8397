//! Features of a momentum copy of the encoder.

use mim_core::Result;
use mim_core::objectives::{ObjectiveSettings, RegressionConfig};
use mim_core::params::{Ema, EmaStart, EmaTiming, ParamStore};
use mim_core::parts::Part;
use mim_core::schedule::Schedule;
use serde::{Deserialize, Serialize};

use crate::{BuiltTarget, FeatureTarget, FeatureTargetConfig, TargetContext, TargetSettings};

/// Settings of a momentum copy of the encoder as target; its attention can guide the masker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MomentumConfig {
    /// Share of the copy kept by each step. Default 0.996.
    pub momentum: f64,
    /// Epsilon of the weightless layer norm on each token. Default 1e-6.
    pub layer_norm_eps: f64,
    /// Blocks of the copy, from 0, whose outputs are averaged before that norm (data2vec); none (the default) for its
    /// final output.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<usize>,
    /// Epsilon of a layer norm on each of these outputs; `None` (the default) for no such norm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_norm_eps: Option<f64>,
}

impl Default for MomentumConfig {
    fn default() -> Self {
        Self {
            momentum: 0.996,
            layer_norm_eps: 1e-6,
            layers: Vec::new(),
            layers_norm_eps: None,
        }
    }
}

impl Part for MomentumConfig {
    const ABOUT: &'static str = "features of a momentum copy of the encoder";
    const PAPER: &'static str =
        "data2vec: Baevski et al., ICML 2022, arXiv 2202.03555; BootMAE; SIM";
}

impl TargetSettings for MomentumConfig {
    fn build(&self, cx: &TargetContext<'_>) -> Result<BuiltTarget> {
        let store = ParamStore::teacher(cx.student.device());
        let copy = cx.encoder.build(&store.root())?;
        let momentum = Schedule::constant(self.momentum);
        let ema = Ema::new(
            cx.student,
            &store,
            momentum,
            EmaTiming::AfterStep,
            EmaStart::Copy,
        )?;
        let features = FeatureTargetConfig {
            norm: cx.norm.clone(),
            layer_norm_eps: Some(self.layer_norm_eps),
            layers: self.layers.clone(),
            layers_norm_eps: self.layers_norm_eps,
            attention: cx.attention,
            ..FeatureTargetConfig::default()
        };
        Ok(BuiltTarget {
            teacher: Some((store, ema)),
            ..BuiltTarget::new(FeatureTarget::new(copy, features)?, cx.encoder.dim())
        })
    }

    fn objective(&self) -> Box<dyn ObjectiveSettings> {
        Box::new(RegressionConfig::smooth_l1(2.))
    }
}
