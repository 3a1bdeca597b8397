//! Export of trained models as folders that timm and transformers can load.

mod configs;
mod images;

use std::path::Path;

use configs::{beit, beit_like, mae, plain, supported, swin_config, vit_config};

use mim_core::encoders::{EncoderConfig, SwinConfig};
use mim_core::weights::{Source, WeightMap};
use mim_core::{Error, ImageSize, Result, files};
use mim_eval::Pooling;
use serde_json::{Value, json};

use crate::Pretrained;
use crate::backbone::choose;
use crate::init::encoder_of;

/// The format of an exported model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// timm: the encoder, with timm's norm epsilon of 1e-6; `timm.create_model("local-dir:DIR", pretrained=True)`.
    Timm,
    /// transformers: MAE with its decoder, Swin with its head, for other methods the encoder; `from_pretrained(DIR)`.
    Hf,
    /// All weights under mim's own names, which are MAE's; `config.json` holds the run's settings.
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

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The encoder, such as `teacher`.
    pub encoder: String,
    /// The line of Python, or the command, that loads it.
    pub loads: String,
}

/// Maximum bytes per file, as in transformers.
const SHARD: usize = 5_000_000_000;

/// Writes an encoder of `model` (the one called `encoder`, or the one used in evaluations) to `folder`, with a
/// `config.json`, and for transformers a `preprocessor_config.json`. Returns how to load it.
///
/// # Errors
///
/// [`Error::Unsupported`] if the format cannot express the encoder, naming the setting, or weights are not finite,
/// naming the tensors; [`Error::Io`] if a file cannot be written: then none is.
pub fn export(
    model: &Pretrained,
    encoder: Option<&str>,
    format: ExportFormat,
    folder: &Path,
) -> Result<Exported> {
    let (name, _) = choose(model.method.as_ref(), encoder)?;
    let stores = model.method.stores();
    // Encoders have the names of the stores that hold their weights.
    let Some(&(_, store)) = stores.iter().find(|(known, _)| *known == name) else {
        return Err(cannot(
            format!("the encoder `{name}`"),
            "it has no weights of its own",
            "use another run",
        ));
    };
    let weights: WeightMap = store
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
            let Some((encoder, names)) = encoder_of(&model.config, store) else {
                let what = format!("exporting {}", model.method.name());
                return Err(cannot(
                    what,
                    "its encoder is not part of its settings",
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
    theirs.check_finite("exporting these weights")?;
    let preprocessor = match format {
        ExportFormat::Hf => Some(images::preprocessor(model)?),
        _ => None,
    };
    files::fill_folder(folder, |new| {
        theirs.write_into(new, SHARD)?;
        files::write_new(&new.join("config.json"), format!("{config:#}\n"))?;
        if let Some(config) = &preprocessor {
            let path = new.join("preprocessor_config.json");
            files::write_new(&path, format!("{config:#}\n"))?;
        }
        Ok(())
    })?;
    Ok(Exported {
        encoder: name.to_owned(),
        loads,
    })
}

/// (source, config.json, loading command, weights)
type Parts = (&'static str, Value, String, WeightMap);

/// timm's name of a pooling.
fn global_pool(pooling: Pooling) -> &'static str {
    match pooling {
        Pooling::Cls => "token",
        Pooling::Mean => "avg",
        Pooling::Max => "max",
    }
}

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
            supported(swin, "timm")?;
            let arguments = swin_arguments(swin);
            ("swin_base_patch4_window7_224", "timm_swin", arguments)
        }
        EncoderConfig::PvtV2(_) | EncoderConfig::ConvMae(_) | EncoderConfig::RopeVit(_) => {
            return Err(other_encoder());
        }
    };
    let ImageSize { height, width } = encoder.image_size();
    arguments["img_size"] = json!([height, width]);
    arguments["in_chans"] = json!(encoder.in_channels());
    // timm reads it from here if a folder is loaded by name.
    let pool = global_pool(model.config.eval.pooling);
    arguments["global_pool"] = json!(pool);
    // With it, timm would move the last norm after the mean; evaluations take the mean of normalised tokens.
    if source == "timm" {
        arguments["fc_norm"] = json!(false);
    }
    let mut config = json!({
        "architecture": architecture,
        "num_classes": 0,
        "num_features": encoder.dim(),
        "global_pool": pool,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [encoder.in_channels(), height, width],
            "fixed_input_size": true,
            "num_classes": 0,
            "pool_size": null,
            "first_conv": "patch_embed.proj",
            "classifier": if source == "timm" { "head" } else { "head.fc" },
        },
    });
    for (key, value) in images::timm(model)? {
        config["pretrained_cfg"][key] = value;
    }
    let loads = format!(
        "timm.create_model(\"local-dir:{}\", pretrained=True)",
        folder.display()
    );
    Ok((source, config, loads, without_mask_token(&weights)))
}

