//! Settings as tables: overlaying, dotted overrides, and errors that name the nearest valid key.

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::{Error, Result};

/// Lays `over` on `base`, key by key.
///
/// A table of `over` that has a `type` replaces the one of `base` whole, since settings of one type
/// mean nothing to another; the type's defaults fill the rest.
pub fn overlay(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(table)) if !table.contains_key("type") => {
                overlay(inner, table)
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Applies one override `dotted.key=value`; the value is read as TOML, or else as a string.
///
/// Setting a `type` replaces the table around it by the type's defaults.
///
/// # Errors
///
/// [`Error::InvalidConfig`] if there is no `=`, or a key leads through something that is no table.
pub fn set(table: &mut Table, setting: &str) -> Result<()> {
    let bad = |why: String| {
        Error::config(
            "settings",
            "--set",
            setting,
            why,
            "write for instance --set encoder.depth=6",
        )
    };
    let (path, value) = setting
        .split_once('=')
        .ok_or_else(|| bad("there is no `=` in it".to_owned()))?;
    let (path, text) = (path.trim(), value.trim());
    let parsed = toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut one| one.remove("value"));
    let value = parsed.unwrap_or_else(|| Value::String(text.to_owned()));
    let keys: Vec<&str> = path.split('.').collect();
    if keys.iter().any(|key| key.is_empty()) {
        return Err(bad("a part of the key is empty".to_owned()));
    }
    let (last, parents) = keys
        .split_last()
        .ok_or_else(|| bad("there is no key".to_owned()))?;
    let mut inner = table;
    for key in parents {
        let entry = inner
            .entry(*key)
            .or_insert_with(|| Value::Table(Table::new()));
        inner = entry
            .as_table_mut()
            .ok_or_else(|| bad(format!("`{key}` is not a table")))?;
    }
    if *last == "type" {
        inner.clear();
    }
    inner.insert((*last).to_owned(), value);
    Ok(())
}

/// Reads settings from a table.
///
/// # Errors
///
/// [`Error::InvalidConfig`] naming the key, and for an unknown one the nearest valid one.
pub fn read<T: DeserializeOwned>(component: &'static str, table: Table) -> Result<T> {
    Value::Table(table)
        .try_into()
        .map_err(|error: toml::de::Error| {
            let message = error.message().trim().to_owned();
            let fix = nearest(&message)
                .unwrap_or_else(|| "see --print-config for all keys and their types".to_owned());
            // toml reports where in the table it stopped after the message.
            let place = error.to_string();
            let key = place
                .rsplit_once("in `")
                .and_then(|(_, rest)| rest.split('`').next())
                .unwrap_or("the settings");
            Error::config(component, key.to_owned(), "not usable", message, fix)
        })
}

/// Settings as a table.
///
/// # Errors
///
/// [`Error::InvalidConfig`] if they cannot be written as TOML.
pub fn to_table<T: Serialize>(settings: &T) -> Result<Table> {
    Table::try_from(settings).map_err(|error| {
        let (why, fix) = ("they cannot be written as TOML", "report this");
        Error::config("method", "settings", error, why, fix)
    })
}

/// "did you mean" from serde's "unknown field `a`, expected one of `b`, `c`".
fn nearest(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next().filter(|_| message.starts_with("unknown"))?;
    let distance = |known: &&str| strsim::damerau_levenshtein(unknown, known);
    let best = quoted.min_by_key(distance)?;
    Some(format!("did you mean `{best}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[expect(dead_code, reason = "only its name matters")]
        mask_ratio: f64,
    }

    fn table(text: &str) -> Table {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn unknown_keys_get_the_nearest_valid_one() {
        let error = read::<Sample>("mae", table("mask_rato = 0.5"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("mask_rato") && error.contains("did you mean `mask_ratio`?"),
            "{error}"
        );
    }

    #[test]
    fn a_type_replaces_its_table() {
        let mut base = table("a = 1\n[clip]\ntype = \"global\"\nmax_norm = 1.0\n[b]\nc = 1\nd = 2");
        overlay(&mut base, table("[b]\nc = 3"));
        set(&mut base, "clip.type=none").unwrap();
        assert_eq!(
            base,
            table("a = 1\n[clip]\ntype = \"none\"\n[b]\nc = 3\nd = 2")
        );
        overlay(&mut base, table("[b]\ntype = \"x\""));
        assert_eq!(base["b"], Value::Table(table("type = \"x\"")));
        overlay(&mut base, table("[b]\nkey = 1\n[b.inner]\ntype = \"y\""));
        let merged = table("type = \"x\"\nkey = 1\ninner = { type = \"y\" }");
        assert_eq!(base["b"], Value::Table(merged));
        overlay(&mut base, table("[b]\ntype = \"z\"\nother = 2"));
        let replaced = table("type = \"z\"\nother = 2");
        assert_eq!(base["b"], Value::Table(replaced));
    }

    #[test]
    fn overrides_have_toml_values_or_strings() {
        let mut base = Table::new();
        for setting in [
            "train.lr=1e-3",
            "data.source=idx:/a/b",
            "encoder.image_size=[32, 64]",
            "x=true",
        ] {
            set(&mut base, setting).unwrap();
        }
        let want = "x = true\n[train]\nlr = 1e-3\n[data]\nsource = \"idx:/a/b\"\n[encoder]\nimage_size = [32, 64]";
        assert_eq!(base, table(want));
        for bad in ["depth", "x.y=1", "a..b=1"] {
            assert!(set(&mut base, bad).is_err(), "{bad}");
        }
    }
}
