//! Names of BEiT: by its authors (microsoft/unilm @ 768a3c8) and transformers; data2vec's vision model; EVA in timm.
//! The authors of data2vec and EVA use the names of BEiT's authors.

use crate::weights::Rule;

/// The authors' names: ours, except the head, which predicts tokens.
pub(super) fn authors() -> Vec<Rule> {
    vec![
        Rule::ignore("*.relative_position_index"),
        Rule::rename("lm_head.{p}", "decoder_pred.{p}"),
    ]
}

/// timm's names of BEiT, and of EVA, which has the same structure: the authors' names plus a classifier.
pub(super) fn timm() -> Vec<Rule> {
    let mut rules = vec![Rule::ignore("head.{p}")];
    rules.extend(authors());
    rules
}

/// The names of transformers' `BeitForMaskedImageModeling` and `BeitModel`; the latter lacks the prefix `beit.`.
pub(super) fn transformers() -> Vec<Rule> {
    family("beit.")
}

/// The names of transformers' `Data2VecVisionModel`, and of models built around it.
pub(super) fn data2vec() -> Vec<Rule> {
    family("data2vec_vision.")
}

fn family(model: &str) -> Vec<Rule> {
    let mut rules = vec![
        Rule::ignore("*.relative_position_index"),
        Rule::ignore("classifier.{p}"),
        Rule::rename("lm_head.{p}", "decoder_pred.{p}"),
        // With a token head, this norm is outside the prefix of the model.
        Rule::rename("layernorm.{p}", "norm.{p}"),
    ];
    for prefix in [model, ""] {
        let rename = |theirs: &str, ours: &str| Rule::rename(format!("{prefix}{theirs}"), ours);
        let layer = format!("{prefix}encoder.layer.{{i}}");
        let block = |theirs: &str, ours: &str| {
            Rule::rename(format!("{layer}.{theirs}"), format!("blocks.{{i}}.{ours}"))
        };
        rules.extend([
            rename("embeddings.cls_token", "cls_token"),
            rename("embeddings.mask_token", "mask_token"),
            rename("embeddings.position_embeddings", "pos_embed"),
            rename(
                "embeddings.patch_embeddings.projection.{p}",
                "patch_embed.proj.{p}",
            ),
            rename(
                "encoder.relative_position_bias.relative_position_bias_table",
                "rel_pos_bias.relative_position_bias_table",
            ),
            rename("layernorm.{p}", "norm.{p}"),
            Rule::stack(
                ["query", "key", "value"]
                    .map(|part| format!("{layer}.attention.attention.{part}.weight")),
                "blocks.{i}.attn.qkv.weight",
            ),
            block("attention.attention.query.bias", "attn.q_bias"),
            block("attention.attention.value.bias", "attn.v_bias"),
            block(
                "attention.attention.relative_position_bias.relative_position_bias_table",
                "attn.relative_position_bias_table",
            ),
            block("attention.output.dense.{p}", "attn.proj.{p}"),
            block("lambda_1", "gamma_1"),
            block("lambda_2", "gamma_2"),
            block("layernorm_before.{p}", "norm1.{p}"),
            block("layernorm_after.{p}", "norm2.{p}"),
            block("intermediate.dense.{p}", "mlp.fc1.{p}"),
            block("output.dense.{p}", "mlp.fc2.{p}"),
        ]);
    }
    rules
}
