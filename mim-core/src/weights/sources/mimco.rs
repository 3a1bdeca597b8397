//! Names in recorded values of MimCo, whose authors published no code: blocks without `attn` and `mlp`.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = vec![Rule::rename("patch_head.{p}", "decoder_pred.{p}")];
    for student in ["student.", ""] {
        rules.extend([
            Rule::rename(
                format!("{student}patch_embed.{{p}}"),
                "patch_embed.proj.{p}",
            ),
            block(student, "qkv", "attn.qkv"),
            block(student, "proj", "attn.proj"),
            block(student, "fc1", "mlp.fc1"),
            block(student, "fc2", "mlp.fc2"),
        ]);
    }
    let kept = [
        "cls_token",
        "mask_token",
        "pos_embed",
        "norm.{p}",
        "blocks.{i}.norm1.{p}",
        "blocks.{i}.norm2.{p}",
    ];
    rules.extend(kept.map(|name| Rule::rename(format!("student.{name}"), name)));
    rules
}

fn block(student: &str, theirs: &str, ours: &str) -> Rule {
    Rule::rename(
        format!("{student}blocks.{{i}}.{theirs}.{{p}}"),
        format!("blocks.{{i}}.{ours}.{{p}}"),
    )
}
