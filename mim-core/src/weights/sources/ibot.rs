//! bytedance/ibot @ da316d8 and gkakogeorgiou/attmask @ 9f62061: prefix `backbone.` for the encoder, and `head.`.
//!
//! Full checkpoints have the prefixes `student.module.`, `teacher.` and `ibot_loss.`; files extracted from them have
//! `module.`, `backbone.` or no prefix. A shared last layer has two names; we keep the first.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = vec![
        Rule::ignore("*.relative_position_index"),
        Rule::rename("ibot_loss.center", "teacher.center"),
        Rule::rename("ibot_loss.center2", "teacher.center2"),
    ];
    for (theirs, ours) in [
        ("", ""),
        ("teacher.", "teacher."),
        ("student.module.", ""),
        ("module.", ""),
    ] {
        let head = format!("{theirs}head");
        rules.push(Rule::alias(
            format!("{head}.last_layer2"),
            format!("{head}.last_layer"),
        ));
        rules.extend(encoder(&format!("{theirs}backbone."), ours));
        let kept = ["head.mlp.{i}.{p}", "head.mlp.{p}", "head.{l}.{p}"];
        rules.extend(
            kept.map(|name| Rule::rename(format!("{theirs}{name}"), format!("{ours}{name}"))),
        );
    }
    rules.push(Rule::unsqueeze("masked_embed", "mask_token", 1));
    rules
}

/// A ViT or a Swin.
pub(super) fn encoder(theirs: &str, ours: &str) -> Vec<Rule> {
    let mut rules = vec![Rule::unsqueeze(
        format!("{theirs}masked_embed"),
        format!("{ours}mask_token"),
        1,
    )];
    let kept = [
        "cls_token",
        "pos_embed",
        "norm.{p}",
        // proj; in Swin also norm.
        "patch_embed.{m}.{p}",
        // Layer scale; norms; attn.qkv, attn.proj, mlp.fc1, mlp.fc2.
        "blocks.{i}.{p}",
        "blocks.{i}.{m}.{p}",
        "blocks.{i}.{m}.{l}.{p}",
        // Swin: norms, and tables; downsample.norm, reduction.
        "layers.{s}.blocks.{i}.{m}.{p}",
        "layers.{s}.blocks.{i}.{m}.{l}.{p}",
        "layers.{s}.downsample.{m}.{p}",
    ];
    rules.extend(kept.map(|name| Rule::rename(format!("{theirs}{name}"), format!("{ours}{name}"))));
    rules
}
