//! What a composed method's settings leave out.

use mim_core::{Error, Result, settings};
use toml::{Table, Value};

use super::CustomConfig;
use crate::method_config::to_table;

/// The parts that are told apart by `type`.
const PARTS: [&str; 5] = ["masker", "encoder", "target", "decoder", "objective"];

/// Completes settings: each part by what its type leaves open at this `scale`.
pub(super) fn complete(mut settings: Table) -> Result<Table> {
    let small = match settings.remove("scale") {
        None => Table::new(),
        Some(Value::String(scale)) if scale == "paper" => Table::new(),
        Some(Value::String(scale)) if scale == "32px" => small()?,
        Some(other) => {
            return Err(Error::config(
                "custom",
                "scale",
                other,
                "no such scale is known",
                "use \"paper\" or \"32px\"",
            ));
        }
    };
    let mut all = to_table(&CustomConfig::default())?;
    for part in PARTS {
        let own = match settings.remove(part) {
            None => Table::new(),
            Some(Value::Table(own)) => own,
            Some(other) => {
                let fix = format!("write [{part}] and its keys below");
                return Err(Error::config("custom", part, other, "it is a table", fix));
            }
        };
        let kind = |table: &Table| Some(table.get("type")?.as_str()?.to_owned());
        let default = all.get(part).and_then(Value::as_table).and_then(kind);
        let Some(kind) = kind(&own).or(default) else {
            // No objective: what suits the target.
            continue;
        };
        let mut whole = sizes(&small, part, &kind);
        whole.insert("type".to_owned(), Value::String(kind));
        let keys = own.into_iter().filter(|(key, _)| key != "type").collect();
        settings::overlay(&mut whole, keys);
        all.insert(part.to_owned(), Value::Table(whole));
    }
    settings::overlay(&mut all, settings);
    Ok(all)
}

/// The sizes of a part of this type; none if it needs none.
fn sizes(small: &Table, part: &str, kind: &str) -> Table {
    let found = small.get(part).and_then(|part| part.get(kind));
    found.and_then(Value::as_table).cloned().unwrap_or_default()
}

fn small() -> Result<Table> {
    let text = include_str!("small.toml");
    text.parse().map_err(|error: toml::de::Error| {
        Error::format("small.toml", error.to_string(), "report this")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mim_core::decoders::DecoderConfig;
    use mim_core::encoders::EncoderConfig;

    fn read(text: &str) -> CustomConfig {
        let table = complete(text.parse().unwrap()).unwrap();
        settings::read("method", table).unwrap()
    }

    #[test]
    fn a_type_brings_its_own_sizes_and_keys_change_them() {
        let config = read("scale = \"32px\"\nencoder = { type = \"swin\", window_size = 2 }");
        let EncoderConfig::Swin(swin) = config.encoder else {
            panic!("a Swin was asked for");
        };
        assert_eq!(
            (swin.image_size, swin.embed_dim, swin.window_size),
            (32.into(), 64, 2)
        );
        let config = read("scale = \"32px\"\n[encoder]\ndepth = 2");
        let EncoderConfig::Vit(vit) = &config.encoder else {
            panic!("the default is a ViT");
        };
        assert_eq!((vit.depth, vit.embed_dim), (2, 128));
        assert_eq!(config.decoder, DecoderConfig::Linear {});
        let EncoderConfig::Vit(vit) = read("").encoder else {
            panic!("the default is a ViT");
        };
        assert_eq!(vit.embed_dim, 768);
    }

    #[test]
    fn every_small_part_is_read_and_what_is_resolved_resolves_to_itself() {
        for (part, kinds) in &small().unwrap() {
            for kind in kinds.as_table().unwrap().keys() {
                let text = format!("scale = \"32px\"\n{part} = {{ type = \"{kind}\" }}");
                let config = read(&text);
                let again = to_table(&config).unwrap();
                let twice: CustomConfig =
                    settings::read("method", complete(again).unwrap()).unwrap();
                assert_eq!(twice, config, "{text}");
            }
        }
    }

    #[test]
    fn bad_scales_and_parts_are_refused() {
        for text in ["scale = \"64px\"", "scale = 32", "masker = \"random\""] {
            assert!(complete(text.parse().unwrap()).is_err(), "{text}");
        }
    }
}
