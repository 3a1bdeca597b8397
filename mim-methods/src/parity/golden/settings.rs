//! How settings of a case map to ours, as data.

use mim_core::settings::{self, to_table};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use toml::{Table, Value};

use super::super::{Case, Problem, Result};

/// A value in a declaration.
#[derive(Debug, Clone, Copy)]
pub enum Plain {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// A word.
    Text(&'static str),
}

/// Converts their value to ours; `None` removes ours.
pub type Convert = fn(&Json) -> Result<Option<Value>>;

/// How one or more settings of a case map to ours. Keys are dotted paths. A setting that a case lacks, or that is null,
/// leaves ours unchanged.
#[derive(Debug, Clone, Copy)]
pub enum Setting {
    /// (their table, our table, keys): settings with the same names. A table may be `""`.
    Same(&'static str, &'static str, &'static [&'static str]),
    /// (theirs, ours): one setting with another name.
    Renamed(&'static str, &'static str),
    /// (theirs, ours, how): one setting whose value is converted.
    Converted(&'static str, &'static str, Convert),
    /// (theirs, ours, words): one setting with a word of ours for each of their values; other values are unknown.
    Word(
        &'static str,
        &'static str,
        &'static [(&'static str, &'static str)],
    ),
    /// (theirs, values): what each value means. A case without the key has the first one; other values are unknown.
    Choice(&'static str, &'static [(&'static str, &'static [Setting])]),
    /// (ours, value): our setting for every case.
    Set(&'static str, Plain),
    /// (theirs, value): the only value that our method supports.
    Fixed(&'static str, Plain),
    /// Keys that are only for information.
    Informs(&'static [&'static str]),
    /// Settings that several methods share.
    Group(&'static [Setting]),
}

use Setting::{Choice, Converted, Fixed, Group, Informs, Renamed, Same, Set, Word};

/// A plain ViT as `encoder`.
pub const VIT: Setting = Group(&[
    Set("encoder.drop_path_rate", Plain::Float(0.)),
    Same(
        "",
        "encoder",
        &[
            "image_size",
            "patch_size",
            "in_channels",
            "embed_dim",
            "depth",
            "num_heads",
            "mlp_ratio",
            "norm_eps",
            "drop_path_rate",
        ],
    ),
]);

/// Biases of queries, keys and values in `encoder`: all or none.
pub const QKV_BIAS: Setting = Word(
    "qkv_bias",
    "encoder.qkv_bias",
    &[("true", "full"), ("false", "none")],
);

/// MAE's decoder; ratio and epsilon are the encoder's unless it has its own.
pub const MAE_DECODER: Setting = Group(&[
    Renamed("mlp_ratio", "decoder.mlp_ratio"),
    Renamed("norm_eps", "decoder.norm_eps"),
    Same(
        "decoder",
        "decoder",
        &["embed_dim", "depth", "num_heads", "mlp_ratio"],
    ),
]);

/// A constant momentum; the teacher moves after each step.
pub const CONSTANT_MOMENTUM: Setting = Group(&[
    Fixed("ema.when", Plain::Text("after_step")),
    Converted("ema.momentum", "momentum", constant),
]);

/// A number as a schedule.
///
/// # Errors
///
/// If it is not one.
pub fn constant(theirs: &Json) -> Result<Option<Value>> {
    let mut schedule = Table::new();
    schedule.insert("type".to_owned(), "constant".into());
    schedule.insert("value".to_owned(), as_toml(theirs)?);
    Ok(Some(schedule.into()))
}

/// A number as a count of hidden patches.
///
/// # Errors
///
/// If it is not one.
pub fn patches(theirs: &Json) -> Result<Option<Value>> {
    let mut count = Table::new();
    count.insert("type".to_owned(), "patches".into());
    count.insert("count".to_owned(), as_toml(theirs)?);
    Ok(Some(count.into()))
}

/// A number above zero; zero stands for none.
///
/// # Errors
///
/// If it is not one.
pub fn positive(theirs: &Json) -> Result<Option<Value>> {
    let there = theirs.as_f64().is_none_or(|value| value > 0.);
    there.then(|| as_toml(theirs)).transpose()
}

/// The settings `base`, changed as the case says.
pub(crate) fn read<T: Serialize + DeserializeOwned>(
    case: &Case,
    base: &T,
    settings: &[Setting],
) -> Result<T> {
    let mut table = to_table(base)?;
    for setting in settings {
        setting.apply(case, &mut table)?;
    }
    // A tagged table does not say which of its keys is wrong; the value and the case do.
    let read = settings::read("settings", table);
    Ok(read.map_err(|error| case.bad(error.to_string()))?)
}

impl Setting {
    fn apply(&self, case: &Case, ours: &mut Table) -> Result<()> {
        match *self {
            Same(from, to, keys) => {
                for key in keys {
                    copy((case, &joined(from, key)), (ours, &joined(to, key)))?;
                }
            }
            Renamed(theirs, key) => copy((case, theirs), (ours, key))?,
            Converted(theirs, key, convert) => {
                if let Some(value) = case.setting(theirs)? {
                    put(ours, key, convert(&value)?);
                }
            }
            Word(theirs, key, words) => {
                if let Some(word) = chosen(case, theirs, words)? {
                    put(ours, key, Some((*word).into()));
                }
            }
            Choice(theirs, values) => {
                let first = || values.first().map(|(_, settings)| settings);
                let settings = chosen(case, theirs, values)?.or_else(first);
                for setting in settings.into_iter().copied().flatten() {
                    setting.apply(case, ours)?;
                }
            }
            Set(key, value) => put(ours, key, Some(value.as_toml())),
            Fixed(theirs, value) => value.check(case, theirs)?,
            Informs(keys) => case.informs(keys),
            Group(settings) => {
                for setting in settings {
                    setting.apply(case, ours)?;
                }
            }
        }
        Ok(())
    }
}

fn joined(table: &str, key: &str) -> String {
    match table {
        "" => key.to_owned(),
        table => format!("{table}.{key}"),
    }
}

fn copy((case, theirs): (&Case, &str), (ours, key): (&mut Table, &str)) -> Result<()> {
    if let Some(value) = case.setting::<Json>(theirs)? {
        put(ours, key, Some(as_toml(&value)?));
    }
    Ok(())
}

/// Sets or removes the value at a dotted path.
fn put(ours: &mut Table, path: &str, value: Option<Value>) {
    let Some(value) = value else {
        return remove(ours, path);
    };
    let mut one = Table::new();
    let (tables, key) = path.rsplit_once('.').unwrap_or(("", path));
    one.insert(key.to_owned(), value);
    for table in tables.rsplit('.').filter(|table| !table.is_empty()) {
        one = Table::from_iter([(table.to_owned(), Value::Table(one))]);
    }
    // A `type` replaces the surrounding table.
    settings::overlay(ours, one);
}

fn remove(ours: &mut Table, path: &str) {
    match path.split_once('.') {
        None => {
            ours.remove(path);
        }
        Some((table, rest)) => {
            if let Some(Value::Table(inner)) = ours.get_mut(table) {
                remove(inner, rest);
            }
        }
    }
}

/// The entry for the value that a case has.
fn chosen<'a, T>(case: &Case, key: &str, values: &'a [(&str, T)]) -> Result<Option<&'a T>> {
    let found = match case.setting(key)? {
        Some(Json::String(word)) => word,
        Some(other) => other.to_string(),
        None => return Ok(None),
    };
    let known = values.iter().find(|(value, _)| *value == found);
    let unknown = || Problem::unknown(format!("{} with {key} = {found}", case.method()));
    let (_, own) = known.ok_or_else(unknown)?;
    Ok(Some(own))
}

