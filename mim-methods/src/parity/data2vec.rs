//! Golden cases of data2vec.

use candle_core::Device;
use mim_core::schedule::Schedule;
use mim_core::weights::Source;
use mim_core::{Batch, Mask, Method, StepContext, View};
use serde::Deserialize;

use super::beit::{hidden, vit};
use super::run::Extract;
use super::{Case, Problem, Recorded, Result, Rounding, Setup};
use crate::{Data2VecConfig, MethodConfig};

/// `ema` of a case.
#[derive(Deserialize)]
struct Momentum {
    momentum: f64,
    when: String,
}

fn config(case: &Case) -> Result<Data2VecConfig> {
    let defaults = Data2VecConfig::default();
    let encoder = vit(case, defaults.encoder.clone())?;
    case.fixed("target_layer_norm_each", true)?;
    case.fixed("target_norm_eps", 1e-5)?;
    let layers: Vec<usize> = case.setting_or("target_layers_zero_based", vec![])?;
    let count = layers.len();
    if !layers
        .iter()
        .copied()
        .eq(encoder.depth.saturating_sub(count)..encoder.depth)
    {
        let what = format!("data2vec on blocks other than the last ones, {layers:?}");
        return Err(Problem::unknown(what));
    }
    let momentum = match case.setting::<Momentum>("ema")? {
        Some(Momentum { momentum, when }) if when == "after_step" => Schedule::constant(momentum),
        Some(Momentum { when, .. }) => {
            return Err(Problem::unknown(format!("data2vec's copy moved {when}")));
        }
        None => defaults.momentum,
    };
    Ok(Data2VecConfig {
        average_top_k_layers: count,
        post_target_layer_norm: case.setting_or("target_layer_norm_post", true)?,
        beta: case.setting_or("smooth_l1_beta", defaults.beta)?,
        momentum,
        encoder,
        ..Data2VecConfig::default()
    })
}

/// The patches after block `index` of the copy.
fn block(index: usize) -> Extract {
    Box::new(move |recorded: &Recorded| {
        let tokens = recorded.get(&format!("teacher.block{index}"))?;
        Ok(tokens.narrow(1, 1, tokens.dim(1)? - 1)?)
    })
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let grid = config.encoder.grid()?;
    let mask = Mask::from_bits(grid, &case.bits("input.mask", grid)?)?;
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(mask.clone())?;
    let images = case.required("input.image")?.to_device(device)?;
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "beit".to_owned())?)?,
        step: StepContext::new(0),
        batch: Batch::single(View::new(images, vec![])?),
        outputs: vec![
            ("teacher_last_layer", block(config.encoder.depth - 1)),
            ("target", hidden("target.features", &mask)),
            ("pred", hidden("pred.feature", &mask)),
        ],
    })
}
