//! Trained models as folders that timm and transformers load.

use std::path::Path;

use mim_core::encoders::{EncoderConfig, RelPosBiasKind, SwinConfig, VitConfig};
use mim_core::nn::{Activation, PosEmbedKind, QkvBias};
use mim_core::weights::{Source, WeightMap};
use mim_core::{Error, ImageSize, Norm, Result};
use mim_methods::MaeConfig;
use serde_json::{Value, json};

use crate::Pretrained;
use crate::init::encoder_of;

/// For whom a model is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// timm: the encoder, whose norms have timm's epsilon of 1e-6 there; `timm.create_model("local-dir:DIR", pretrained=True)`.
    Timm,
    /// transformers: MAE with its decoder, Swin with its head, of other methods the encoder; `from_pretrained(DIR)`.
    Hf,
    /// Everything under mim's own names, which are MAE's; `config.json` holds the run's settings.
    Mae,
}

impl std::str::FromStr for ExportFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "timm" => Ok(Self::Timm),
            "hf" => Ok(Self::Hf),
            "mae" => Ok(Self::Mae),
            _ => Err("use timm, hf or mae".to_owned()),
        }
    }
}

/// Files of at most so many bytes, as transformers writes them.
const SHARD: usize = 5_000_000_000;

/// Writes the student of `model` with a `config.json` into `folder`, and says what loads it.
///
/// # Errors
///
/// [`Error::Unsupported`] if the format cannot express the encoder, naming the setting; [`Error::Io`] if a file cannot
/// be written.
pub fn export(model: &Pretrained, format: ExportFormat, folder: &Path) -> Result<String> {
    let stores = model.method.stores();
    let Some(&(_, student)) = stores.first() else {
        return Err(cannot(
            "a method without weights",
            "there is nothing to write",
            "use another run",
        ));
    };
    let weights: WeightMap = student
        .vars()
        .into_iter()
        .map(|(name, var)| (name, var.as_detached_tensor()))
        .collect();
    let (source, config, loads, weights) = match format {
        ExportFormat::Mae => {
            let config = model.config.to_json()?;
            let loads = format!("mim pretrain --init {}", folder.display());
            ("mae", config, loads, weights)
        }
        ExportFormat::Timm | ExportFormat::Hf => {
            let Some((encoder, names)) = encoder_of(&model.config, student) else {
                let what = format!("exporting {}", model.method.name());
                return Err(cannot(
                    what,
                    "its encoder is not one of the settings",
                    "use --format mae",
                ));
            };
            let only = || -> WeightMap {
                let kept = weights.iter().filter(|(name, _)| names.contains(*name));
                kept.map(|(name, tensor)| (name.to_owned(), tensor.clone()))
                    .collect()
            };
            match format {
                ExportFormat::Timm => timm(model, &encoder, only(), folder)?,
                _ => transformers(model, &encoder, (only(), weights), folder)?,
            }
        }
    };
    let theirs = Source::named(source)?.export(&weights)?;
    theirs.write_folder(folder, SHARD)?;
    let path = folder.join("config.json");
    std::fs::write(&path, format!("{config:#}\n")).map_err(Error::io("write", path))?;
    Ok(loads)
}

/// (source, config.json, what loads it, weights)
type Parts = (&'static str, Value, String, WeightMap);

fn timm(
    model: &Pretrained,
    encoder: &EncoderConfig,
    mut weights: WeightMap,
    folder: &Path,
) -> Result<Parts> {
    let (architecture, source, mut arguments) = match encoder {
        EncoderConfig::Vit(vit) => {
            plain(vit, "timm")?;
            let arguments = json!({
                "patch_size": vit.patch_size,
                "embed_dim": vit.embed_dim,
                "depth": vit.depth,
                "num_heads": vit.num_heads,
                "mlp_ratio": vit.mlp_ratio,
            });
            ("vit_base_patch16_224", "timm", arguments)
        }
        EncoderConfig::Swin(swin) => {
            let arguments = json!({
                "patch_size": swin.patch_size,
                "embed_dim": swin.embed_dim,
                "depths": swin.depths,
                "num_heads": swin.num_heads,
                "window_size": swin.window_size,
                "mlp_ratio": swin.mlp_ratio,
            });
            supported(swin, "timm")?;
            ("swin_base_patch4_window7_224", "timm_swin", arguments)
        }
        EncoderConfig::PvtV2(_) | EncoderConfig::ConvMae(_) => return Err(other_encoder()),
    };
    // timm has no token for hidden patches.
    weights = weights
        .iter()
        .filter(|(name, _)| *name != "mask_token")
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect();
    let ImageSize { height, width } = encoder.image_size();
    arguments["img_size"] = json!([height, width]);
    arguments["in_chans"] = json!(encoder.in_channels());
    let Norm { mean, std, .. } = &model.method.input().norm;
    let pool = if source == "timm" { "token" } else { "avg" };
    let config = json!({
        "architecture": architecture,
        "num_classes": 0,
        "num_features": encoder.dim(),
        "global_pool": pool,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [encoder.in_channels(), height, width],
            "fixed_input_size": true,
            "interpolation": "bicubic",
            "mean": mean,
            "std": std,
            "num_classes": 0,
            "pool_size": null,
            "first_conv": "patch_embed.proj",
            "classifier": if source == "timm" { "head" } else { "head.fc" },
        },
    });
    let loads = format!(
        "timm.create_model(\"local-dir:{}\", pretrained=True)",
        folder.display()
    );
    Ok((source, config, loads, weights))
}

