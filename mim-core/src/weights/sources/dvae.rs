//! DALL-E's discrete VAE, by OpenAI (openai/DALL-E) and transformers (`FlavaImageCodebook`).

use crate::weights::Rule;

/// OpenAI's names; encoder-only files have no network prefix.
pub(super) fn openai() -> Vec<Rule> {
    ["encoder.", "decoder.", ""]
        .into_iter()
        .flat_map(|network| rules(network, ("", ""), ("w", "b")))
        .collect()
}

/// The names of `facebook/flava-image-codebook`, which is only an encoder.
pub(super) fn flava() -> Vec<Rule> {
    rules("", ("group.", "path."), ("weight", "bias"))
}

fn rules(network: &str, (group, path): (&str, &str), (weight, bias): (&str, &str)) -> Vec<Rule> {
    let ours = match network {
        "" => "encoder.",
        network => network,
    };
    let mut rules = vec![];
    for (their, our) in [(weight, "weight"), (bias, "bias")] {
        let mut rename = |theirs: String, name: &str| {
            let theirs = format!("{network}blocks.{theirs}.{their}");
            rules.push(Rule::rename(theirs, format!("{ours}blocks.{name}.{our}")));
        };
        rename("input".to_owned(), "input");
        rename("output.conv".to_owned(), "output.conv");
        rename(format!("{{g}}.{group}{{b}}.id_path"), "{g}.{b}.id_path");
        rename(
            format!("{{g}}.{group}{{b}}.res_path.{path}{{c}}"),
            "{g}.{b}.res_path.{c}",
        );
    }
    rules
}
