//! Settings of a composed method: defaults, and values that parts take from each other.

use mim_core::augment::ViewPlan;
use mim_core::params::Init;
use mim_core::parts::{Parts, Settings};
use mim_core::{Error, MaskMode, Norm, Result, settings};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{Custom, masking};
use crate::registry::Registry;

/// Settings of a composed method. Keys missing in a part's table have the part's defaults, or with `scale = "32px"`
/// sizes for 32-pixel images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CustomConfig {
    /// How hidden patches are masked. If not set: `drop` if encoder or decoder supports only that (ConvMAE; `mae`,
    /// `prompt`), `paint` for PVTv2, `replace` for all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) masking: Option<MaskMode>,
    /// Side in pixels of a cell of the mask's grid. If not set: the encoder's output stride.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mask_stride: Option<usize>,
    /// Initialisation of the weights. If not set: that of the encoder's authors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) init: Option<Init>,
    /// Normalisation of the images, also in targets computed from them. Default ImageNet's.
    pub(super) norm: Norm,
    /// Augmentation. Default: random resized crop (scale 0.2 to 1, bicubic) and flip. For tokens, a second, resized
    /// view of the same crop for the tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) views: Option<ViewPlan>,
    /// The masker. Default `random`.
    pub(super) masker: Table,
    /// The encoder. Default `vit`.
    pub(super) encoder: Table,
    /// The target. Default `pixel`.
    pub(super) target: Table,
    /// The decoder. Default `linear`.
    pub(super) decoder: Table,
    /// The loss. If not set: one that suits the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) objective: Option<Table>,
}

impl Default for CustomConfig {
    fn default() -> Self {
        let part = |kind: &str| Table::from_iter([("type".to_owned(), Value::from(kind))]);
        Self {
            masking: None,
            mask_stride: None,
            init: None,
            norm: Norm::imagenet(),
            views: None,
            masker: part("random"),
            encoder: part("vit"),
            target: part("pixel"),
            decoder: part("linear"),
            objective: None,
        }
    }
}

/// Completes settings: missing keys of each part get the defaults of its type at this `scale`.
pub(super) fn complete(registry: &Registry, mut settings: Table) -> Result<Table> {
    let small = match settings.remove("scale") {
        None => false,
        Some(Value::String(scale)) if scale == "paper" => false,
        Some(Value::String(scale)) if scale == "32px" => true,
        Some(other) => {
            return Err(Error::config(
                "custom",
                "scale",
                other,
                "unknown scale",
                "use \"paper\" or \"32px\"",
            ));
        }
    };
    let mut all = settings::to_table(&CustomConfig::default())?;
    for (part, infos) in registry.kinds() {
        let own = match settings.remove(part) {
            None => Table::new(),
            Some(Value::Table(own)) => own,
            Some(other) => {
                let fix = format!("write [{part}] and its keys below");
                return Err(Error::config(
                    "custom",
                    part,
                    other,
                    "this setting must be a table",
                    fix,
                ));
            }
        };
        let Some(kind) = own.get("type").or_else(|| all.get(part)?.get("type")) else {
            if own.is_empty() {
                // No objective is set: use the target's.
                continue;
            }
            all.insert(part.to_owned(), Value::Table(own));
            continue;
        };
        let info = infos.iter().find(|info| kind.as_str() == Some(&info.name));
        let mut whole = match info {
            Some(info) if small => info.small()?,
            _ => Table::new(),
        };
        whole.insert("type".to_owned(), kind.clone());
        let keys = own.into_iter().filter(|(key, _)| key != "type").collect();
        settings::overlay(&mut whole, keys);
        all.insert(part.to_owned(), Value::Table(whole));
    }
    settings::overlay(&mut all, settings);
    Ok(all)
}

impl Custom {
    /// Parses complete settings.
    pub(super) fn read(registry: &Registry, settings: Table) -> Result<Self> {
        let mut config: CustomConfig = settings::read("method", settings)?;
        let encoder = registry.encoders.read(config.encoder.clone())?;
        let decoder = registry.decoders.read(config.decoder.clone())?;
        let masking = masking(config.masking, encoder.as_ref(), decoder.as_ref());
        let stride = config.mask_stride.unwrap_or(encoder.output_stride());
        let mut given = Table::new();
        given.insert("norm".to_owned(), value(&config.norm)?);
        given.insert("patch_size".to_owned(), value(&stride)?);
        given.insert(
            "mask_token".to_owned(),
            (masking == MaskMode::Replace).into(),
        );
        let objective = match &mut config.objective {
            Some(objective) => Some(part(&registry.objectives, objective, &given)?),
            None => None,
        };
        Ok(Self {
            masking,
            masker: part(&registry.maskers, &mut config.masker, &given)?,
            encoder: part(&registry.encoders, &mut config.encoder, &given)?,
            target: part(&registry.targets, &mut config.target, &given)?,
            decoder: part(&registry.decoders, &mut config.decoder, &given)?,
            objective,
            config,
        })
    }

    /// The settings, complete except for values that parts take from others.
    pub(super) fn into_table(self) -> Result<Table> {
        settings::to_table(&self.config)
    }
}

