//! Tiny models of transformers and timm load by name and compute what they compute there.
//!
//! Files and values: scripts/make_weight_fixtures.py.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use mim_core::decoders::{DecoderShape, MaeDecoder, MaeDecoderConfig};
use mim_core::encoders::{RelPosBiasKind, Swin, SwinConfig, Vit, VitConfig};
use mim_core::nn::{Activation, PosEmbedKind, QkvBias};
use mim_core::weights::{Guess, Source, WeightMap, look};
use mim_core::{
    Batch, DecodeContext, Decoder, EncodeOptions, Encoder, Mask, Masking, ParamStore, PatchGrid,
    Rows, StepContext, View,
};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/weights")
        .join(name)
}

/// Loads the weights of a fixture into a store, all but what has a name that starts with `head`.
fn load(fixture: &str, source: &str, store: &ParamStore, head: &str) {
    let theirs = WeightMap::read(folder(fixture)).unwrap();
    let ours = Source::named(source).unwrap().import(&theirs).unwrap();
    let kept: WeightMap = ours
        .iter()
        .filter(|(name, _)| head.is_empty() || !name.starts_with(head))
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect();
    store.load(&kept).unwrap();
}

fn encode(encoder: &dyn Encoder, image: &Tensor, masking: Masking<'_>) -> Tensor {
    let step = StepContext::inference();
    encoder
        .encode(image, masking, &EncodeOptions::default(), &step)
        .unwrap()
        .tokens
}

fn close(got: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(got.dims(), expected.dims(), "{what}");
    let values = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (got, expected) = (values(got), values(expected));
    let scale = expected
        .iter()
        .fold(0f32, |most, value| most.max(value.abs()));
    let worst = got
        .iter()
        .zip(&expected)
        .fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
    assert!(worst <= 1e-5 * scale.max(1.), "{what}: {worst} of {scale}");
}

fn small() -> VitConfig {
    VitConfig {
        image_size: 16.into(),
        patch_size: 4,
        embed_dim: 16,
        depth: 2,
        num_heads: 2,
        mlp_ratio: 2.,
        norm_eps: 1e-12,
        pos_embed: PosEmbedKind::Learned,
        ..VitConfig::default()
    }
}

fn beit(rel_pos_bias: RelPosBiasKind) -> VitConfig {
    VitConfig {
        pos_embed: PosEmbedKind::None,
        qkv_bias: QkvBias::QV,
        layer_scale_init: Some(0.1),
        mask_token: true,
        rel_pos_bias,
        ..small()
    }
}

