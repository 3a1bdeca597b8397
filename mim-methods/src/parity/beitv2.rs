//! Golden cases of BEiT v2.

use candle_core::Device;
use mim_core::decoders::AggregationDecoderConfig;
use mim_core::weights::{Source, WeightMap};
use mim_core::{Batch, Mask, Method, ParamStore, StepContext, View};
use mim_targets::TokenTarget;
use mim_targets::vqkd::VqKdTokenizer;

use super::beit::{hidden, traced, vit};
use super::vqkd::{Sizes, no_setting};
use super::{Case, Result, Rounding, Setup};
use crate::tokens::TokenView;
use crate::{BeitV2Config, MethodConfig};

fn config(case: &Case) -> Result<BeitV2Config> {
    // The mask is recorded.
    case.informs(&["mask_ratio"]);
    let defaults = BeitV2Config::default();
    let early: usize = case.setting_or("early_layers", defaults.aggregation.layer + 1)?;
    Ok(BeitV2Config {
        aggregation: AggregationDecoderConfig {
            layer: early.saturating_sub(1),
            depth: case.setting_or("head_layers", defaults.aggregation.depth)?,
            shared_head: case.setting_or("shared_lm_head", defaults.aggregation.shared_head)?,
        },
        encoder: vit(case, defaults.encoder)?,
        ..BeitV2Config::default()
    })
}

/// The recorded tokenizer.
fn tokenizer(case: &Case, device: &Device) -> Result<VqKdTokenizer> {
    let sizes: Sizes = case.setting("vqkd")?.ok_or_else(|| no_setting("vqkd"))?;
    let store = ParamStore::teacher(device);
    let tokenizer = VqKdTokenizer::new(&store.root(), &sizes.tokenizer(case)?)?;
    let all = Source::named("vqkd")?.import(&case.group("teacher."))?;
    // The decoder makes no tokens.
    let own: WeightMap = all
        .iter()
        .filter(|(name, _)| store.var(name).is_some())
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect();
    store.load(&own)?;
    Ok(tokenizer)
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let (grid, size) = (config.encoder.grid()?, config.encoder.image_size);
    let target = TokenTarget::new(tokenizer(case, device)?, 1);
    let vocab_size = target.vocab_size();
    case.fixed("vocab_size", vocab_size)?;
    let store = config.store(device, 0);
    let view = TokenView {
        index: 1,
        size: size.into(),
    };
    let mut method = config.compose(&store, (target, vocab_size), view)?;
    let mask = Mask::from_bits(grid, &case.bits("input.mask", grid)?)?;
    method.override_mask(mask.clone())?;
    let image = case.required("input.image")?.to_device(device)?;
    let tokens = case.required("input.tokenizer_image01")?;
    let view = View::new(image, vec![])?;
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named("beit")?,
        step: StepContext::new(0),
        batch: Batch {
            views: vec![
                view.clone(),
                View::of_unit(tokens.to_device(device)?, vec![])?,
            ],
            ..Batch::single(view)
        },
        outputs: vec![
            ("tokens", traced("target.tokens")),
            ("logits", hidden("pred.token", &mask)),
            ("logits_cls_pt", hidden("pred.aggregation", &mask)),
            ("loss_mim", traced("loss.token")),
            ("loss_cls_pt", traced("loss.aggregation")),
        ],
    })
}
