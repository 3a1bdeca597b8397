//! Hugging Face `ViTMAEForPreTraining` and `ViTMAEModel`, in every spelling found in files.
//!
//! Files written by transformers 4 (`vit.encoder.layer`, `decoder.decoder_layers`), by 5.23's
//! `save_pretrained` (`decoder.decoder_encoder.layer`), the names it uses in memory (`vit.layers`,
//! `attention.q_proj`), and encoder-only files without `vit.`. Export uses the first rule for one of our
//! names: that of transformers 4, which all versions read.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = encoder(["vit.", ""]);
    rules.extend([
        Rule::rename("decoder.mask_token", "mask_token"),
        Rule::rename("decoder.decoder_pos_embed", "decoder_pos_embed"),
        Rule::rename("decoder.decoder_embed.{p}", "decoder_embed.{p}"),
        Rule::rename("decoder.decoder_norm.{p}", "decoder_norm.{p}"),
        Rule::rename("decoder.decoder_pred.{p}", "decoder_pred.{p}"),
    ]);
    for layers in ["decoder.decoder_layers", "decoder.decoder_encoder.layer"] {
        rules.extend(transformers4(layers, "decoder_blocks"));
        rules.extend(transformers5(layers, "decoder_blocks"));
    }
    rules
}

/// An encoder under any of these prefixes; export uses the first.
fn encoder(prefixes: [&str; 2]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for prefix in prefixes {
        rules.extend([
            Rule::rename(format!("{prefix}embeddings.cls_token"), "cls_token"),
            Rule::rename(
                format!("{prefix}embeddings.position_embeddings"),
                "pos_embed",
            ),
            Rule::rename(
                format!("{prefix}embeddings.patch_embeddings.projection.{{p}}"),
                "patch_embed.proj.{p}",
            ),
            Rule::rename(format!("{prefix}layernorm.{{p}}"), "norm.{p}"),
        ]);
        rules.extend(transformers4(&format!("{prefix}encoder.layer"), "blocks"));
        rules.extend(transformers5(&format!("{prefix}layers"), "blocks"));
    }
    rules
}

/// `ViTModel` and models that contain it (also DINO and MSN); heads are skipped.
pub(super) fn plain() -> Vec<Rule> {
    let mut rules = vec![
        Rule::ignore("pooler.dense.{p}"),
        Rule::ignore("vit.pooler.dense.{p}"),
        Rule::ignore("classifier.{p}"),
    ];
    rules.extend(encoder(["", "vit."]));
    rules
}

/// A block in files of transformers 4.
fn transformers4(theirs: &str, ours: &str) -> Vec<Rule> {
    let qkv = ["query", "key", "value"];
    let names = [
        ("attention.output.dense", "attn.proj"),
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ];
    block(
        theirs,
        ours,
        qkv.map(|part| format!("attention.attention.{part}")),
        &names,
    )
}

/// A block in transformers 5, in memory.
fn transformers5(theirs: &str, ours: &str) -> Vec<Rule> {
    let names = [
        ("attention.o_proj", "attn.proj"),
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
    ];
    block(
        theirs,
        ours,
        ["q", "k", "v"].map(|part| format!("attention.{part}_proj")),
        &names,
    )
}

fn block(theirs: &str, ours: &str, qkv: [String; 3], names: &[(&str, &str)]) -> Vec<Rule> {
    let stack = qkv.map(|part| format!("{theirs}.{{i}}.{part}.{{p}}"));
    let mut rules = vec![Rule::stack(stack, format!("{ours}.{{i}}.attn.qkv.{{p}}"))];
    rules.extend(names.iter().map(|(their, our)| {
        Rule::rename(
            format!("{theirs}.{{i}}.{their}.{{p}}"),
            format!("{ours}.{{i}}.{our}.{{p}}"),
        )
    }));
    rules
}
