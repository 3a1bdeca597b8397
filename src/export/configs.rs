//! Model settings in the format of transformers, and checks of what it and timm support.

use mim_core::encoders::{RelPosBiasKind, SwinConfig, VitConfig};
use mim_core::nn::{Activation, PosEmbedKind, QkvBias};
use mim_core::{ImageSize, Result};
use mim_methods::MaeConfig;
use serde_json::{Value, json};

use super::cannot;
use crate::Pretrained;

/// The decoder keys of a `ViTMAEConfig`, if the run is an MAE run.
pub(super) fn mae(
    model: &Pretrained,
    vit: &VitConfig,
) -> Result<Option<Vec<(&'static str, Value)>>> {
    if model.method.name() != "mae" {
        return Ok(None);
    }
    let config: MaeConfig = mim_core::settings::read("method", model.config.model.clone())?;
    let decoder = &config.decoder;
    #[expect(clippy::float_cmp, reason = "both are settings")]
    let differs = decoder.norm_eps != vit.norm_eps;
    if differs {
        let what = "a decoder whose norm_eps differs from the encoder's";
        return Err(cannot(
            what,
            "ViTMAEConfig has only one norm_eps",
            "use --format timm or mae",
        ));
    }
    if vit.image_size.height != vit.image_size.width {
        let what = format!("image_size {}", vit.image_size);
        return Err(cannot(
            what,
            "ViTMAE supports only square images",
            "use --format timm or mae",
        ));
    }
    Ok(Some(vec![
        ("decoder_hidden_size", json!(decoder.embed_dim)),
        ("decoder_num_hidden_layers", json!(decoder.depth)),
        ("decoder_num_attention_heads", json!(decoder.num_heads)),
        (
            "decoder_intermediate_size",
            json!(hidden(decoder.embed_dim, decoder.mlp_ratio)),
        ),
        ("mask_ratio", json!(config.mask_ratio)),
        ("norm_pix_loss", json!(config.norm_pix_loss)),
    ]))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a layer's width"
)]
fn hidden(dim: usize, ratio: f64) -> usize {
    (dim as f64 * ratio) as usize
}

/// One number for square images, otherwise height and width.
pub(super) fn size(size: ImageSize) -> Value {
    match size.height == size.width {
        true => json!(size.height),
        false => json!([size.height, size.width]),
    }
}

pub(super) fn vit_config(vit: &VitConfig) -> Value {
    json!({
        "hidden_size": vit.embed_dim,
        "num_hidden_layers": vit.depth,
        "num_attention_heads": vit.num_heads,
        "intermediate_size": hidden(vit.embed_dim, vit.mlp_ratio),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": vit.norm_eps,
        "image_size": size(vit.image_size),
        "patch_size": vit.patch_size,
        "num_channels": vit.in_channels,
        "qkv_bias": true,
    })
}

pub(super) fn beit_like(vit: &VitConfig) -> bool {
    vit.qkv_bias == QkvBias::QV && vit.layer_scale_init.is_some()
}

pub(super) fn beit(vit: &VitConfig) -> Result<Value> {
    let common = VitConfig {
        qkv_bias: QkvBias::Full,
        layer_scale_init: None,
        rel_pos_bias: RelPosBiasKind::None,
        pos_embed: PosEmbedKind::Learned,
        ..vit.clone()
    };
    plain(&common, "transformers' BEiT")?;
    let mut config = vit_config(vit);
    let more = json!({
        "model_type": "beit",
        "use_mask_token": vit.mask_token,
        "use_absolute_position_embeddings": vit.pos_embed != PosEmbedKind::None,
        "use_relative_position_bias": vit.rel_pos_bias.is_per_block(),
        "use_shared_relative_position_bias": vit.rel_pos_bias.is_shared(),
        "layer_scale_init_value": vit.layer_scale_init,
        "drop_path_rate": 0.0,
        "use_mean_pooling": false,
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    Ok(config)
}

pub(super) fn swin_config(swin: &SwinConfig) -> Value {
    json!({
        "model_type": "swin",
        "image_size": size(swin.image_size),
        "patch_size": swin.patch_size,
        "num_channels": swin.in_channels,
        "embed_dim": swin.embed_dim,
        "depths": swin.depths,
        "num_heads": swin.num_heads,
        "window_size": swin.window_size,
        "mlp_ratio": swin.mlp_ratio,
        "qkv_bias": true,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "use_absolute_embeddings": false,
        "layer_norm_eps": swin.norm_eps,
        "encoder_stride": swin.output_stride(),
    })
}

/// Refuses settings that a plain ViT of `library` does not support.
pub(super) fn plain(vit: &VitConfig, library: &str) -> Result<()> {
    let rules = [
        (vit.class_token, "class_token = false"),
        (vit.num_class_tokens == 1, "num_class_tokens other than 1"),
        (vit.final_norm, "final_norm = false"),
        (vit.patch_bias, "patch_bias = false"),
        (!vit.norm_pre, "norm_pre = true"),
        (vit.projection_dim.is_none(), "projection_dim"),
        (vit.qkv_bias == QkvBias::Full, "qkv_bias other than full"),
        (
            vit.activation == Activation::Gelu,
            "activation other than gelu",
        ),
        (vit.layer_scale_init.is_none(), "layer_scale_init"),
        (vit.rel_pos_bias == RelPosBiasKind::None, "rel_pos_bias"),
        (vit.pos_embed != PosEmbedKind::None, "pos_embed = none"),
    ];
    match rules.iter().find(|(holds, _)| !holds) {
        None => Ok(()),
        Some((_, setting)) => Err(cannot(
            format!("an encoder with {setting}"),
            format!("the ViT of {library} does not support this"),
            "use --format mae, or mim convert with the names you need",
        )),
    }
}

pub(super) fn supported(swin: &SwinConfig, library: &str) -> Result<()> {
    let plain = swin.patch_norm && swin.qkv_bias == QkvBias::Full && !swin.pad;
    match plain {
        true => Ok(()),
        false => Err(cannot(
            "a Swin with pad, without patch_norm or with other biases",
            format!("the Swin of {library} does not support this"),
            "use --format mae, or mim convert with the names you need",
        )),
    }
}
