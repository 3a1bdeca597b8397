//! facebookresearch/capi @ 98b4fa1: prefix `backbone.` for encoder and predictor, and `head.`.
//!
//! Training checkpoints have the prefixes `student.`, `student_ema.` and `teacher.`; the teacher's network is the same
//! as the second's except for the clustering head. Other files hold only the backbone, with or without its prefix.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    // Exported under a separate name, since it is not part of the teacher.
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
