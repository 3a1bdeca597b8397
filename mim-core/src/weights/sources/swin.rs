//! Swin in transformers and timm; SimMIM's names are in `simmim.rs`.

use crate::weights::Rule;

/// The names of transformers' `SwinForMaskedImageModeling` and `SwinModel`; the latter lacks the prefix `swin.`.
pub(super) fn transformers() -> Vec<Rule> {
    let mut rules = vec![
        Rule::ignore("*.relative_position_index"),
        Rule::ignore("classifier.{p}"),
        Rule::conv1x1("decoder.0.weight", "decoder_pred.weight"),
        Rule::rename("decoder.0.bias", "decoder_pred.bias"),
    ];
    for prefix in ["swin.", ""] {
        let rename = |theirs: &str, ours: &str| Rule::rename(format!("{prefix}{theirs}"), ours);
        let layer = format!("{prefix}encoder.layers.{{s}}.blocks.{{i}}");
        let block = |theirs: &str, ours: &str| {
            let ours = format!("layers.{{s}}.blocks.{{i}}.{ours}");
            Rule::rename(format!("{layer}.{theirs}"), ours)
        };
        rules.extend([
            rename("embeddings.mask_token", "mask_token"),
            rename(
                "embeddings.patch_embeddings.projection.{p}",
                "patch_embed.proj.{p}",
            ),
            rename("embeddings.norm.{p}", "patch_embed.norm.{p}"),
            rename("layernorm.{p}", "norm.{p}"),
            rename(
                "encoder.layers.{s}.downsample.{m}.{p}",
                "layers.{s}.downsample.{m}.{p}",
            ),
            Rule::stack(
                ["query", "key", "value"]
                    .map(|part| format!("{layer}.attention.self.{part}.{{p}}")),
                "layers.{s}.blocks.{i}.attn.qkv.{p}",
            ),
            block(
                "attention.self.relative_position_bias_table",
                "attn.relative_position_bias_table",
            ),
            block("attention.output.dense.{p}", "attn.proj.{p}"),
            block("layernorm_before.{p}", "norm1.{p}"),
            block("layernorm_after.{p}", "norm2.{p}"),
            block("intermediate.dense.{p}", "mlp.fc1.{p}"),
            block("output.dense.{p}", "mlp.fc2.{p}"),
        ]);
    }
    rules
}

/// timm's names: ours, but patch merging is at the start of a stage instead of the end.
pub(super) fn timm() -> Vec<Rule> {
    // Up to the maximum number of Swin stages.
    let mut rules: Vec<_> = (1..16)
        .map(|stage| {
            Rule::rename(
                format!("layers.{stage}.downsample.{{m}}.{{p}}"),
                format!("layers.{}.downsample.{{m}}.{{p}}", stage - 1),
            )
        })
        .collect();
    rules.extend(
        [
            "*.relative_position_index",
            "*.attn_mask",
            "head.fc.{p}",
            "head.{p}",
        ]
        .map(Rule::ignore),
    );
    rules
}
