//! Weights of other projects load through their rename rules, in every spelling, and go back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use candle_core::{Device, Tensor};
use mim_core::optim::AdamW;
use mim_core::weights::{Source, WeightMap};
use mim_core::{EncodeOptions, Encoder, Masking, Method, ParamStore, StepContext};
use mim_methods::{Composite, MaeConfig, MethodConfig, registry};

const MODEL: &str = "
encoder = { image_size = 32, patch_size = 8, embed_dim = 32, depth = 2, num_heads = 4, norm_eps = 1e-12 }
decoder = { embed_dim = 16, depth = 1, num_heads = 4, norm_eps = 1e-12 }
";

fn mae() -> (ParamStore, Composite) {
    let config: MaeConfig = registry::method("mae")
        .unwrap()
        .resolve(MODEL.parse().unwrap())
        .unwrap()
        .try_into()
        .unwrap();
    let store = ParamStore::new(&Device::Cpu, 0, config.init());
    let method = config.build(&store).unwrap();
    (store, method)
}

fn hub_folder() -> WeightMap {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/hf_vit_mae_checkpoint");
    WeightMap::read(folder).unwrap()
}

fn source() -> Source {
    Source::named("hf_vit_mae").unwrap()
}

/// The same tensors with names changed.
fn respelt(weights: &WeightMap, spell: impl Fn(&str) -> String) -> WeightMap {
    weights
        .iter()
        .map(|(name, tensor)| (spell(name), tensor.clone()))
        .collect()
}

/// What transformers 5 calls them in memory.
fn in_memory(name: &str) -> String {
    let name = name.replace("vit.encoder.layer.", "vit.layers.");
    let name = name.replace("attention.attention.query", "attention.q_proj");
    let name = name.replace("attention.attention.key", "attention.k_proj");
    let name = name.replace("attention.attention.value", "attention.v_proj");
    let name = name.replace("attention.output.dense", "attention.o_proj");
    name.replace("intermediate.dense", "mlp.fc1")
        .replace("output.dense", "mlp.fc2")
}

#[test]
fn a_hub_folder_loads_in_every_spelling_with_equal_values() {
    let files = hub_folder();
    let written_by_5 =
        |name: &str| name.replace("decoder.decoder_layers.", "decoder.decoder_encoder.layer.");
    let all = [
        files.clone(),
        respelt(&files, written_by_5),
        respelt(&files, in_memory),
    ];
    let mut loaded = Vec::new();
    for weights in all {
        let (store, _) = mae();
        let report = store.load(&source().import(&weights).unwrap()).unwrap();
        assert!(report.is_complete() && report.loaded.len() == store.vars().len());
        let values = store
            .vars()
            .into_iter()
            .map(|(_, var)| var.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        loaded.push(values.collect::<Vec<_>>());
    }
    assert_eq!(loaded[0], loaded[1]);
    assert_eq!(loaded[0], loaded[2]);
}

#[test]
fn an_encoder_without_its_decoder_loads_when_that_is_allowed() {
    let encoder = hub_folder().strip_prefix("vit.");
    let (store, method) = mae();
    let ours = source().import(&encoder).unwrap();
    let error = store.load(&ours).unwrap_err().to_string();
    assert!(
        error.contains("decoder_embed.weight") && error.contains("missing"),
        "{error}"
    );
    let decoder = |name: &str| name.starts_with("decoder") || name == "mask_token";
    store.load_allowing(&ours, decoder).unwrap();
    let images = Tensor::zeros((1, 3, 32, 32), candle_core::DType::F32, &Device::Cpu).unwrap();
    let encoder: &dyn Encoder = method.encoder().unwrap();
    let encoded = encoder
        .encode(
            &images,
            Masking::None,
            &EncodeOptions::default(),
            &StepContext::inference(),
        )
        .unwrap();
    assert_eq!(encoded.tokens.dims(), [1, 17, 32]);
}

#[test]
fn what_is_exported_has_the_names_and_values_of_the_file() {
    let files = hub_folder();
    let back = source().export(&source().import(&files).unwrap()).unwrap();
    assert_eq!(
        back.names().collect::<Vec<_>>(),
        files.names().collect::<Vec<_>>()
    );
    for (name, tensor) in files.iter() {
        let values = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(tensor), values(back.get(name).unwrap()), "{name}");
    }
}

