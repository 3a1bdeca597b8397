//! The tokenizer of BEiT v2 (microsoft/unilm @ 768a3c8, `beit2`).

use crate::weights::Rule;

/// The authors' names; final norm and codebook differ from ours. Constant statistics and parts used
/// only in training are skipped.
pub(super) fn rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = ["loss.*", "teacher.*", "scaling_layer.*"]
        .map(Rule::ignore)
        .into();
    rules.extend(
        ["embed_avg", "cluster_size"]
            .map(|name| Rule::ignore(format!("quantize.embedding.{name}"))),
    );
    rules.extend([
        Rule::rename("quantize.embedding.weight", "quantize.embedding"),
        Rule::rename("quantize.embedding.initted", "quantize.initted"),
    ]);
    rules.extend(["encoder", "decoder"].map(|network| {
        Rule::rename(
            format!("{network}.fc_norm.{{p}}"),
            format!("{network}.norm.{{p}}"),
        )
    }));
    rules
}
