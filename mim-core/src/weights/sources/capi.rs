//! facebookresearch/capi @ 98b4fa1: `backbone.` before encoder and predictor, `head.` beside it.
//!
//! Training checkpoints have `student.`, `student_ema.` and `teacher.` in front, whose networks are the same as the
//! second's but for the clustering head. Other files hold the backbone alone, with or without its name.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    // Written under a name of its own: it is no part of the teacher.
    let clusters = "clustering_head.layer.{p}";
    let mut rules = vec![
        rename(clusters, clusters),
        rename("teacher.head.layer.{p}", clusters),
    ];
    for (theirs, ours) in [("student_ema.", "teacher."), ("", ""), ("student.", "")] {
        rules.extend(backbone(&format!("{theirs}backbone."), ours));
        rules.push(rename(
            format!("{theirs}head.last_layer.{{p}}"),
            format!("{ours}head.last_layer.{{p}}"),
        ));
    }
    rules.extend(backbone("", ""));
    rules.push(Rule::ignore("teacher.backbone.*"));
    rules
}

fn backbone(theirs: &str, ours: &str) -> Vec<Rule> {
    let mut rules: Vec<Rule> = [
        ("registers", "registers"),
        ("mask_token", "predictor.mask_token"),
        ("patch_embed.{p}", "patch_embed.proj.{p}"),
    ]
    .map(|(their, our)| rename(format!("{theirs}{their}"), format!("{ours}{our}")))
    .into();
    for (their, our) in [
        ("encoder.blocks", "blocks"),
        ("decoder.blocks", "predictor.blocks"),
    ] {
        let names = [
            ("residual1.norm.{p}", "norm1.{p}"),
            ("residual1.fn.{m}.{p}", "attn.{m}.{p}"),
            ("residual2.norm.{p}", "norm2.{p}"),
            ("residual2.fn.{m}.{p}", "mlp.{m}.{p}"),
        ];
        rules.extend(names.map(|(theirs_in, ours_in)| {
            rename(
                format!("{theirs}{their}.{{i}}.{theirs_in}"),
                format!("{ours}{our}.{{i}}.{ours_in}"),
            )
        }));
    }
    rules
}

fn rename(theirs: impl Into<String>, ours: impl Into<String>) -> Rule {
    Rule::rename(theirs, ours)
}
