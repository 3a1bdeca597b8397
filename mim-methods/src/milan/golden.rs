//! The golden cases of MILAN.

use candle_core::{D, Device, Tensor};
use mim_core::encoders::VitConfig;
use mim_core::{Encoder, Mask, PatchGrid};
use mim_masking::WeightedMaskerConfig;

use super::{MilanConfig, MilanTarget};
use crate::MethodConfig;
use crate::parity::golden::{
    CLIP, Golden, MAE_DECODER, Masks, Output, Plain, Setting, VIT, agrees, frozen_vit, random_mask,
};
use crate::parity::{Case, Recorded, Result};
use Output::{Any, By, Trace};
use Setting::{Choice, Fixed, Informs, Renamed, Same, Set};

pub(super) const GOLDEN: Golden<MilanConfig> = Golden {
    settings: &[
        Fixed("qkv_bias", Plain::Bool(true)),
        Fixed("clip_input", Plain::Text("same_image")),
        VIT,
        MAE_DECODER,
        Same("", "", &["mask_ratio"]),
        Renamed("attn_mask", "semantic"),
        Choice(
            "use_clip",
            &[
                ("true", &[]),
                (
                    "false",
                    &[
                        Set("target.type", Plain::Text("pixels")),
                        Set("target.norm_pix_loss", Plain::Bool(true)),
                        Renamed("norm_pix_loss", "target.norm_pix_loss"),
                    ],
                ),
            ],
        ),
        // Each target has a setting that the other does not use.
        Informs(&["norm_pix_loss", "clip"]),
    ],
    build: |case, config, device| {
        let teacher = match config.target {
            MilanTarget::Features(_) => Some(teacher(case, &config.encoder, device)?),
            MilanTarget::Pixels { .. } => None,
        };
        Ok(Box::new(config.compose(&config.store(device, 0), teacher)?))
    },
    masks: Masks::By(mask),
    outputs: &[
        ("latent", Trace("latent")),
        ("pred", Any(&["pred.feature", "pred.pixel"])),
        ("clip_target", Trace("teacher.latent")),
        ("clip_attention", By(|_, recorded| attention(recorded))),
        (
            "importance",
            By(|_, recorded| {
                let row = attention(recorded)?.narrow(1, 0, 1)?.squeeze(1)?;
                Ok(row.narrow(1, 1, row.dim(1)? - 1)?)
            }),
        ),
        ("loss_per_token", By(|_, recorded| loss_per_token(recorded))),
    ],
    ..Golden::new("mae", |config| config.encoder.grid())
};

/// The tower of a case with its recorded weights.
fn teacher(case: &Case, student: &VitConfig, device: &Device) -> Result<Box<dyn Encoder>> {
    let base = VitConfig {
        image_size: student.image_size,
        in_channels: student.in_channels,
        ..VitConfig::clip_base()
    };
    frozen_vit(case, ("clip", CLIP), base, "openai_clip", device)
}

/// The mask from the case's draws. The recorded order must agree with it.
fn mask(case: &Case, config: &MilanConfig, grid: PatchGrid) -> Result<Mask> {
    let mask_ratio = config.mask_ratio;
    let mask = match config.semantic {
        true => WeightedMaskerConfig { mask_ratio }.build()?.from_draws(
            grid,
            &case.flat::<f32>("expect.importance")?,
            &case.flat::<f32>("input.exp_noise")?,
        )?,
        false => random_mask(mask_ratio, grid, &case.flat::<f32>("input.noise")?)?,
    };
    agrees(case, &mask)?;
    Ok(mask)
}

/// `2 - 2 cos` of each token.
fn loss_per_token(recorded: &Recorded) -> Result<Tensor> {
    let unit = |xs: Tensor| -> Result<Tensor> {
        let length = xs.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
        Ok(xs.broadcast_div(&length)?)
    };
    let pred = unit(recorded.get("pred.feature")?)?;
    let target = unit(recorded.get("teacher.latent")?)?;
    let cosine = (pred * target)?.sum(D::Minus1)?;
    Ok(cosine.affine(-2., 2.)?)
}

/// Attention of the tower's last block, averaged over heads.
fn attention(recorded: &Recorded) -> Result<Tensor> {
    Ok(recorded.get("teacher.attention")?.mean(1)?)
}
