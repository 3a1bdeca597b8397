//! The golden cases of MimCo.

use mim_core::encoders::VitConfig;
use mim_core::nn::PosEmbedKind;

use super::MimCoConfig;
use crate::MethodConfig;
use crate::parity::golden::{Golden, Output, Plain, Setting, VIT, frozen_vit};
use Output::{By, Trace};
use Setting::{Fixed, Renamed, Same};

pub(super) const GOLDEN: Golden<MimCoConfig> = Golden {
    settings: &[
        VIT,
        Fixed("patch_head", Plain::Text("linear")),
        Renamed("image_head.hidden", "image_head.hidden_dim"),
        Renamed("mask_unit", "mask_patch_size"),
        Same(
            "",
            "",
            &[
                "mask_ratio",
                "patch_temperature",
                "image_temperature",
                "patch_weight",
                "image_weight",
            ],
        ),
    ],
    build: |case, config, device| {
        // Its position table is an ordinary parameter.
        let base = VitConfig {
            pos_embed: PosEmbedKind::Learned,
            mask_token: false,
            ..config.encoder.clone()
        };
        let sizes = &[Same(
            "",
            "",
            &["embed_dim", "depth", "num_heads", "norm_eps"],
        )];
        let teacher = frozen_vit(case, ("teacher", sizes), base, "mimco", device)?;
        Ok(Box::new(config.compose(&config.store(device, 0), teacher)?))
    },
    outputs: &[
        ("teacher_patches", Trace("target.features")),
        (
            "teacher_image",
            By(|_, recorded| Ok(recorded.get("target.features")?.mean(1)?)),
        ),
        ("student_latent", Trace("latent")),
        ("student_patches", Trace("pred.patch")),
        ("student_image", Trace("pred.image")),
        ("patch_logits", Trace("patch.score")),
        ("patch_ce", Trace("patch.per_token")),
        ("image_logits", Trace("image.score")),
        ("loss_patch", Trace("loss.patch")),
        ("loss_image", Trace("loss.image")),
    ],
    ..Golden::new("mimco", |config| config.encoder.grid())
};