pub(super) fn as_toml(value: &Json) -> Result<Value> {
    let read = Value::try_from(value);
    Ok(read.map_err(|error| {
        let (why, fix) = (error.to_string(), "use numbers, words and lists of them");
        mim_core::Error::config("case", "setting", value, why, fix)
    })?)
}

impl Plain {
    fn as_toml(self) -> Value {
        match self {
            Self::Bool(value) => value.into(),
            Self::Int(value) => value.into(),
            Self::Float(value) => value.into(),
            Self::Text(value) => value.into(),
        }
    }

    fn check(self, case: &Case, key: &str) -> Result<()> {
        match self {
            Self::Bool(value) => case.fixed(key, value),
            Self::Int(value) => case.fixed(key, value),
            Self::Float(value) => case.fixed(key, value),
            Self::Text(value) => case.fixed(key, value.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SimMimConfig;
    use mim_core::encoders::EncoderConfig;

    /// The settings of a case with this `config`.
    fn settings(config: serde_json::Value, known: &[Setting]) -> Result<SimMimConfig> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("case.json");
        let tolerance = serde_json::json!({
            "rtol": 0., "atol": 0., "grad_rtol": 0., "grad_atol": 0., "step_atol": 0.,
            "step_min_abs_grad": 0., "ignore": [],
        });
        let case = serde_json::json!({
            "kind": "table", "method": "simmim", "case": "a", "source": "", "config": config,
            "tensors": {}, "tolerance": tolerance, "notes": "",
        });
        std::fs::write(&path, case.to_string()).unwrap();
        read(&Case::read(&path)?, &SimMimConfig::default(), known)
    }

    const KNOWN: &[Setting] = &[
        Choice(
            "arch",
            &[
                ("vit", &[VIT, QKV_BIAS]),
                ("swin", &[Set("encoder.type", Plain::Text("swin"))]),
            ],
        ),
        Renamed("loss.share", "mask_ratio"),
        Converted("scale", "encoder.layer_scale_init", positive),
        Fixed("drop_rate", Plain::Float(0.)),
    ];

    #[test]
    fn keys_are_copied_renamed_converted_and_chosen() {
        let json = serde_json::json!({
            "depth": 3, "norm_eps": 1e-12, "mlp_ratio": null, "qkv_bias": false,
            "loss": { "share": 0.25 }, "scale": 0, "drop_rate": 0,
        });
        let config = settings(json, KNOWN).unwrap();
        assert_eq!(config.mask_ratio, 0.25);
        let EncoderConfig::Vit(vit) = config.encoder else {
            panic!("a case without `arch` has the first one");
        };
        assert_eq!((vit.depth, vit.norm_eps, vit.mlp_ratio), (3, 1e-12, 4.));
        assert_eq!(vit.qkv_bias, mim_core::nn::QkvBias::None);
        assert_eq!((vit.layer_scale_init, vit.drop_path_rate), (None, 0.));
        // A type brings its own defaults.
        let json = serde_json::json!({ "arch": "swin" });
        let config = settings(json, KNOWN).unwrap();
        assert_eq!(
            config.encoder,
            mim_core::encoders::SwinConfig::default().into()
        );
    }

    #[test]
    fn other_values_than_the_known_are_named() {
        for (key, value, named) in [
            ("arch", "resnet".into(), "arch = resnet"),
            ("drop_rate", 0.5.into(), "drop_rate = 0.5"),
        ] {
            let json = Json::Object([(key.to_owned(), value)].into_iter().collect());
            let problem = settings(json, KNOWN).unwrap_err();
            assert!(matches!(problem, Problem::Unknown(_)), "{problem}");
            assert!(problem.to_string().contains(named), "{problem}");
        }
        let json = serde_json::json!({ "depth": "deep" });
        let problem = settings(json, KNOWN).unwrap_err().to_string();
        assert!(problem.contains("case.json"), "{problem}");
        assert!(problem.contains("\"deep\", expected usize"), "{problem}");
    }
}
