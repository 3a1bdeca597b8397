//! CLIP's vision transformer, by OpenAI (`clip/model.py`) and transformers. The text transformer is skipped.

use crate::weights::Rule;

/// OpenAI's names; those of the text transformer lack `visual.`.
pub(super) fn openai() -> Vec<Rule> {
    let rename = |theirs: &str, ours: &str| Rule::rename(format!("visual.{theirs}"), ours);
    let block = |theirs: &str, ours: &str| {
        let theirs = format!("visual.transformer.resblocks.{{i}}.{theirs}");
        Rule::rename(theirs, format!("blocks.{{i}}.{ours}"))
    };
    let mut rules = vec![
        Rule::unsqueeze("visual.class_embedding", "cls_token", 2),
        Rule::unsqueeze("visual.positional_embedding", "pos_embed", 1),
        rename("conv1.weight", "patch_embed.proj.weight"),
        rename("ln_pre.{p}", "norm_pre.{p}"),
        rename("ln_post.{p}", "norm.{p}"),
        Rule::transpose("visual.proj", "proj.weight"),
        block("ln_1.{p}", "norm1.{p}"),
        block("attn.in_proj_weight", "attn.qkv.weight"),
        block("attn.in_proj_bias", "attn.qkv.bias"),
        block("attn.out_proj.{p}", "attn.proj.{p}"),
        block("ln_2.{p}", "norm2.{p}"),
        block("mlp.c_fc.{p}", "mlp.fc1.{p}"),
        block("mlp.c_proj.{p}", "mlp.fc2.{p}"),
    ];
    let text = [
        "transformer.*",
        "token_embedding.*",
        "positional_embedding",
        "ln_final.*",
        "text_projection",
        "logit_scale",
        "input_resolution",
        "context_length",
        "vocab_size",
    ];
    rules.extend(text.map(Rule::ignore));
    rules
}

/// The names of transformers' `CLIPModel`, `CLIPVisionModelWithProjection` and `CLIPVisionModel`; the
/// last one lacks the prefix `vision_model.` since version 5.
pub(super) fn transformers() -> Vec<Rule> {
    let mut rules: Vec<_> = [
        "text_model.*",
        "text_projection.*",
        "logit_scale",
        "*.position_ids",
    ]
    .map(Rule::ignore)
    .into();
    rules.push(Rule::rename("visual_projection.weight", "proj.weight"));
    for tower in ["vision_model.", ""] {
        let rename = |theirs: &str, ours: &str| Rule::rename(format!("{tower}{theirs}"), ours);
        let block = |theirs: &str, ours: &str| {
            let theirs = format!("{tower}encoder.layers.{{i}}.{theirs}.{{p}}");
            Rule::rename(theirs, format!("blocks.{{i}}.{ours}.{{p}}"))
        };
        let embeddings = format!("{tower}embeddings");
        rules.extend([
            Rule::unsqueeze(format!("{embeddings}.class_embedding"), "cls_token", 2),
            Rule::unsqueeze(
                format!("{embeddings}.position_embedding.weight"),
                "pos_embed",
                1,
            ),
            rename(
                "embeddings.patch_embedding.weight",
                "patch_embed.proj.weight",
            ),
            // The misspelling is theirs.
            rename("pre_layrnorm.{p}", "norm_pre.{p}"),
            rename("post_layernorm.{p}", "norm.{p}"),
            Rule::stack(
                ["q_proj", "k_proj", "v_proj"]
                    .map(|part| format!("{tower}encoder.layers.{{i}}.self_attn.{part}.{{p}}")),
                "blocks.{i}.attn.qkv.{p}",
            ),
            block("layer_norm1", "norm1"),
            block("self_attn.out_proj", "attn.proj"),
            block("layer_norm2", "norm2"),
            block("mlp.fc1", "mlp.fc1"),
            block("mlp.fc2", "mlp.fc2"),
        ]);
    }
    rules
}
