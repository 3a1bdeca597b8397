//! The golden cases of DMJD.

use candle_core::{DType, Tensor};
use mim_core::{Mask, PatchGrid};
use mim_targets::{HogNorm, HogTargetConfig};

use super::DmjdConfig;
use crate::parity::golden::{
    Golden, HYBRID, Made, Masks, Output, Pixels, Plain, Setting, Views, hybrid,
};
use crate::parity::{Case, Result};
use Output::{Bits, By, ChannelsFirst, IdsKeep, IdsRestore, Tokens, Trace};
use Setting::{Choice, Informs, Renamed, Same, Set};

pub(super) const GOLDEN: Golden<DmjdConfig> = Golden {
    settings: &[
        HYBRID,
        Renamed("decoder.embed_dim", "visible.dim"),
        Renamed("norm_eps", "visible.norm_eps"),
        Choice(
            "mask_type",
            &[
                ("block", &[Set("masker.unit", Plain::Int(2))]),
                ("rand", &[Set("masker.unit", Plain::Int(1))]),
            ],
        ),
        Same("", "masker", &["mask_ratio", "pred_ratio"]),
        Choice(
            "mim_loss_type",
            &[
                ("l2", &[Set("masked_loss.type", Plain::Text("mse"))]),
                (
                    "smooth_l1",
                    &[
                        Set("masked_loss.type", Plain::Text("smooth_l1")),
                        Set("masked_loss.beta", Plain::Float(2.)),
                        Renamed("smooth_l1_beta", "masked_loss.beta"),
                    ],
                ),
            ],
        ),
        Choice(
            "vis_loss_type",
            &[
                (
                    "smooth_l1",
                    &[
                        Set("visible_loss.type", Plain::Text("smooth_l1")),
                        Set("visible_loss.beta", Plain::Float(2.)),
                        Renamed("smooth_l1_beta", "visible_loss.beta"),
                    ],
                ),
                ("l2", &[Set("visible_loss.type", Plain::Text("mse"))]),
            ],
        ),
        Same("", "", &["visible_order", "theta"]),
        Renamed("hog.nbins", "bins"),
        Renamed("hog.pool", "cell"),
        Renamed("hog.whiten_eps", "whiten_eps"),
        Same("input_norm", "norm", &["mean", "std"]),
        // Counts that follow from sizes and ratios.
        Informs(&["grid", "n_units", "n_keep_units", "n_extra_units"]),
        // Not used unless a loss is smooth L1.
        Informs(&["smooth_l1_beta"]),
    ],
    also: |case, config| hybrid(case, &config.encoder),
    views: Views::Several(&[Pixels::Normalized("image_u8")]),
    masks: Masks::By(mask),
    outputs: &[
        ("mask", Bits),
        ("ids_keep", IdsKeep),
        ("ids_restore", IdsRestore),
        ("hog", By(|made, _| histograms(made))),
        ("target", Trace("target.hog")),
        ("patch_embed1", ChannelsFirst("patch_embed1")),
        ("stage1", ChannelsFirst("stage1")),
        ("stage2", ChannelsFirst("stage2")),
        ("patch_embed4", Tokens("patch_embed4")),
        ("latent", Trace("latent")),
        ("pred", Trace("pred.masked")),
        ("pred_vis", Trace("pred.visible")),
        ("loss_mim", Trace("loss.masked")),
        ("loss_vis", Trace("loss.visible")),
    ],
    ..Golden::new("dmjd", |config| config.encoder.grid())
};

/// The masks of the recorded noise and permutations.
fn mask(case: &Case, config: &DmjdConfig, grid: PatchGrid) -> Result<Mask> {
    let draw = (
        case.flat::<u32>("input.perm_disjoint")?,
        case.flat::<u32>("input.perm_joint")?,
    );
    let (masker, noise) = (config.masker.build()?, case.flat::<f32>("input.noise")?);
    Ok(masker.from_draws(grid, &noise, &[draw])?)
}

/// The histograms before whitening, `[batch, channels, rows, cols, bins]`, with as many rows as are recorded.
fn histograms(made: &Made<DmjdConfig>) -> Result<Tensor> {
    let raw = HogTargetConfig {
        cell_norm: HogNorm::None,
        ..made.config.hog()
    };
    let images = made.case.on("input.image_u8", &made.device)?;
    let all = raw.build()?.histograms(&images.to_dtype(DType::F32)?)?;
    let all = all.permute((0, 1, 3, 4, 2))?.contiguous()?;
    Ok(match made.case.tensor("expect.hog") {
        Some(recorded) if recorded.rank() == 5 && recorded.dim(2)? < all.dim(2)? => {
            all.narrow(2, 0, recorded.dim(2)?)?
        }
        _ => all,
    })
}