/// (folder, source, encoder, names of the head in our spelling)
fn vits() -> [(&'static str, &'static str, VitConfig, &'static str); 8] {
    let sincos = VitConfig {
        pos_embed: PosEmbedKind::Sincos,
        ..small()
    };
    let timm = VitConfig {
        norm_eps: 1e-6,
        ..small()
    };
    let dino = VitConfig {
        norm_eps: 1e-6,
        layer_scale_init: Some(1.),
        mask_token: true,
        ..small()
    };
    [
        ("hf_vit_mae", "hf_vit_mae", sincos, "decoder"),
        ("hf_vit", "hf_vit", small(), ""),
        (
            "hf_beit",
            "hf_beit",
            beit(RelPosBiasKind::Shared),
            "decoder",
        ),
        (
            "hf_data2vec",
            "hf_data2vec",
            beit(RelPosBiasKind::PerBlock),
            "",
        ),
        ("hf_dinov2", "hf_dinov2", dino, ""),
        ("timm_vit", "timm", timm, ""),
        (
            "timm_beit",
            "timm_beit",
            VitConfig {
                mask_token: false,
                norm_eps: 1e-6,
                ..beit(RelPosBiasKind::Shared)
            },
            "",
        ),
        (
            "timm_eva",
            "timm_beit",
            VitConfig {
                qkv_bias: QkvBias::QV,
                norm_eps: 1e-6,
                ..small()
            },
            "",
        ),
    ]
}

#[test]
fn vits_compute_what_the_libraries_compute() {
    for (fixture, source, config, head) in vits() {
        let store = ParamStore::cpu(0);
        let encoder = Vit::new(&store.root(), &config).unwrap();
        let theirs = WeightMap::read(folder(fixture)).unwrap();
        let mut ours = Source::named(source).unwrap().import(&theirs).unwrap();
        if fixture == "hf_vit_mae" {
            // Of MAE the decoder alone has a mask token.
            let names: Vec<String> = ours.names().map(str::to_owned).collect();
            ours = names
                .iter()
                .filter(|name| *name != "mask_token")
                .map(|name| (name.clone(), ours.get(name).unwrap().clone()))
                .collect();
        }
        let kept: WeightMap = ours
            .iter()
            .filter(|(name, _)| head.is_empty() || !name.starts_with(head))
            .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
            .collect();
        store
            .load(&kept)
            .unwrap_or_else(|error| panic!("{fixture}: {error}"));
        let values = WeightMap::read(folder(fixture).join("values.safetensors")).unwrap();
        let tokens = encode(&encoder, values.get("image").unwrap(), Masking::None);
        close(&tokens, values.get("latent").unwrap(), fixture);
    }
}

#[test]
fn names_go_back_as_they_were() {
    let tables: Vec<_> = vits().map(|(fixture, source, ..)| (fixture, source)).into();
    let more = [
        ("hf_clip", "hf_clip"),
        ("hf_swin", "hf_swin"),
        ("timm_swin", "timm_swin"),
    ];
    for (fixture, source) in tables.into_iter().chain(more) {
        let theirs = WeightMap::read(folder(fixture)).unwrap();
        let source = Source::named(source).unwrap();
        let ours = source.import(&theirs).unwrap();
        let back = source.export(&ours).unwrap();
        for (name, tensor) in back.iter() {
            // Files of transformers 5.23 spell the decoder otherwise; all versions read what we write.
            let newer = name.replace("decoder.decoder_layers", "decoder.decoder_encoder.layer");
            // A model alone has no name in front of its own; both are read, too.
            let alone = name.split_once('.').map_or(name, |(_, rest)| rest);
            let original = [newer.as_str(), alone]
                .into_iter()
                .find_map(|name| theirs.get(name))
                .unwrap_or_else(|| panic!("{fixture}: {name} was not there"));
            close(
                &tensor.to_dtype(DType::F32).unwrap(),
                &original.to_dtype(DType::F32).unwrap(),
                name,
            );
        }
        // What is not written back is what was passed over: heads and index buffers.
        let written = |name: &str| {
            let ends = |known: &str| {
                known
                    .strip_suffix(name)
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            back.names().any(ends)
        };
        for name in theirs.names().filter(|name| !written(name)) {
            if name.starts_with("decoder.decoder_encoder") {
                continue;
            }
            let passed = [
                "head.",
                "pooler.",
                "relative_position_index",
                "position_ids",
            ];
            assert!(
                passed.iter().any(|part| name.contains(part)),
                "{fixture}: {name} is lost"
            );
        }
    }
}

#[test]
fn clip_projects_its_class_token() {
    let config = VitConfig {
        norm_eps: 1e-5,
        activation: Activation::QuickGelu,
        patch_bias: false,
        norm_pre: true,
        projection_dim: Some(12),
        ..small()
    };
    let store = ParamStore::cpu(0);
    let encoder = Vit::new(&store.root(), &config).unwrap();
    load("hf_clip", "hf_clip", &store, "");
    let values = WeightMap::read(folder("hf_clip").join("values.safetensors")).unwrap();
    let tokens = encode(&encoder, values.get("image").unwrap(), Masking::None);
    close(
        &tokens.narrow(1, 0, 1).unwrap().squeeze(1).unwrap(),
        values.get("class").unwrap(),
        "class",
    );
}

fn mask(values: &WeightMap, grid: PatchGrid) -> Mask {
    let bits: Vec<u8> = values
        .get("mask")
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();
    Mask::from_bits(grid, &bits).unwrap()
}

#[test]
fn swins_compute_what_the_libraries_compute() {
    for (fixture, source, mask_token) in [
        ("hf_swin", "hf_swin", true),
        ("timm_swin", "timm_swin", false),
    ] {
        let config = SwinConfig {
            image_size: 32.into(),
            embed_dim: 8,
            depths: vec![1, 2],
            num_heads: vec![1, 2],
            window_size: 4,
            mlp_ratio: 2.,
            mask_token,
            ..SwinConfig::default()
        };
        let store = ParamStore::cpu(0);
        let encoder = Swin::new(&store.root(), &config).unwrap();
        load(fixture, source, &store, "decoder");
        let values = WeightMap::read(folder(fixture).join("values.safetensors")).unwrap();
        let image = values.get("image").unwrap();
        close(
            &encode(&encoder, image, Masking::None),
            values.get("latent").unwrap(),
            fixture,
        );
        if mask_token {
            let mask = mask(&values, PatchGrid::new(8, 8));
            let tokens = encode(&encoder, image, Masking::Replace(&mask));
            let theirs = WeightMap::read(folder(fixture)).unwrap();
            let ours = Source::named(source).unwrap().import(&theirs).unwrap();
            let linear = ours.get("decoder_pred.weight").unwrap().t().unwrap();
            let pred = tokens.broadcast_matmul(&linear).unwrap();
            let pred = pred
                .broadcast_add(ours.get("decoder_pred.bias").unwrap())
                .unwrap();
            // Pixel shuffle: the head's outputs are channel, row, column of a 8-pixel cell.
            let pred = pred.reshape((2, 4, 4, 3, 8, 8)).unwrap();
            let pred = pred
                .permute([0, 3, 1, 4, 2, 5])
                .unwrap()
                .contiguous()
                .unwrap();
            close(
                &pred.reshape((2, 3, 32, 32)).unwrap(),
                values.get("pred").unwrap(),
                "pred",
            );
        }
    }
}

#[test]
fn mae_predicts_the_same_pixels_for_hidden_patches() {
    let store = ParamStore::cpu(0);
    let encoder = Vit::new(&store.root(), &small()).unwrap();
    let config = MaeDecoderConfig {
        embed_dim: 8,
        depth: 1,
        num_heads: 2,
        mlp_ratio: 2.,
        norm_eps: 1e-12,
        ..MaeDecoderConfig::default()
    };
    let grid = PatchGrid::new(4, 4);
    let decoder = MaeDecoder::new(&store.root(), &config, DecoderShape::new(grid, 16, 48)).unwrap();
    load("hf_vit_mae", "hf_vit_mae", &store, "");
    let values = WeightMap::read(folder("hf_vit_mae").join("values.safetensors")).unwrap();
    let (image, mask) = (values.get("image").unwrap(), mask(&values, grid));
    let step = StepContext::inference();
    let encoded = encoder
        .encode(
            image,
            Masking::Drop(&mask),
            &EncodeOptions::default(),
            &step,
        )
        .unwrap();
    let cx = DecodeContext {
        encoded: &encoded,
        mask: &mask,
        batch: &Batch::single(View::new(image.clone(), vec![]).unwrap()),
        step: &step,
    };
    let pred = decoder.decode(&cx).unwrap();
    assert_eq!(pred.rows, Rows::Masked);
    let hidden: Vec<u32> = (0..2u32)
        .flat_map(|row| {
            mask.hidden(row as usize)
                .iter()
                .map(move |id| 16 * row + id)
        })
        .collect();
    let ids = Tensor::new(hidden, &Device::Cpu).unwrap();
    let all = values.get("pred").unwrap().reshape((32, 48)).unwrap();
    let expected = all.index_select(&ids, 0).unwrap();
    close(&pred.flat().unwrap(), &expected, "pred");
}

#[test]
fn beit_predicts_the_same_tokens_for_hidden_patches() {
    let store = ParamStore::cpu(0);
    let encoder = Vit::new(&store.root(), &beit(RelPosBiasKind::Shared)).unwrap();
    load("hf_beit", "hf_beit", &store, "decoder");
    let values = WeightMap::read(folder("hf_beit").join("values.safetensors")).unwrap();
    let mask = mask(&values, PatchGrid::new(4, 4));
    let tokens = encode(
        &encoder,
        values.get("image").unwrap(),
        Masking::Replace(&mask),
    );
    let theirs = WeightMap::read(folder("hf_beit")).unwrap();
    let ours = Source::named("hf_beit").unwrap().import(&theirs).unwrap();
    let linear = ours.get("decoder_pred.weight").unwrap().t().unwrap();
    let patches = tokens.narrow(1, 1, 16).unwrap().contiguous().unwrap();
    let logits = patches.broadcast_matmul(&linear).unwrap();
    let logits = logits
        .broadcast_add(ours.get("decoder_pred.bias").unwrap())
        .unwrap();
    close(&logits, values.get("logits").unwrap(), "logits");
}

#[test]
fn files_are_recognised_by_their_names() {
    for (fixture, source, line) in [
        (
            "hf_vit_mae",
            "hf_vit_mae",
            "ViT: width 16, depth 2, patches of 4 pixels, 3 channels, positions of 4x4 patches (images of 16 pixels); decoder: width 8, depth 1; head of 48 outputs",
        ),
        ("hf_vit", "hf_vit", "ViT: width 16, depth 2"),
        ("hf_beit", "hf_beit", "head of 11 outputs"),
        ("hf_data2vec", "hf_data2vec", "ViT: width 16"),
        ("hf_dinov2", "hf_dinov2", "ViT: width 16"),
        ("hf_clip", "hf_clip", "ViT: width 16"),
        (
            "hf_swin",
            "hf_swin",
            "Swin: width 8, depths 1, 2, patches of 4 pixels, 3 channels; head of 192 outputs",
        ),
        ("timm_vit", "timm", "ViT: width 16"),
        ("timm_beit", "timm_beit", "ViT: width 16"),
        ("timm_eva", "timm_beit", "ViT: width 16"),
        ("timm_swin", "timm_swin", "Swin: width 8, depths 1, 2"),
    ] {
        let weights = WeightMap::read(folder(fixture)).unwrap();
        let (guesses, described) = look(&weights);
        let named: Vec<_> = guesses.iter().map(|guess| guess.source).collect();
        assert!(named.contains(&source), "{fixture}: {named:?}");
        assert!(
            guesses.iter().all(Guess::is_complete),
            "{fixture}: {guesses:?}"
        );
        let described = described.unwrap();
        assert!(described.contains(line), "{fixture}: {described}");
    }
    let mut other = WeightMap::default();
    other.insert(
        "conv1.weight",
        Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap(),
    );
    assert_eq!(look(&other), (vec![], None));
}
