//! qiy20/SAIM @ 08d36c3: queries, keys and values have layers of their own; shared query blocks are listed twice.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = vec![
        Rule::alias("query_blocks", "blocks"),
        // A constant kernel, which follows from the settings.
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
