//! Settings as tables: overlays, dotted overrides, and errors that suggest the nearest valid key.

mod limits;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::{Error, Result};

/// Overlays `over` on `base`, key by key.
///
/// A table of `over` with a `type` replaces the whole table of `base`, since settings of one type
/// mean nothing to another. Its defaults fill the rest.
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

/// Applies one override `dotted.key=value`; the value is parsed as TOML, or else taken as a string.
///
/// Setting a `type` replaces the surrounding table with the defaults of that type.
///
/// # Errors
///
/// [`Error::InvalidConfig`] if there is no `=`, or a key leads through a value that is not a table.
pub fn set(table: &mut Table, setting: &str) -> Result<()> {
    let bad = |why: String| {
        Error::config(
            "settings",
            "--set",
            setting,
            why,
            "write --set encoder.depth=6, for example",
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
/// [`Error::UnknownSetting`] for an unknown key, with the nearest valid one; [`Error::BadSetting`] for a value of the
/// wrong type; [`Error::InvalidConfig`] for a number outside its range.
pub fn read<T: DeserializeOwned>(component: &'static str, table: Table) -> Result<T> {
    limits::check(component, &table)?;
    Value::Table(table)
        .try_into()
        .map_err(|error: toml::de::Error| explain(component, &error))
}

/// Fills tables of `table` that lack a `type` with those of `complete` that have one: what one key says refines the
/// settings that hold without it.
pub fn fill_types(table: &mut Table, complete: &Table) {
    for (key, value) in table.iter_mut() {
        let (Value::Table(own), Some(Value::Table(whole))) = (value, complete.get(key)) else {
            continue;
        };
        if whole.contains_key("type") && !own.contains_key("type") {
            let mut filled = whole.clone();
            overlay(&mut filled, std::mem::take(own));
            *own = filled;
        }
        fill_types(own, whole);
    }
}

/// Settings as a table.
///
/// # Errors
///
/// [`Error::InvalidConfig`] if they cannot be written as TOML.
pub fn to_table<T: Serialize>(settings: &T) -> Result<Table> {
    Table::try_from(settings).map_err(|error| {
        let (why, fix) = ("they cannot be written as TOML", "report this as a bug");
        Error::config("method", "settings", error, why, fix)
    })
}

/// Rewords an error of serde.
fn explain(component: &'static str, error: &toml::de::Error) -> Error {
    let message = error.message().trim();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (first, rest) = (quoted.next().unwrap_or_default(), quoted);
    let near = nearest(first, rest).map(|near| format!("did you mean `{near}`?"));
    // toml gives the place in the table after the message.
    let place = error.to_string();
    let place = place
        .rsplit_once("in `")
        .and_then(|(_, rest)| rest.split('`').next())
        .filter(|place| !place.is_empty());
    if message.starts_with("unknown field") {
        // For an unknown key, the place is the surrounding table or the key itself.
        let name = match place {
            Some(table) if table.rsplit('.').next() != Some(first) => format!("{table}.{first}"),
            Some(key) => key.to_owned(),
            None => first.to_owned(),
        };
        let fix = near.unwrap_or_else(|| "see --print-config for all keys".to_owned());
        return Error::UnknownSetting {
            component: component.into(),
            name,
            fix: fix.into(),
        };
    }
    let fix = near
        .filter(|_| message.starts_with("unknown"))
        .unwrap_or_else(|| "see --print-config for all keys and their types".to_owned());
    Error::BadSetting {
        component: component.into(),
        name: place.unwrap_or("the whole table").to_owned(),
        why: message.to_owned(),
        fix: fix.into(),
    }
}

/// The known name most similar to `name`, if at most a third of its letters differ.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    let wanted = plain(name);
    let most = wanted.chars().count();
    let distance = |known: &str| strsim::damerau_levenshtein(&wanted, &plain(known));
    let all = known.into_iter().map(|known| (distance(known), known));
    let (distance, best) = all.min_by_key(|(distance, _)| *distance)?;
    (distance < most && distance <= most.div_ceil(3)).then_some(best)
}

/// Suggestion for an unknown `name`: the most similar known name, or all of them.
pub fn choices<'a>(name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    let all: Vec<&str> = known.clone().into_iter().collect();
    match nearest(name, known) {
        Some(near) => format!("did you mean {near}? The choices are {}", all.join(", ")),
        None => format!("use one of {}", all.join(", ")),
    }
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
    fn only_similar_names_are_suggested() {
        let known = ["mae", "simmim", "vit_tiny", "mae_base", "epochs"];
        for (name, near) in [
            ("mea", Some("mae")),
            ("MAE", Some("mae")),
            ("mae_bas", Some("mae_base")),
            ("vit_tinny", Some("vit_tiny")),
            ("clip", None),
            ("epoch", Some("epochs")),
        ] {
            assert_eq!(nearest(name, known), near, "{name}");
        }
        assert_eq!(choices("x", ["a", "b"]), "use one of a, b");
        assert_eq!(
            choices("max", ["mae", "sim"]),
            "did you mean mae? The choices are mae, sim"
        );
        assert_eq!(choices("xyz", ["a", "b"]), "use one of a, b");
    }

    #[test]
    fn errors_are_sentences() {
        let error = |text: &str| read::<Sample>("mae", table(text)).unwrap_err().to_string();
        assert_eq!(
            error("mask_rato = 0.5"),
            "mae: there is no setting `mask_rato`; did you mean `mask_ratio`?"
        );
        assert!(
            error("mask_ratio = \"big\"")
                .starts_with("mae: the setting `mask_ratio` cannot be read: "),
            "{}",
            error("mask_ratio = \"big\"")
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
    fn a_key_refines_the_type_that_holds_without_it() {
        let complete = table("[lr]\ntype = \"cosine\"\npeak = 1.0\nmin = 0.0\n[plain]\na = 1");
        let mut own = table("[lr]\npeak = 2.0\n[plain]\nb = 2\n[other]\nc = 3");
        fill_types(&mut own, &complete);
        let want = "[lr]\ntype = \"cosine\"\npeak = 2.0\nmin = 0.0\n[plain]\nb = 2\n[other]\nc = 3";
        assert_eq!(own, table(want));
        let mut other = table("[lr]\ntype = \"constant\"\nvalue = 1.0");
        fill_types(&mut other, &complete);
        assert_eq!(other, table("[lr]\ntype = \"constant\"\nvalue = 1.0"));
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
