//! DINO, DINOv2 and MoCo-v3: ViTs with timm's names, but different prefixes, heads and layer scales.

use super::ibot;
use crate::weights::Rule;

/// facebookresearch/dino: `teacher` or `student` of a checkpoint, or a backbone-only file.
pub(super) fn dino() -> Vec<Rule> {
    let mut rules = Vec::new();
    for prefix in ["module.", ""] {
        rules.push(Rule::ignore(format!("{prefix}head.*")));
        rules.extend(ibot::encoder(&format!("{prefix}backbone."), ""));
    }
    rules
}

/// facebookresearch/dinov2: a backbone-only file.
pub(super) fn dinov2() -> Vec<Rule> {
    let mut rules = vec![Rule::unsqueeze("mask_token", "mask_token", 1)];
    rules.extend([1, 2].map(|layer| {
        Rule::rename(
            format!("blocks.{{i}}.ls{layer}.gamma"),
            format!("blocks.{{i}}.gamma_{layer}"),
        )
    }));
    rules
}

/// transformers' `Dinov2Model`.
pub(super) fn transformers() -> Vec<Rule> {
    let block = |theirs: &str, ours: &str| {
        Rule::rename(
            format!("encoder.layer.{{i}}.{theirs}"),
            format!("blocks.{{i}}.{ours}"),
        )
    };
    vec![
        Rule::rename("embeddings.cls_token", "cls_token"),
        Rule::unsqueeze("embeddings.mask_token", "mask_token", 1),
        Rule::rename("embeddings.position_embeddings", "pos_embed"),
        Rule::rename(
            "embeddings.patch_embeddings.projection.{p}",
            "patch_embed.proj.{p}",
        ),
        Rule::rename("layernorm.{p}", "norm.{p}"),
        Rule::stack(
            ["query", "key", "value"]
                .map(|part| format!("encoder.layer.{{i}}.attention.attention.{part}.{{p}}")),
            "blocks.{i}.attn.qkv.{p}",
        ),
        block("attention.output.dense.{p}", "attn.proj.{p}"),
        block("norm1.{p}", "norm1.{p}"),
        block("norm2.{p}", "norm2.{p}"),
        block("layer_scale1.lambda1", "gamma_1"),
        block("layer_scale2.lambda1", "gamma_2"),
        block("mlp.fc1.{p}", "mlp.fc1.{p}"),
        block("mlp.fc2.{p}", "mlp.fc2.{p}"),
    ]
}

/// facebookresearch/moco-v3: the trained encoder of a checkpoint; its momentum copy and the heads are skipped.
pub(super) fn moco_v3() -> Vec<Rule> {
    let mut rules = Vec::new();
    for prefix in ["module.", ""] {
        rules.push(Rule::ignore(format!("{prefix}momentum_encoder.*")));
        rules.push(Rule::ignore(format!("{prefix}predictor.*")));
        rules.push(Rule::ignore(format!("{prefix}base_encoder.head.*")));
        rules.extend(ibot::encoder(&format!("{prefix}base_encoder."), ""));
    }
    rules
}
