//! Files and sizes of CLIP's visual tower; `mim parity` compares what it gives.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use candle_core::{Device, Tensor};
use mim_core::ParamStore;
use mim_core::encoders::{Vit, VitConfig};
use mim_core::nn::PosEmbedKind;
use mim_core::weights::{Source, WeightMap};
use mim_testing::shared;

/// The recorded case.
fn case() -> (serde_json::Value, WeightMap) {
    let case = shared("components/clip_visual_tiny");
    let text = std::fs::read_to_string(case.with_extension("json")).unwrap();
    let tensors = WeightMap::read(case.with_extension("safetensors")).unwrap();
    (serde_json::from_str(&text).unwrap(), tensors)
}

fn config(json: &serde_json::Value) -> VitConfig {
    let size = |value: &serde_json::Value| usize::try_from(value.as_u64().unwrap()).unwrap();
    let clip = &json["clip"];
    VitConfig {
        image_size: size(&json["image_size"]).into(),
        patch_size: size(&clip["patch_size"]),
        embed_dim: size(&clip["width"]),
        depth: size(&clip["layers"]),
        num_heads: size(&clip["heads"]),
        norm_eps: json["layer_norm_eps"].as_f64().unwrap(),
        projection_dim: Some(size(&clip["output_dim"])),
        ..VitConfig::clip_base()
    }
}

#[test]
#[ignore = "needs ../shared/goldens"]
fn whole_checkpoints_and_bare_towers_load() {
    let (json, case) = case();
    let config = config(&json["config"]);
    let zero = || Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap();
    let load = |source: &str, weights: &WeightMap| {
        let store = ParamStore::cpu(0);
        Vit::new(&store.root(), &config).unwrap();
        store.load(&Source::named(source).unwrap().import(weights).unwrap())
    };
    let mut openai = case.strip_prefix("param.");
    for name in [
        "transformer.resblocks.0.ln_1.weight",
        "ln_final.bias",
        "logit_scale",
    ] {
        openai.insert(name, zero());
    }
    load("openai_clip", &openai).unwrap();
    let mut whole = case.strip_prefix("hf.");
    for name in [
        "text_model.encoder.layers.0.layer_norm1.bias",
        "text_projection.weight",
        "vision_model.embeddings.position_ids",
    ] {
        whole.insert(name, zero());
    }
    load("hf_clip", &whole).unwrap();
    // transformers 5 saves a tower of its own without `vision_model.`.
    let bare: WeightMap = case
        .strip_prefix("hf.")
        .iter()
        .map(|(name, tensor)| (name.replace("vision_model.", ""), tensor.clone()))
        .collect();
    load("hf_clip", &bare).unwrap();
}

#[test]
fn released_sizes_are_known_and_others_are_listed() {
    for (arch, dims) in [
        ("clip_vit_base_patch32", (768, 12, 32, 512)),
        ("clip_vit_large_patch14_336", (1024, 24, 14, 768)),
    ] {
        let config = VitConfig::clip(arch).unwrap();
        assert_eq!(
            (
                config.embed_dim,
                config.depth,
                config.patch_size,
                config.output_dim()
            ),
            dims
        );
        assert_eq!(config.embed_dim / config.num_heads, 64);
        assert_eq!(config.pos_embed, PosEmbedKind::Learned);
    }
    let error = VitConfig::clip("clip_vit_huge").unwrap_err().to_string();
    assert!(error.contains("clip_vit_base_patch16"), "{error}");
}