/// `weights` are those of the encoder, and all.
fn transformers(
    model: &Pretrained,
    encoder: &EncoderConfig,
    (only, all): (WeightMap, WeightMap),
    folder: &Path,
) -> Result<Parts> {
    let (class, source, config, weights) = match encoder {
        EncoderConfig::Vit(vit) if beit_like(vit) => {
            let config = beit(vit)?;
            ("BeitModel", "hf_beit", config, only)
        }
        EncoderConfig::Vit(vit) => {
            plain(vit, "transformers")?;
            let mut config = vit_config(vit);
            match mae(model, vit)? {
                Some(decoder) => {
                    for (key, value) in decoder {
                        config[key] = value;
                    }
                    config["model_type"] = json!("vit_mae");
                    ("ViTMAEForPreTraining", "hf_vit_mae", config, all)
                }
                None => {
                    config["model_type"] = json!("vit");
                    ("ViTModel", "hf_vit", config, only)
                }
            }
        }
        EncoderConfig::Swin(swin) => {
            supported(swin, "transformers")?;
            let head = all.get("decoder_pred.weight").map(|head| head.dims()[0]);
            let outputs = swin.output_stride().pow(2) * swin.in_channels;
            let pixels = model.method.name() == "simmim" && head == Some(outputs);
            match pixels {
                true => (
                    "SwinForMaskedImageModeling",
                    "hf_swin",
                    swin_config(swin),
                    all,
                ),
                false => ("SwinModel", "hf_swin", swin_config(swin), only),
            }
        }
        EncoderConfig::PvtV2(_) | EncoderConfig::ConvMae(_) => return Err(other_encoder()),
    };
    let mut config = config;
    config["architectures"] = json!([class]);
    config["dtype"] = json!("float32");
    let loads = format!(
        "transformers.{class}.from_pretrained(\"{}\")",
        folder.display()
    );
    Ok((source, config, loads, weights))
}

/// The decoder's keys of a `ViTMAEConfig`, if the run is one of MAE.
fn mae(model: &Pretrained, vit: &VitConfig) -> Result<Option<Vec<(&'static str, Value)>>> {
    if model.method.name() != "mae" {
        return Ok(None);
    }
    let config: MaeConfig = mim_core::settings::read("method", model.config.model.clone())?;
    let decoder = &config.decoder;
    #[expect(clippy::float_cmp, reason = "both are settings")]
    let differs = decoder.norm_eps != vit.norm_eps;
    if differs {
        let what = "a decoder with another norm_eps than the encoder's";
        return Err(cannot(
            what,
            "ViTMAEConfig has one for both",
            "use --format timm or mae",
        ));
    }
    if vit.image_size.height != vit.image_size.width {
        let what = format!("image_size {}", vit.image_size);
        return Err(cannot(
            what,
            "ViTMAE's positions are those of square images",
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

/// One number for square images, height and width for others.
fn size(size: ImageSize) -> Value {
    match size.height == size.width {
        true => json!(size.height),
        false => json!([size.height, size.width]),
    }
}

fn vit_config(vit: &VitConfig) -> Value {
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

fn beit_like(vit: &VitConfig) -> bool {
    vit.qkv_bias == QkvBias::QV && vit.layer_scale_init.is_some()
}

fn beit(vit: &VitConfig) -> Result<Value> {
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
        "use_relative_position_bias": vit.rel_pos_bias == RelPosBiasKind::PerBlock,
        "use_shared_relative_position_bias": vit.rel_pos_bias == RelPosBiasKind::Shared,
        "layer_scale_init_value": vit.layer_scale_init,
        "drop_path_rate": 0.0,
        "use_mean_pooling": false,
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    Ok(config)
}

fn swin_config(swin: &SwinConfig) -> Value {
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

/// Refuses what a plain ViT of `library` does not have.
fn plain(vit: &VitConfig, library: &str) -> Result<()> {
    let rules = [
        (vit.class_token, "class_token = false"),
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
            format!("the ViT of {library} has no such setting"),
            "use --format mae, or mim convert with the names you need",
        )),
    }
}

fn supported(swin: &SwinConfig, library: &str) -> Result<()> {
    let plain = swin.patch_norm && swin.qkv_bias == QkvBias::Full && !swin.pad;
    match plain {
        true => Ok(()),
        false => Err(cannot(
            "a Swin with pad, without patch_norm or with other biases",
            format!("the Swin of {library} has no such setting"),
            "use --format mae, or mim convert with the names you need",
        )),
    }
}

fn other_encoder() -> Error {
    cannot(
        "this encoder",
        "timm's and transformers' versions of it differ",
        "use --format mae",
    )
}

fn cannot(
    what: impl Into<mim_core::Text>,
    why: impl Into<mim_core::Text>,
    fix: impl Into<mim_core::Text>,
) -> Error {
    Error::unsupported(what, why, fix)
}