fn value<T: Serialize>(setting: &T) -> Result<Value> {
    Value::try_from(setting).map_err(|error| {
        let (why, fix) = ("it cannot be written as TOML", "report this as a bug");
        Error::config("custom", "settings", error, why, fix)
    })
}

/// Parses the part that `table` selects, and completes `table`. `given` holds the values that the part takes from
/// others ([`mim_core::parts::Part::FOLLOWS`]): they are removed from `table`, and a different value there is an error.
fn part<S: Settings + ?Sized>(
    parts: &Parts<S>,
    table: &mut Table,
    given: &Table,
) -> Result<Box<S>> {
    let mut complete = parts.read(table.clone())?.to_table()?;
    let kind = table.get("type").cloned();
    let info = &parts
        .get(kind.as_ref().and_then(Value::as_str).unwrap_or_default())?
        .info;
    let (defaults, mut written) = (info.defaults()?, complete.clone());
    for key in info.follows {
        let (Some(wanted), Some(found)) = (given.get(*key), written.remove(*key)) else {
            continue;
        };
        // Files of mim 0.1.0 contain the defaults: they count as not set.
        if found != *wanted && defaults.get(*key) != Some(&found) {
            return Err(Error::config(
                "custom",
                format!("{}.{key}", parts.kind()),
                found,
                format!("the rest of the method requires {wanted}"),
                source(key),
            ));
        }
        complete.insert((*key).to_owned(), wanted.clone());
    }
    if let Some(kind) = kind {
        complete.insert("type".to_owned(), kind.clone());
        written.insert("type".to_owned(), kind);
    }
    *table = written;
    parts.read(complete)
}

/// How to fix a setting that a part takes from others.
fn source(key: &str) -> &'static str {
    match key {
        "norm" => "remove it, and set `norm`",
        "patch_size" => "remove it: the value is `mask_stride`, or the encoder's output stride",
        "mask_token" => "remove it, and set `masking`",
        _ => "remove it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Custom> {
        let registry = Registry::current();
        Custom::read(registry, complete(registry, text.parse().unwrap())?)
    }

    fn table(text: &str) -> Table {
        read(text).unwrap().into_table().unwrap()
    }

    #[test]
    fn a_type_has_its_own_defaults_and_keys_override_them() {
        let text = "scale = \"32px\"\nencoder = { type = \"swin\", window_size = 2 }";
        let encoder = &table(text)["encoder"];
        assert_eq!(
            (
                &encoder["image_size"],
                &encoder["embed_dim"],
                &encoder["window_size"]
            ),
            (&Value::from(32), &Value::from(64), &Value::from(2))
        );
        let all = table("scale = \"32px\"\n[encoder]\ndepth = 2");
        assert_eq!(all["encoder"]["depth"], Value::from(2));
        assert_eq!(all["encoder"]["embed_dim"], Value::from(128));
        assert_eq!(all["decoder"]["type"], Value::from("linear"));
        assert_eq!(table("")["encoder"]["embed_dim"], Value::from(768));
    }

    #[test]
    fn every_part_parses_at_both_scales_and_resolving_is_idempotent() {
        for (kind, infos) in Registry::current().kinds() {
            for info in infos {
                for scale in ["paper", "32px"] {
                    let name = &info.name;
                    let text = format!("scale = \"{scale}\"\n{kind} = {{ type = \"{name}\" }}");
                    let once = table(&text);
                    let twice = super::super::resolve(Registry::current(), once.clone()).unwrap();
                    assert_eq!(twice, once, "{text}");
                }
            }
        }
    }

    #[test]
    fn conflicting_values_that_a_part_takes_from_others_are_refused() {
        let error = |text: &str| read(text).err().map(|error| error.to_string());
        let plain = "mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5]";
        // As in files of mim 0.1.0: the default, and another norm.
        let old = value(&Norm::imagenet()).unwrap();
        let old = format!("norm = {{ {plain} }}\ntarget = {{ type = \"hog\", norm = {old} }}");
        assert_eq!(error(&old), None);
        assert!(table(&old)["target"].get("norm").is_none());
        let both =
            format!("norm = {{ {plain} }}\ntarget = {{ type = \"pixel\", norm = {{ {plain} }} }}");
        assert_eq!(error(&both), None);
        for (text, field) in [
            (
                format!("target = {{ type = \"pixel\", norm = {{ {plain} }} }}"),
                "target.norm",
            ),
            (
                "masker = { type = \"cell\", patch_size = 8 }".to_owned(),
                "masker.patch_size",
            ),
            (
                "masking = \"drop\"\nencoder = { mask_token = true }".to_owned(),
                "encoder.mask_token",
            ),
        ] {
            let error = error(&text).unwrap();
            assert!(
                error.contains(field) && error.contains("remove it"),
                "{error}"
            );
        }
    }

    #[test]
    fn invalid_scales_and_parts_are_refused() {
        for text in [
            "scale = \"64px\"",
            "scale = 32",
            "masker = \"random\"",
            "masker = { type = \"randon\" }",
            "masker = { mask_raito = 0.5 }",
            "objective = { eps = 1.0 }",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let error = read("masker = { mask_raito = 0.5 }")
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("`masker.mask_raito`") && error.contains("`mask_ratio`"),
            "{error}"
        );
    }
}