#[test]
fn cmaes_encoder_loads_with_and_without_its_prefix() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/cmae/case1.json");
    let case = mim_methods::parity::Case::read(&path).unwrap();
    let source = Source::named("cmae").unwrap();
    let all = case.group("param.");
    let whole = source.import(&all).unwrap();
    let back = source.export(&whole).unwrap();
    assert_eq!(
        back.names().collect::<Vec<_>>(),
        all.names().collect::<Vec<_>>()
    );
    let counted: WeightMap = [("projector.bn0.num_batches_tracked", 7i64)]
        .map(|(name, count)| (name.to_owned(), Tensor::new(count, &Device::Cpu).unwrap()))
        .into_iter()
        .collect();
    assert_eq!(source.import(&counted).unwrap().names().count(), 0);
    let trunk = source.import(&all.strip_prefix("backbone.")).unwrap();
    assert!(trunk.names().any(|name| name == "blocks.2.mlp.fc2.weight"));
    assert!(trunk.names().any(|name| name == "norm.weight"));
    for (name, tensor) in trunk.iter() {
        let values = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(tensor), values(whole.get(name).unwrap()), "{name}");
    }
}

#[test]
fn i2pmaes_names_go_both_ways_with_their_shapes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/i2pmae/case_b.json");
    let case = mim_methods::parity::Case::read(&path).unwrap();
    let source = Source::named("i2pmae").unwrap();
    let all = case.group("param.");
    let ours = source.import(&all).unwrap();
    let back = source.export(&ours).unwrap();
    let shapes = |weights: &WeightMap| -> Vec<(String, Vec<usize>)> {
        let kept = weights
            .iter()
            .filter(|(name, _)| !name.ends_with("num_batches_tracked"));
        kept.map(|(name, tensor)| (name.to_owned(), tensor.dims().to_vec()))
            .collect()
    };
    assert_eq!(shapes(&back), shapes(&all));
    // As released, with a network of CLIP's width.
    let settings = "[target]\ncheckpoint = \"random\"\n[target.encoder]\nembed_dim = 64\ndepth = 1\nnum_heads = 2";
    let entry = registry::method("i2pmae").unwrap();
    let settings = entry.resolve(settings.parse().unwrap()).unwrap();
    let method = entry.build(settings, &Device::Cpu, 0).unwrap();
    let weights = method.stores()[0].1.vars().into_iter();
    let weights: WeightMap = weights
        .map(|(name, var)| (name, var.as_detached_tensor()))
        .collect();
    let theirs = source.export(&weights).unwrap();
    for (name, shape) in [
        (
            "h_encoder.token_embed.0.first_conv.0.weight",
            &[128, 3, 1][..],
        ),
        (
            "h_encoder.token_embed.0.first_conv.3.weight",
            &[256, 128, 1],
        ),
        (
            "h_encoder.token_embed.0.second_conv.0.weight",
            &[512, 512, 1],
        ),
        (
            "h_encoder.token_embed.0.second_conv.3.weight",
            &[96, 512, 1],
        ),
        (
            "h_encoder.token_embed.2.second_conv.0.weight",
            &[384, 384, 1],
        ),
        ("h_encoder.encoder_pos_embeds.1.0.weight", &[192, 3]),
        (
            "h_encoder.encoder_blocks.2.blocks.4.attn.qkv.weight",
            &[1152, 384],
        ),
        ("h_encoder.encoder_norms.0.weight", &[96]),
        ("mask_token", &[1, 384]),
        ("h_decoder.1.blocks.0.mlp.fc1.weight", &[768, 192]),
        ("token_prop.0.fuse.net.0.weight", &[192, 576, 1]),
        ("rec_head_3d.weight", &[24, 192, 1]),
        ("rec_head_2d.weight", &[12288, 192, 1]),
    ] {
        let tensor = theirs.get(name).unwrap();
        assert_eq!(tensor.dims(), shape, "{name}");
    }
}