fn swin_arguments(swin: &SwinConfig) -> Value {
    json!({
        "patch_size": swin.patch_size,
        "embed_dim": swin.embed_dim,
        "depths": swin.depths,
        "num_heads": swin.num_heads,
        "window_size": swin.window_size,
        "mlp_ratio": swin.mlp_ratio,
    })
}

/// `weights` are those of the encoder and of the whole model.
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
        EncoderConfig::PvtV2(_) | EncoderConfig::ConvMae(_) | EncoderConfig::RopeVit(_) => {
            return Err(other_encoder());
        }
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

/// The weights without the mask token: timm's models and transformers' plain ViT have none.
fn without_mask_token(weights: &WeightMap) -> WeightMap {
    let kept = weights.iter().filter(|(name, _)| *name != "mask_token");
    kept.map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect()
}

fn other_encoder() -> Error {
    cannot(
        "this encoder",
        "its versions in timm and transformers differ from mim's",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RunConfig;
    use candle_core::Device;

    /// An iBOT whose teacher is not a copy of its student.
    fn ibot() -> Pretrained {
        let text = "method = \"ibot\"\nhead = { out_dim = 8, patch_out_dim = 8, hidden_dim = 8, bottleneck_dim = 4 }\n\
            encoder = { image_size = 32, patch_size = 16, embed_dim = 8, depth = 1, num_heads = 2 }";
        let config = RunConfig::from_table(text.parse().unwrap()).unwrap();
        let method = config.build(&Device::Cpu).unwrap();
        for (_, var) in method.stores()[0].1.vars() {
            var.set(&var.affine(2., 1.).unwrap()).unwrap();
        }
        Pretrained {
            config,
            method,
            step: 0,
        }
    }

    #[test]
    fn the_exported_encoder_is_the_evaluated_one() {
        let (model, folder) = (ibot(), tempfile::tempdir().unwrap());
        let name = "blocks.0.attn.qkv.weight";
        for (asked, written, store) in [(None, "teacher", 1), (Some("student"), "student", 0)] {
            let done = export(&model, asked, ExportFormat::Timm, folder.path()).unwrap();
            assert_eq!(done.encoder, written);
            let got = WeightMap::read(folder.path().join("model.safetensors")).unwrap();
            let own = model.method.stores()[store].1.var(name).unwrap();
            let values = |tensor: &candle_core::Tensor| {
                tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            assert_eq!(values(got.get(name).unwrap()), values(&own));
        }
        assert!(export(&model, Some("momentum"), ExportFormat::Timm, folder.path()).is_err());
        let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        // The default views: 36 pixels, then the central 32; the mean of normalised tokens.
        assert_eq!(config["global_pool"], "avg");
        assert_eq!(config["model_args"]["fc_norm"], false);
        assert_eq!(config["pretrained_cfg"]["crop_mode"], "center");
        export(&model, None, ExportFormat::Hf, folder.path()).unwrap();
        let text = std::fs::read_to_string(folder.path().join("preprocessor_config.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["size"]["shortest_edge"], 36);
        assert_eq!(config["image_mean"], json!(model.method.input().norm.mean));
    }
}
