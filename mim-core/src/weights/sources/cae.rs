//! Atten4Vis/CAE @ a7fd162: prefix `encoder.`, and an alignment encoder; the spelling `regresser` is theirs.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    // The rules of the alignment encoder come first, since its names also contain those of the encoder.
    for (theirs, ours) in [("alignment_encoder.", "teacher."), ("encoder.", "")] {
        let kept = [
            "cls_token",
            "pos_embed",
            "patch_embed.proj.{p}",
            "norm.{p}",
            // gamma_1, gamma_2; norms, biases of query and value; attn.qkv, attn.proj, mlp.fc1, mlp.fc2.
            "blocks.{i}.{p}",
            "blocks.{i}.{m}.{p}",
            "blocks.{i}.{m}.{l}.{p}",
        ];
        rules.extend(kept.map(|name| rename(format!("{theirs}{name}"), format!("{ours}{name}"))));
    }
    rules.extend([
        rename("mask_token", "regressor.mask_token"),
        rename("rd_pos_embed", "regressor.pos_embed"),
        rename("encoder_to_regresser.{p}", "regressor.embed.{p}"),
        rename("encoder_to_regresser_norm.{p}", "regressor.embed_norm.{p}"),
        rename("regresser.norm.{p}", "regressor.norm.{p}"),
        rename("decoder.norm.{p}", "decoder_norm.{p}"),
        rename("decoder.head.{p}", "decoder_pred.{p}"),
    ]);
    let block = |theirs: &str, ours: &str| {
        rename(
            format!("regresser.regressor_blocks.{{i}}.{theirs}"),
            format!("regressor.blocks.{{i}}.{ours}"),
        )
    };
    rules.extend([
        block("gamma_1_cross", "gamma_1"),
        block("gamma_2_cross", "gamma_2"),
        block("norm2_cross.{p}", "norm2.{p}"),
        block("cross_attn.{p}", "attn.{p}"),
        block("cross_attn.{l}.{p}", "attn.{l}.{p}"),
        block("mlp_cross.{l}.{p}", "mlp.{l}.{p}"),
        // norm1_q, norm1_k, norm1_v.
        block("{m}.{p}", "{m}.{p}"),
    ]);
    rules.extend(["{i}.{p}", "{i}.{m}.{p}", "{i}.{m}.{l}.{p}"].map(|rest| {
        rename(
            format!("decoder.decoder_blocks.{rest}"),
            format!("decoder_blocks.{rest}"),
        )
    }));
    rules
}

fn rename(theirs: impl Into<String>, ours: impl Into<String>) -> Rule {
    Rule::rename(theirs, ours)
}
