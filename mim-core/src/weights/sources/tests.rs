//! Names of sources for which there is no model fixture.

use candle_core::{DType, Device, Tensor};

use crate::weights::{Source, WeightMap};

/// Pairs of their names and ours.
type Pairs = &'static [(&'static str, &'static str)];

const BEIT: Pairs = &[
    ("cls_token", "cls_token"),
    ("blocks.2.attn.q_bias", "blocks.2.attn.q_bias"),
    ("blocks.2.gamma_1", "blocks.2.gamma_1"),
    (
        "rel_pos_bias.relative_position_bias_table",
        "rel_pos_bias.relative_position_bias_table",
    ),
    ("lm_head.weight", "decoder_pred.weight"),
];
const DINO: Pairs = &[
    ("module.backbone.cls_token", "cls_token"),
    (
        "module.backbone.blocks.1.attn.qkv.bias",
        "blocks.1.attn.qkv.bias",
    ),
    (
        "module.backbone.patch_embed.proj.weight",
        "patch_embed.proj.weight",
    ),
];
const DINOV2: Pairs = &[
    ("blocks.3.ls1.gamma", "blocks.3.gamma_1"),
    ("blocks.3.ls2.gamma", "blocks.3.gamma_2"),
    ("blocks.3.mlp.fc1.weight", "blocks.3.mlp.fc1.weight"),
    ("mask_token", "mask_token"),
    ("pos_embed", "pos_embed"),
];
const MOCO: Pairs = &[
    (
        "module.base_encoder.blocks.0.norm1.weight",
        "blocks.0.norm1.weight",
    ),
    ("module.base_encoder.pos_embed", "pos_embed"),
    ("module.base_encoder.norm.bias", "norm.bias"),
];
const VQKD: Pairs = &[
    ("encoder.fc_norm.weight", "encoder.norm.weight"),
    ("decoder.fc_norm.bias", "decoder.norm.bias"),
    (
        "encoder.blocks.3.attn.q_bias",
        "encoder.blocks.3.attn.q_bias",
    ),
    ("encode_task_layer.2.weight", "encode_task_layer.2.weight"),
    ("quantize.embedding.weight", "quantize.embedding"),
    ("quantize.embedding.initted", "quantize.initted"),
    ("quantize.cluster_size", "quantize.cluster_size"),
];
const VQGAN: Pairs = &[
    (
        "encoder.down.0.block.1.norm1.weight",
        "encoder.down.0.block.1.norm1.weight",
    ),
    ("quantize.proj.bias", "quantize.proj.bias"),
];
const MILAN: Pairs = &[
    ("blocks.0.norm1.weight", "blocks.0.norm1.weight"),
    (
        "decoder_blocks.0.norm1.weight",
        "decoder_blocks.0.norm1.weight",
    ),
];

/// A source, its names, and names that it ignores.
const CASES: [(&str, Pairs, &[&str]); 7] = [
    (
        "vqkd",
        VQKD,
        &[
            "quantize.embedding.embed_avg",
            "quantize.embedding.cluster_size",
            "teacher.visual.proj",
            "scaling_layer.shift",
        ],
    ),
    (
        "vqgan",
        VQGAN,
        &[
            "decoder.conv_in.weight",
            "loss.logits_laplace",
            "quantize.embed.weight",
        ],
    ),
    ("beit", BEIT, &["rel_pos_bias.relative_position_index"]),
    (
        "dino",
        DINO,
        &[
            "module.head.mlp.0.weight",
            "module.head.last_layer.weight_v",
        ],
    ),
    ("dinov2", DINOV2, &[]),
    (
        "moco_v3",
        MOCO,
        &[
            "module.base_encoder.head.0.weight",
            "module.momentum_encoder.blocks.0.norm1.weight",
            "module.predictor.0.weight",
        ],
    ),
    ("milan", MILAN, &[]),
];

fn named<'a>(names: impl Iterator<Item = &'a str>) -> WeightMap {
    let zero = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
    names.map(|name| (name.to_owned(), zero.clone())).collect()
}

fn sorted(weights: &WeightMap) -> Vec<String> {
    weights.names().map(str::to_owned).collect()
}

#[test]
fn names_translate_to_ours() {
    for (source, pairs, passed) in CASES {
        let source = Source::named(source).unwrap();
        let theirs = named(
            pairs
                .iter()
                .map(|(theirs, _)| *theirs)
                .chain(passed.iter().copied()),
        );
        let ours = source.import(&theirs).unwrap();
        let expected = named(pairs.iter().map(|(_, ours)| *ours));
        assert_eq!(sorted(&ours), sorted(&expected), "{}", source.name());
        let written = source.export(&ours).unwrap();
        let back = source.import(&written).unwrap();
        assert_eq!(sorted(&back), sorted(&ours), "{}", source.name());
    }
}

#[test]
fn files_without_prefixes_are_read_too() {
    for (source, theirs) in [
        ("dino", "backbone.blocks.1.norm1.weight"),
        ("dino", "blocks.1.norm1.weight"),
        ("moco_v3", "base_encoder.blocks.1.norm1.weight"),
        ("hf_beit", "encoder.layer.1.layernorm_before.weight"),
        (
            "hf_data2vec",
            "data2vec_vision.encoder.layer.1.layernorm_before.weight",
        ),
        ("hf_vit", "vit.encoder.layer.1.layernorm_before.weight"),
    ] {
        let theirs = named([theirs].into_iter());
        let ours = Source::named(source).unwrap().import(&theirs).unwrap();
        assert_eq!(sorted(&ours), ["blocks.1.norm1.weight"], "{source}");
    }
}
