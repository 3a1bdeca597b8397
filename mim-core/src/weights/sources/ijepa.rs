//! facebookresearch/ijepa @ 52c1ae9: `encoder`, `predictor` and `target_encoder`, each followed by `module.`.
//!
//! Other files have no `module.`, or hold only one encoder.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    for module in ["", "module."] {
        rules.extend(encoder(&format!("target_encoder.{module}"), "teacher."));
        rules.extend(encoder(&format!("encoder.{module}"), ""));
        let predictor = format!("predictor.{module}");
        rules.extend([
            rename(format!("{predictor}mask_token"), "predictor.mask_token"),
            rename(
                format!("{predictor}predictor_pos_embed"),
                "predictor.pos_embed",
            ),
            rename(
                format!("{predictor}predictor_embed.{{p}}"),
                "predictor.embed.{p}",
            ),
            rename(
                format!("{predictor}predictor_norm.{{p}}"),
                "predictor.norm.{p}",
            ),
            rename(
                format!("{predictor}predictor_proj.{{p}}"),
                "predictor.proj.{p}",
            ),
        ]);
        rules.extend(["{i}.{m}.{p}", "{i}.{m}.{l}.{p}"].map(|rest| {
            rename(
                format!("{predictor}predictor_blocks.{rest}"),
                format!("predictor.blocks.{rest}"),
            )
        }));
    }
    rules.extend(encoder("module.", ""));
    rules
}

fn encoder(theirs: &str, ours: &str) -> Vec<Rule> {
    let kept = [
        "pos_embed",
        "patch_embed.proj.{p}",
        "norm.{p}",
        // norms; attn.qkv, attn.proj, mlp.fc1, mlp.fc2.
        "blocks.{i}.{m}.{p}",
        "blocks.{i}.{m}.{l}.{p}",
    ];
    kept.map(|name| rename(format!("{theirs}{name}"), format!("{ours}{name}")))
        .to_vec()
}

fn rename(theirs: impl Into<String>, ours: impl Into<String>) -> Rule {
    Rule::rename(theirs, ours)
}
