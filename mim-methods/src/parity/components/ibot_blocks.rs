//! iBOT's masker: recorded draws give the recorded masks, and new draws their statistics.

use std::collections::BTreeMap;

use candle_core::Device;
use mim_masking::{IbotBlockMasker, IbotBlockMaskerConfig, IbotShape, RatioRange};
use serde::Deserialize;

use super::super::{Case, Problem, Result};
use super::Given;
use super::sampled::{Sampled, bits, of_means, square};

/// A number, or one for each range.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(f64),
    More(Vec<f64>),
}

impl OneOrMore {
    fn values(&self) -> &[f64] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::More(values) => values,
        }
    }
}

/// A mask with its draws, or the statistics of many.
#[derive(Deserialize)]
struct Entry {
    grid: usize,
    pred_ratio: OneOrMore,
    pred_ratio_var: OneOrMore,
    /// Kind, range and number of each draw.
    #[serde(default)]
    tape: Vec<(String, f64, f64, f64)>,
    shape: Option<String>,
    draws: Option<usize>,
    mean: Option<f64>,
    std: Option<f64>,
    frac_zero: Option<f64>,
}

impl Entry {
    fn build(&self, min_aspect: f64, attempts: usize) -> Result<IbotBlockMasker> {
        let pairs = self.pred_ratio.values().iter();
        let pairs = pairs.zip(self.pred_ratio_var.values());
        let ratios = pairs.map(|(&mean, &spread)| RatioRange { mean, spread });
        let config = IbotBlockMaskerConfig {
            ratios: ratios.collect(),
            shape: match self.shape.as_deref() {
                None | Some("block") => IbotShape::Block,
                Some("rand") => IbotShape::Random,
                Some(other) => return Err(Problem::unknown(format!("masks of shape {other}"))),
            },
            min_aspect,
            attempts,
            ..IbotBlockMaskerConfig::default()
        };
        Ok(config.build()?)
    }
}

pub(super) fn outputs(case: &Case, _device: &Device) -> Result<Given> {
    // `aspect_ratio` repeats it.
    case.informs(&["log_aspect_ratio"]);
    let [min_aspect, _]: [f64; 2] = case.needs("aspect_ratio")?;
    let attempts = case.needs("attempts")?;
    let mut given = Given::default();
    for (index, entry) in case.needs::<Vec<Entry>>("tapes")?.iter().enumerate() {
        let draws: Vec<f64> = entry.tape.iter().map(|(.., value)| *value).collect();
        let masker = entry.build(min_aspect, attempts)?;
        let mask = masker.from_draws(square(entry.grid), &draws)?;
        let name = format!("mask_{index}");
        given.expect(&name, bits(case, &name, &mask)?);
    }
    for (name, entry) in case.needs::<BTreeMap<String, Entry>>("expect_statistics")? {
        let (Some(draws), Some(mean), Some(std), Some(empty)) =
            (entry.draws, entry.mean, entry.std, entry.frac_zero)
        else {
            return Err(case.bad(format!("`{name}` lacks statistics")).into());
        };
        let ours = Sampled::of(&entry.build(min_aspect, attempts)?, square(entry.grid))?;
        let key = |what: &str| format!("config.expect_statistics.{name}.{what}");
        given.number(&key("mean"), ours.mean, mean, of_means(std, draws))?;
        given.number(&key("frac_zero"), ours.empty, empty, of_means(0.5, draws))?;
    }
    Ok(given)
}
