//! Golden cases of DALL-E's discrete VAE.

use std::sync::Arc;

use candle_core::{D, Device, Tensor};
use mim_core::params::ParamStore;
use mim_core::weights::Source;
use mim_core::{StepContext, ops};
use mim_targets::dvae::{DvaeConfig, DvaeDecoder, DvaeEncoder};
use serde::Deserialize;

use super::super::{Case, Problem, Recorded, Result};
use super::Given;

#[derive(Deserialize)]
struct Decoder {
    n_init: usize,
    n_hid: usize,
}

fn config(case: &Case) -> Result<DvaeConfig> {
    // Any size works, images are recorded in [0, 1], and the gap is the margin of the tokens.
    case.informs(&["image_size", "input_norm", "min_top2_gap"]);
    let defaults = DvaeConfig::default();
    let eps: f64 = case.setting_or("logit_laplace_eps", 0.1)?;
    let groups: usize = case.setting_or("group_count", 4)?;
    if (eps, groups) != (0.1, 4) {
        return Err(Problem::unknown(format!(
            "a dVAE of {groups} groups, eps {eps}"
        )));
    }
    let decoder = case.setting::<Decoder>("decoder")?.unwrap_or(Decoder {
        n_init: defaults.decoder_n_init,
        n_hid: defaults.decoder_n_hid,
    });
    Ok(DvaeConfig {
        n_hid: case.setting_or("n_hid", defaults.n_hid)?,
        n_blk_per_group: case.setting_or("n_blk_per_group", defaults.n_blk_per_group)?,
        vocab_size: case.setting_or("vocab_size", defaults.vocab_size)?,
        in_channels: case.setting_or("in_channels", defaults.in_channels)?,
        decoder_n_hid: decoder.n_hid,
        decoder_n_init: decoder.n_init,
    })
}

/// Channels first, as recorded.
fn channels_first(xs: &Tensor) -> Result<Tensor> {
    Ok(xs.permute((0, 3, 1, 2))?.contiguous()?)
}

pub(super) fn outputs(case: &Case, device: &Device) -> Result<Given> {
    let config = config(case)?;
    let store = ParamStore::teacher(device);
    let encoder = DvaeEncoder::new(&store.root().pp("encoder"), &config)?;
    let decoder = DvaeDecoder::new(&store.root().pp("decoder"), &config)?;
    store.load(&Source::named("dvae")?.import(&case.group("param."))?)?;
    let recorded = Arc::new(Recorded::default());
    let step = StepContext {
        trace: Some(recorded.clone()),
        ..StepContext::inference()
    };
    let images = case.required("input.image01")?.to_device(device)?;
    let logits = encoder.logits(&images, &step)?;
    let tokens = logits.argmax(D::Minus1)?;
    let probabilities = ops::softmax(&logits)?;
    let mut given = Given::default();
    given.expect("mapped", recorded.get("mapped")?);
    given.expect("logits", channels_first(&logits)?);
    given.expect("probs", channels_first(&probabilities)?);
    given.expect(
        "decoder_out",
        channels_first(&decoder.statistics(&tokens)?)?,
    );
    given.expect("reconstruction01", decoder.images(&tokens)?);
    given.expect("tokens", tokens);
    for name in [
        "stem",
        "group1_block1",
        "group1",
        "group2",
        "group3",
        "group4",
    ] {
        given.expect(name, channels_first(&recorded.get(name)?)?);
    }
    Ok(given)
}
