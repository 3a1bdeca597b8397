//! Trained models as folders that timm and transformers load.

mod configs;

use std::path::Path;

use configs::{beit, beit_like, mae, plain, supported, swin_config, vit_config};

use mim_core::encoders::EncoderConfig;
use mim_core::weights::{Source, WeightMap};
use mim_core::{Error, ImageSize, Norm, Result};
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
    weights: WeightMap,
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
    Ok((source, config, loads, without_mask_token(&weights)))
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
                    ("ViTModel", "hf_vit", config, without_mask_token(&only))
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

/// timm's models and transformers' plain ViT have no token for hidden patches.
fn without_mask_token(weights: &WeightMap) -> WeightMap {
    let kept = weights.iter().filter(|(name, _)| *name != "mask_token");
    kept.map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect()
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
