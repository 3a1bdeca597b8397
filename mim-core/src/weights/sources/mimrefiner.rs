//! ml-jku/MIM-Refiner @ cc57423: prefix `encoder.`, or only the encoder; heads have our names.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = vec![Rule::ignore("*.num_batches_tracked")];
    for theirs in ["encoder.", ""] {
        rules.extend([
            Rule::rename(format!("{theirs}cls_tokens.tokens"), "cls_token"),
            Rule::positions(format!("{theirs}pos_embed.embed"), "pos_embed"),
        ]);
        let kept = [
            "patch_embed.proj.{p}",
            "norm.{p}",
            // norms; attn.qkv, attn.proj, mlp.fc1, mlp.fc2.
            "blocks.{i}.{m}.{p}",
            "blocks.{i}.{m}.{l}.{p}",
        ];
        rules.extend(kept.map(|name| Rule::rename(format!("{theirs}{name}"), name)));
    }
    rules
}
