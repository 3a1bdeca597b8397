//! qiy20/SAIM @ 08d36c3: queries, keys and values have separate layers; shared query blocks are listed twice.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = vec![
        Rule::alias("query_blocks", "blocks"),
        // A constant kernel, determined by the settings.
        Rule::ignore("gaussian_blur.weight"),
    ];
    rules.extend(["blocks", "query_blocks"].map(|blocks| {
        Rule::stack(
            ["q", "k", "v"].map(|part| format!("{blocks}.{{i}}.attn.{part}.{{p}}")),
            format!("{blocks}.{{i}}.attn.qkv.{{p}}"),
        )
    }));
    rules
}
