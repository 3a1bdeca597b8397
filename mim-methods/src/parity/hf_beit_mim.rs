//! Golden cases of transformers' `BeitForMaskedImageModeling`: BEiT whose tokens are recorded.

use candle_core::{DType, Device, Tensor};
use mim_core::weights::Source;
use mim_core::{Batch, Mask, Method, StepContext, View};

use super::beit::{traced, vit};
use super::cae::Known;
use super::run::Extract;
use super::{Case, Recorded, Result, Rounding, Setup};
use crate::tokens::TokenView;
use crate::{BeitConfig, MethodConfig};

/// The tokens of all patches, from those of the hidden ones; the others are never compared.
fn tokens(case: &Case, mask: &Mask, device: &Device) -> Result<Tensor> {
    let labels: Vec<i64> = case.required("input.labels")?.to_vec1()?;
    let mut labels = labels.into_iter();
    let mut all = Vec::new();
    for bit in mask.to_bits() {
        let label = if bit == 1 { labels.next() } else { Some(0) };
        let label = label.and_then(|label| u32::try_from(label).ok());
        all.push(label.ok_or_else(|| case.bad("`input.labels` do not fit the mask".to_owned()))?);
    }
    let shape = (mask.rows(), mask.grid().len());
    Ok(Tensor::from_vec(all, shape, device)?)
}

pub(super) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    // The mask is recorded, and `mlp_ratio` says the width.
    case.informs(&["mask_ratio", "mlp_hidden"]);
    let config = BeitConfig {
        encoder: vit(case, BeitConfig::default().encoder)?,
        ..BeitConfig::default()
    };
    let grid = config.encoder.grid()?;
    let mask = Mask::from_bits(grid, &case.bits("input.mask", grid)?)?;
    let known = Known(tokens(case, &mask, device)?);
    let vocab_size = case.setting_or("vocab_size", 8192)?;
    let view = TokenView {
        index: 0,
        size: config.encoder.image_size.into(),
    };
    let store = config.store(device, 0);
    let mut method = config.compose("beit", &store, (known, vocab_size), view)?;
    method.override_mask(mask)?;
    let images = case.required("input.image")?.to_dtype(DType::F32)?;
    let last = format!("block{}", config.encoder.depth.saturating_sub(1));
    let last: Extract = Box::new(move |recorded: &Recorded| recorded.get(&last));
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "hf_beit".to_owned())?)?,
        step: StepContext::new(0),
        batch: Batch::single(View::new(images.to_device(device)?, vec![])?),
        outputs: vec![("logits", traced("pred.token")), ("hidden_last", last)],
    })
}