#[test]
fn ibots_checkpoint_loads_whole_and_cut_to_its_backbone() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/ibot/vit_shared_head.json");
    let case = mim_methods::parity::Case::read(&path).unwrap();
    let method = registry::method("ibot").unwrap();
    let setup = method.parity(&case, &Device::Cpu).unwrap();
    let student = respelt(&case.group("param."), |name| {
        format!("student.module.{name}")
    });
    let teacher = respelt(&case.group("teacher."), |name| format!("teacher.{name}"));
    let mut whole: WeightMap = student
        .iter()
        .chain(teacher.iter())
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect();
    for name in ["center", "center2"] {
        let tensor = case.required(&format!("input.{name}")).unwrap();
        whole.insert(format!("ibot_loss.{name}"), tensor.clone());
    }
    let ours = setup.source.import(&whole).unwrap();
    let student: WeightMap = ours
        .iter()
        .filter(|(name, _)| !name.starts_with("teacher."))
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect();
    let stores = setup.method.stores();
    assert!(stores[0].1.load(&student).unwrap().is_complete());
    let teacher = stores[1].1.load(&ours.strip_prefix("teacher.")).unwrap();
    assert!(teacher.is_complete() && teacher.loaded.iter().any(|name| name == "center2"));
    let backbone = case.group("param.backbone.");
    let cut = setup.source.import(&backbone).unwrap();
    assert_eq!(cut.len(), backbone.len());
    for (name, tensor) in cut.iter() {
        let values = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let loaded = stores[0].1.var(name).unwrap();
        assert_eq!(loaded.dims(), tensor.dims(), "{name}");
        assert_eq!(values(&loaded), values(tensor), "{name}");
    }
}

#[test]
fn recipes_leave_undecayed_what_the_authors_do() {
    for tiny in common::all() {
        let Some(golden) = &tiny.golden else { continue };
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/goldens")
            .join(format!("{golden}.json"));
        let case = mim_methods::parity::Case::read(&path).unwrap();
        let optimizer: serde_json::Value = case.setting("optimizer").unwrap().unwrap();
        let theirs: BTreeSet<String> =
            serde_json::from_value(optimizer["no_decay"].clone()).unwrap();
        let entry = tiny.entry();
        let setup = entry.parity(&case, &Device::Cpu).unwrap();
        let student = setup.method.stores()[0].1.clone();
        let mut compared = 0;
        for (name, text) in entry.recipes {
            let mut recipe: toml::Table = text.parse().unwrap();
            let train = recipe.remove("train").unwrap();
            // What a run fills in.
            for section in ["data", "eval", "norm", "views"] {
                recipe.remove(section);
            }
            let recipe = entry.resolve(recipe).unwrap();
            if common::encoder(&recipe) != common::encoder(&tiny.resolved()) {
                continue;
            }
            let mut rule = mim_core::optim::AdamWConfig::default();
            if let Some(settings) = train.get("optimizer") {
                // Linear probing has LARS.
                if settings.get("type").is_some() {
                    continue;
                }
                rule = settings.clone().try_into().unwrap();
            }
            let optimizer = AdamW::new(rule, student.trainable()).unwrap();
            let undecayed = optimizer.undecayed().into_iter().flat_map(|name| {
                let one = (
                    name.to_owned(),
                    student.var(name).unwrap().as_detached_tensor(),
                );
                let theirs = setup.source.export(&[one].into_iter().collect()).unwrap();
                let names: Vec<String> = theirs.names().map(str::to_owned).collect();
                names
            });
            assert_eq!(undecayed.collect::<BTreeSet<_>>(), theirs, "{name}");
            compared += 1;
        }
        assert!(compared > 0, "no recipe for the network of {golden}");
    }
}
