//! The golden cases of dBOT.

use candle_core::{D, Device, Tensor};
use mim_core::{Mask, PatchGrid};

use super::DBotConfig;
use crate::parity::golden::{
    Golden, MAE_DECODER, Made, Masks, Output, Setting, VIT, random_mask, same,
};
use crate::parity::{Case, Recorded, Result};
use Output::{By, Trace};
use Setting::{Renamed, Same};

pub(super) const GOLDEN: Golden<DBotConfig> = Golden {
    settings: &[
        VIT,
        MAE_DECODER,
        Same(
            "",
            "",
            &["mask_ratio", "norm_feature_loss", "target_norm_eps"],
        ),
        // A step of any stage equals a step of the first stage with a teacher of that depth, by default the encoder's.
        Renamed("depth", "first_teacher_depth"),
        Renamed("teacher_depth", "first_teacher_depth"),
        Renamed("teacher_final_norm", "teacher_norm"),
        Renamed("smooth_l1_beta", "beta"),
    ],
    masks: Masks::By(mask),
    outputs: &[
        ("latent", Trace("latent")),
        ("pred", Trace("pred.feature")),
        ("teacher_out", Trace("teacher.latent")),
        ("target", By(|_, recorded| target(recorded))),
        ("loss_per_token", By(per_token)),
    ],
    ..Golden::new("dbot", |config| config.encoder.grid())
};

/// The mask from the case's noise. It must equal the recorded one.
fn mask(case: &Case, config: &DBotConfig, grid: PatchGrid) -> Result<Mask> {
    let mask = random_mask(config.mask_ratio, grid, &case.flat::<f32>("input.noise")?)?;
    // Their mask includes the class token, which is always 1.
    let with_class: Vec<u8> = case.flat("input.mask")?;
    let rows = with_class.chunks(1 + grid.len());
    let bits: Vec<u8> = rows.flat_map(|row| row.iter().skip(1)).copied().collect();
    if bits != mask.to_bits() {
        return Err(case.other_mask("input.mask"));
    }
    same(case, "input.ids_restore", &mask.ids_restore(&Device::Cpu)?)?;
    Ok(mask)
}

/// The target as it enters the loss, class token first.
fn target(recorded: &Recorded) -> Result<Tensor> {
    let class = recorded.get("teacher.class")?.unsqueeze(1)?;
    Ok(Tensor::cat(
        &[&class, &recorded.get("target.features")?],
        1,
    )?)
}

/// The smooth L1 distance of each token.
fn per_token(made: &Made<DBotConfig>, recorded: &Recorded) -> Result<Tensor> {
    let beta = made.config.beta;
    let size = (recorded.get("pred.feature")? - target(recorded)?)?.abs()?;
    let inner = size.minimum(beta)?;
    let distance = ((inner.sqr()? * (0.5 / beta))? + (&size - &inner)?)?;
    Ok(distance.mean(D::Minus1)?)
}
