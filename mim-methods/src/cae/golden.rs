//! The golden cases of CAE.

use candle_core::DType;
use mim_core::decoders::LatentRegressorConfig;
use mim_masking::HiddenCount;

use super::CaeConfig;
use crate::MethodConfig;
use crate::parity::golden::{Golden, Known, Output, Plain, Setting, VIT};
use crate::tokens::TokenView;
use Output::{Hidden, Rows, Trace, Weighted};
use Setting::{Fixed, Renamed, Same, Set};

pub(super) const GOLDEN: Golden<CaeConfig> = Golden {
    settings: &[
        Fixed("qkv_bias", Plain::Text("q_and_v")),
        VIT,
        Renamed("layer_scale_init", "encoder.layer_scale_init"),
        Same("", "", &["align_loss_weight"]),
        Set("regressor.drop_path_rate", Plain::Float(0.)),
        Same("", "regressor", &["mlp_ratio", "norm_eps"]),
        Renamed("decoder.depth", "regressor.decoder_depth"),
        Renamed("decoder.layer_scale_init", "regressor.layer_scale_init"),
        Same(
            "regressor",
            "regressor",
            &["embed_dim", "depth", "num_heads", "layer_scale_init"],
        ),
    ],
    also: |case, config| {
        let LatentRegressorConfig {
            embed_dim,
            num_heads,
            ..
        } = config.regressor;
        case.fixed("decoder.embed_dim", embed_dim)?;
        case.fixed("decoder.num_heads", num_heads)?;
        let ratio: f64 = case.setting_or("mask_ratio", 0.5)?;
        let patches = config.encoder.grid()?.len();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of the patches"
        )]
        let count = (patches as f64 * ratio).round() as usize;
        config.masker.hidden = HiddenCount::Patches { count };
        Ok(())
    },
    build: |case, config, device| {
        let tokens = case.on("input.tokens_all", device)?.to_dtype(DType::U32)?;
        let vocab_size = case.setting_or("vocab_size", 8192)?;
        let view = TokenView {
            index: 0,
            size: config.encoder.image_size.into(),
        };
        let (store, target) = (config.store(device, 0), (Known(tokens), vocab_size));
        Ok(Box::new(config.compose(&store, target, view)?))
    },
    outputs: &[
        ("labels", Hidden("target.tokens")),
        ("encoder_visible", Trace("latent")),
        ("latent_predict", Trace("regressed")),
        ("latent_target", Trace("target.alignment")),
        ("logits", Rows("pred.token")),
        ("loss_ce", Trace("loss.token")),
        (
            "loss_align_weighted",
            Weighted("loss.align", |config| config.align_loss_weight),
        ),
    ],
    ..Golden::new("cae", |config| config.encoder.grid())
};
