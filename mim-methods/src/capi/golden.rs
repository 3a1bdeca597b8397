//! The golden cases of CAPI.

use candle_core::{DType, Device, Tensor};
use mim_core::{Mask, PatchGrid};
use mim_masking::InverseBlockMaskerConfig;

use super::CapiConfig;
use crate::parity::golden::{CONSTANT_MOMENTUM, Golden, Masks, Output, Setting, VIT, agrees, same};
use crate::parity::{Case, Result};
use Output::Trace;
use Setting::{Informs, Renamed, Same, Word};

pub(crate) const GOLDEN: Golden<CapiConfig> = Golden {
    settings: &[
        VIT,
        Renamed("n_registers", "encoder.num_registers"),
        Word(
            "register_coordinates",
            "encoder.register_coordinates",
            &[("edge", "edge"), ("zeros", "zeros")],
        ),
        Renamed("scale_reg_to_visible", "encoder.scale_registers"),
        Same("rope", "encoder", &["max_freq", "min_freq"]),
        Same("", "masker", &["mask_ratio", "min_aspect", "roll"]),
        Renamed("prediction_subsampling", "masker.pred_ratio"),
        CONSTANT_MOMENTUM,
        Same("", "", &["student_temp"]),
        Same(
            "",
            "clustering",
            &["num_clusters", "target_temp", "pred_temp"],
        ),
        Renamed("clustering_bias", "clustering.bias"),
        Renamed("n_sk_iter", "clustering.iterations"),
        Renamed("positionwise_sk", "clustering.by_position"),
        Same("decoder", "predictor", &["embed_dim", "depth", "num_heads"]),
        // The clustering head's rates are recorded as factors of the optimizer's, too.
        Informs(&["clustering_optimizer"]),
    ],
    masks: Masks::By(mask),
    check: |made| {
        let (mask, visible) = (made.mask()?, made.mask()?.exact_keep()?);
        made.case.fixed("visible_tokens", visible)?;
        made.case
            .fixed("masked_tokens", mask.grid().len() - visible)?;
        made.case.fixed("predicted_tokens", mask.width() - visible)
    },
    outputs: &[
        ("coords", Trace("coords")),
        ("student_encoder", Trace("latent")),
        ("student_decoder", Trace("student_decoder")),
        ("student_logits", Trace("student_logits")),
        ("teacher_encoder", Trace("teacher.latent")),
        ("teacher_logits", Trace("teacher_logits")),
        ("assignments", Trace("assignments")),
        ("targets", Trace("targets")),
        ("target_entropy", Trace("target_entropy")),
        ("clustering_loss", Trace("loss.clustering")),
        ("capi_loss", Trace("loss.capi")),
    ],
    ..Golden::new("capi", |config| config.encoder.grid())
};

/// The mask from the recorded draws. It must equal the recorded one.
fn mask(case: &Case, config: &CapiConfig, grid: PatchGrid) -> Result<Mask> {
    let mask = replay(case, &config.masker, (grid, case.needs("batch")?), "")?;
    agrees(case, &mask)?;
    same(case, "input.visible_indices", &ids(&mask, false)?)?;
    same(case, "input.predict_indices", &ids(&mask, true)?)?;
    Ok(mask)
}

/// The mask from recorded draws whose names end with `suffix`.
pub(crate) fn replay(
    case: &Case,
    config: &InverseBlockMaskerConfig,
    (grid, images): (PatchGrid, usize),
    suffix: &str,
) -> Result<Mask> {
    // Bounds and logarithm of the aspect; places, and shifts where it rolls.
    let aspects: Vec<f64> = case.flat(&format!("input.aspect_draws{suffix}"))?;
    let places: Vec<f64> = case.flat(&format!("input.position_draws{suffix}"))?;
    let used = if config.roll { 4 } else { 2 };
    let recorded = places.len() / images.max(1);
    let rows = aspects.chunks(3).zip(places.chunks(recorded.max(1)));
    let draws: Vec<f64> = rows
        .flat_map(|(aspect, places)| [&aspect[2..], &places[..used.min(recorded)]].concat())
        .collect();
    let noise: Vec<f32> = case.flat(&format!("input.subsample_noise{suffix}"))?;
    Ok(config.build()?.from_draws(grid, images, (&draws, &noise))?)
}

/// Indices of the visible or the predicted patches, counted over all images.
pub(crate) fn ids(mask: &Mask, hidden: bool) -> Result<Tensor> {
    let ids = mask.flat(hidden, mask.rows(), &Device::Cpu)?;
    Ok(ids.to_dtype(DType::I64)?)
}
