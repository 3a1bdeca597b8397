//! Golden cases of AttMask.

use candle_core::{DType, Device};
use mim_core::Method;
use mim_masking::{AttentionDraws, AttentionMaskerConfig, AttentionMode};

use super::ibot::{config, finish, masks};
use super::{Case, Problem, Result, Setup};
use crate::MethodConfig;

/// Masks by attention, from the recorded draws.
fn guided(case: &Case) -> Result<Option<(AttentionMaskerConfig, AttentionDraws)>> {
    let defaults = AttentionMaskerConfig::default();
    let shape: String = case.setting_or("pred_shape", "attmask_hint".to_owned())?;
    let mode = match shape.as_str() {
        "attmask_high" => AttentionMode::High,
        "attmask_hint" => AttentionMode::Hint,
        "attmask_low" => AttentionMode::Low,
        "block" | "rand" => return Ok(None),
        other => {
            return Err(Problem::unknown(format!(
                "AttMask with pred_shape = {other}"
            )));
        }
    };
    let show_max = case.setting_or("show_max", defaults.show_max)?;
    let config = AttentionMaskerConfig {
        mode,
        masking_prob: case.setting_or("masking_prob", defaults.masking_prob)?,
        show_max,
        ..defaults
    };
    let uniforms = case.required("input.rand_mask")?.to_dtype(DType::F64)?;
    let reveal_ids = match case.tensor("input.reveal_ids") {
        Some(ids) => ids.to_dtype(DType::U32)?.flatten_all()?.to_vec1()?,
        None => vec![],
    };
    let show_ratio = show_max * case.setting_or("show_ratio_draw", 0.)?;
    let draws = AttentionDraws {
        masking_ratio: case.setting_or("masking_ratio", 0.)?,
        show_ratio,
        uniforms: uniforms.flatten_all()?.to_vec1()?,
        reveal_ids,
    };
    Ok(Some((config, draws)))
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let guide = guided(case)?;
    let masker = guide.as_ref().map(|(masker, _)| masker.clone());
    let config = config(case, masker.unwrap_or_default())?;
    let mut method = config.build(&config.store(device, 0))?;
    match guide {
        Some((masker, draws)) => method.masker = Box::new(masker.build()?.with_draws(draws)),
        None => method.override_mask(masks(case, &config.encoder, config.crops.global)?)?,
    }
    finish(case, method, &config, device)
}
