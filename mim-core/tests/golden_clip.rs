//! CLIP's visual tower against numbers recorded from both implementations.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::nn::{Activation, PosEmbedKind};
use mim_core::weights::{Source, WeightMap};
use mim_core::{EncodeOptions, Encoder, Masking, ParamStore, StepContext, TraceSink};
use mim_testing::shared;

#[derive(Default)]
struct Trace(Mutex<BTreeMap<String, Tensor>>);

impl TraceSink for Trace {
    fn record(&self, name: &str, value: &Tensor) -> mim_core::Result<()> {
        let mut all = self.0.lock().unwrap();
        all.insert(name.to_owned(), value.detach());
        Ok(())
    }
}

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

/// To 1e-5, or 2e-6 of the largest value where that is more.
#[track_caller]
fn assert_close(got: &Tensor, want: &Tensor) {
    assert_eq!(got.dims(), want.dims());
    let flat = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let largest = flat(want).iter().fold(0f32, |max, x| max.max(x.abs()));
    for (got, want) in flat(got).iter().zip(flat(want)) {
        let close = (got - want).abs() <= 1e-5f32.max(2e-6 * largest);
        assert!(close, "{got} against {want}");
    }
}

#[test]
#[ignore = "needs ../shared/goldens"]
fn tokens_and_attention_are_those_of_both_implementations() {
    let (json, case) = case();
    let config = config(&json["config"]);
    assert_eq!(config.activation, Activation::QuickGelu);
    for (prefix, source) in [("param.", "openai_clip"), ("hf.", "hf_clip")] {
        let store = ParamStore::cpu(0);
        let tower = Vit::new(&store.root(), &config).unwrap();
        let theirs = case.strip_prefix(prefix);
        let source = Source::named(source).unwrap();
        let ours = source.import(&theirs).unwrap();
        store.load(&ours).unwrap();
        let back = source.export(&ours).unwrap();
        assert_eq!(
            back.names().collect::<Vec<_>>(),
            theirs.names().collect::<Vec<_>>()
        );
        let trace = Arc::new(Trace::default());
        let step = StepContext {
            trace: Some(trace.clone()),
            ..StepContext::inference()
        };
        let image = case.get("input.image").unwrap();
        let want = EncodeOptions {
            cls_attention: true,
            layers: vec![config.depth - 1],
            ..EncodeOptions::default()
        };
        let encoded = tower.encode(image, Masking::None, &want, &step).unwrap();
        let expect = |name: &str| case.get(&format!("expect.{name}")).unwrap();
        assert_close(&encoded.tokens, expect("tokens"));
        assert_close(&encoded.cls().unwrap().unwrap(), expect("image_embeds"));
        assert_close(
            encoded.layer(config.depth - 1).unwrap(),
            expect("last_hidden_state"),
        );
        let traced = |name: &str| trace.0.lock().unwrap()[name].clone();
        assert_close(&traced("norm_pre"), expect("ln_pre_out"));
        assert_close(&traced("attention"), expect("attention_heads"));
        assert_close(&traced("attention").mean(1).unwrap(), expect("attention"));
        let heads = expect("attention_heads");
        let row = heads.narrow(2, 0, 1).unwrap().squeeze(2).unwrap();
        let row = row.narrow(2, 1, row.dim(2).unwrap() - 1).unwrap();
        assert_close(&encoded.cls_attention.unwrap(), &row);
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
