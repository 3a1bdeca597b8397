//! Merges settings from recipe, file and options into one table.

use std::collections::BTreeSet;

use mim_core::{Error, Result, settings};
use mim_methods::registry::{self, Entry};
use toml::{Table, Value};

use super::RunConfig;

/// Encoder keys that an `arch` does not change: they depend on the images, not on the network size.
const OF_IMAGES: [&str; 4] = ["image_size", "patch_size", "patch_sizes", "in_channels"];

/// Placeholder for the encoder's image size in a view's `size`.
const IMAGE_SIZE: &str = "image_size";

/// The name of the method in settings; MAE if none is set.
///
/// # Errors
///
/// [`Error::InvalidConfig`] if it is not a string.
pub fn method(table: &Table) -> Result<String> {
    match table.get("method") {
        Some(Value::String(name)) => Ok(name.clone()),
        Some(other) => {
            let fix = "use \"mae\", for example";
            Err(Error::config(
                "settings",
                "method",
                other,
                "the method must be a name",
                fix,
            ))
        }
        None => Ok(registry::methods()[0].name.to_owned()),
    }
}

/// Applies another `arch` to the settings of a recipe or file: it replaces all sizes that they set.
///
/// Image size, patch size and channels are kept. If the type of the encoder changes, its other settings are dropped.
///
/// # Errors
///
/// [`Error::InvalidConfig`] if the method does not have this size.
pub fn replace_sizes(table: &mut Table, arch: &str) -> Result<()> {
    let entry = registry::method(&method(table)?)?;
    let of = |arch: &str| entry.resolve(Table::from_iter([("arch".to_owned(), arch.into())]));
    let wanted = of(arch)?;
    let all = entry.archs.iter().map(|arch| of(arch));
    let all = all.collect::<Result<Vec<Table>>>()?;
    let kind = |table: &Table| {
        let encoder = table.get("encoder").and_then(Value::as_table);
        let kind = encoder.and_then(|encoder| encoder.get("type"));
        kind.and_then(Value::as_str).map(str::to_owned)
    };
    let today = kind(table).or(kind(&entry.resolve(Table::new())?));
    if today != kind(&wanted)
        && let Some(encoder) = table.get_mut("encoder").and_then(Value::as_table_mut)
    {
        encoder.retain(|key, _| OF_IMAGES.contains(&key));
    }
    remove_varying(table, &all.iter().collect::<Vec<_>>());
    table.insert("arch".to_owned(), arch.into());
    Ok(())
}

/// Removes the keys of `table` whose values differ between the tables in `all`.
fn remove_varying(table: &mut Table, all: &[&Table]) {
    table.retain(|key, value| {
        let values: Vec<_> = all.iter().map(|one| one.get(key)).collect();
        let tables: Option<Vec<_>> = values
            .iter()
            .map(|value| value.and_then(Value::as_table))
            .collect();
        match (value, tables) {
            (Value::Table(inner), Some(tables)) => {
                remove_varying(inner, &tables);
                true
            }
            _ => OF_IMAGES.contains(&key) || values.windows(2).all(|two| two[0] == two[1]),
        }
    });
}

/// Replaces `size = "image_size"` in views by the encoder's image size, or the tokenizer's if there is no encoder.
pub(super) fn fill_sizes(table: &mut Table, entry: &Entry) -> Result<()> {
    let views = |table: &Table| {
        let eval = table.get("eval").and_then(|eval| eval.get("views"));
        [table.get("views").cloned(), eval.cloned()]
    };
    if !views(table).iter().flatten().any(asks_for_size) {
        return Ok(());
    }
    let own = |table: &Table| {
        let encoder = table.get("encoder").and_then(Value::as_table);
        encoder.unwrap_or(table).get(IMAGE_SIZE).cloned()
    };
    let size = match own(table) {
        Some(size) => size,
        None => {
            let mut model = table.clone();
            for key in ["views", "data", "train", "eval"] {
                model.remove(key);
            }
            let model = entry.resolve(model)?;
            own(&model).unwrap_or(Value::Integer(224))
        }
    };
    if let Some(views) = table.get_mut("views") {
        fill(views, &size);
    }
    if let Some(views) = table.get_mut("eval").and_then(|eval| eval.get_mut("views")) {
        fill(views, &size);
    }
    Ok(())
}

fn asks_for_size(value: &Value) -> bool {
    match value {
        Value::Table(table) => table.iter().any(|(key, value)| {
            key == "size" && value.as_str() == Some(IMAGE_SIZE) || asks_for_size(value)
        }),
        Value::Array(values) => values.iter().any(asks_for_size),
        _ => false,
    }
}

fn fill(value: &mut Value, size: &Value) {
    match value {
        Value::Table(table) => {
            // One number means the shorter side for `resize`, and both sides for all other operations.
            let resizes = table.get("type").and_then(Value::as_str) == Some("resize");
            for (key, value) in table.iter_mut() {
                if key == "size" && value.as_str() == Some(IMAGE_SIZE) {
                    *value = match size {
                        Value::Integer(side) if resizes => {
                            Value::Array(vec![Value::Integer(*side), Value::Integer(*side)])
                        }
                        size => size.clone(),
                    };
                } else {
                    fill(value, size);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| fill(value, size)),
        _ => {}
    }
}

/// For an unknown key, suggests the intended one from any table.
pub(super) fn suggest(error: Error, given: &Table) -> Error {
    let Error::UnknownSetting {
        component,
        name,
        fix,
    } = error
    else {
        return error;
    };
    let all = || -> Result<Table> {
        let name = Value::String(method(given)?);
        let mut table =
            RunConfig::read(Table::from_iter([("method".to_owned(), name)]))?.to_table()?;
        table.insert("arch".to_owned(), "".into());
        Ok(table)
    };
    let unknown = name.rsplit('.').next().unwrap_or(&name);
    let (fix, component) = match all() {
        Ok(all) => {
            let mut keys = BTreeSet::new();
            dotted(&all, "", &mut keys);
            let leaf = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
            let mut same = keys.iter().filter(|key| leaf(key) == unknown);
            let near = match same.next() {
                Some(key) => Some(key.clone()),
                None if fix.starts_with("did you mean") => None,
                None => {
                    let leaves: Vec<String> = keys.iter().map(|key| leaf(key)).collect();
                    let near = settings::nearest(unknown, leaves.iter().map(String::as_str));
                    near.and_then(|near| keys.iter().find(|key| leaf(key) == near))
                        .cloned()
                }
            };
            let fix = match near {
                Some(near) if near == name => {
                    "another type of this part has it; leave it out".into()
                }
                Some(near) => format!("did you mean `{near}`?").into(),
                None => fix,
            };
            (fix, component)
        }
        Err(_) => (fix, component),
    };
    Error::UnknownSetting {
        component,
        name,
        fix,
    }
}

/// All keys of a table and its subtables, dotted.
fn dotted(table: &Table, path: &str, keys: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = match path {
            "" => key.clone(),
            path => format!("{path}.{key}"),
        };
        if let Value::Table(inner) = value {
            dotted(inner, &path, keys);
        }
        keys.insert(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_config::read_file;

    #[test]
    fn an_arch_replaces_the_sizes_of_a_recipe_or_is_refused() {
        let mut built = 0;
        for entry in registry::methods() {
            for ((recipe, _), arch) in entry
                .recipes
                .iter()
                .flat_map(|recipe| entry.archs.iter().map(move |arch| (recipe, arch)))
            {
                let mut table = read_file(recipe).unwrap();
                replace_sizes(&mut table, arch).unwrap();
                let Ok(config) = RunConfig::from_table(table) else {
                    continue;
                };
                let alone = Table::from_iter([("arch".to_owned(), (*arch).into())]);
                let wanted = entry.resolve(alone).unwrap();
                for key in [
                    "type",
                    "embed_dim",
                    "embed_dims",
                    "depth",
                    "depths",
                    "num_heads",
                ] {
                    let of = |table: &Table| table["encoder"].get(key).cloned();
                    assert_eq!(of(&config.model), of(&wanted), "{recipe} {arch} {key}");
                }
                built += 1;
            }
        }
        assert!(built > 100, "{built}");
    }

    #[test]
    fn an_arch_keeps_image_and_patch_sizes() {
        let mut table = read_file("mae_32px").unwrap();
        replace_sizes(&mut table, "vit_base").unwrap();
        let config = RunConfig::from_table(table).unwrap();
        let encoder = &config.model["encoder"];
        assert_eq!(encoder["embed_dim"].as_integer(), Some(768));
        assert_eq!(encoder["image_size"].as_integer(), Some(32));
        assert_eq!(encoder["patch_size"].as_integer(), Some(4));
        let error = replace_sizes(&mut Table::new(), "vit_tinny").unwrap_err();
        assert!(
            error.to_string().contains("did you mean vit_tiny?"),
            "{error}"
        );
    }

    #[test]
    fn views_follow_the_image_size() {
        for (size, crop) in [
            (Value::Integer(64), "64"),
            (Value::Array(vec![32.into(), 64.into()]), "[32, 64]"),
        ] {
            let mut table = read_file("mae_32px").unwrap();
            let encoder = table["encoder"].as_table_mut().unwrap();
            encoder.insert("image_size".to_owned(), size);
            let config = RunConfig::from_table(table).unwrap();
            let view = &config.model["views"]["shared"][0]["size"];
            assert_eq!(view.to_string(), crop);
            let text = config.to_toml().unwrap();
            assert!(!text.contains("\"image_size\""), "{text}");
            assert_eq!(
                RunConfig::from_table(text.parse().unwrap()).unwrap(),
                config
            );
        }
    }

    #[test]
    fn views_of_tokenizers_follow_their_image_size() {
        for (recipe, side) in [("peco_tokenizer_32px", 32), ("dvae_32px", 64)] {
            let config = RunConfig::from_table(read_file(recipe).unwrap()).unwrap();
            let view = &config.model["views"]["shared"][0]["size"];
            assert_eq!(view.as_integer(), Some(side), "{recipe}");
            assert!(!config.to_toml().unwrap().contains("\"image_size\""));
        }
    }

    #[test]
    fn suggestions_for_unknown_keys_come_from_all_tables() {
        let error = |text: &str| {
            RunConfig::from_table(text.parse().unwrap())
                .unwrap_err()
                .to_string()
        };
        for (text, wanted) in [
            (
                "epochs = 5",
                "there is no setting `epochs`; did you mean `train.epochs`?",
            ),
            (
                "[train]\nepoch = 1",
                "train: there is no setting `epoch`; did you mean `epochs`?",
            ),
            (
                "[train]\nembed_dim = 1",
                "did you mean `decoder.embed_dim`?",
            ),
            ("[trian]\nepochs = 1", "did you mean `train`?"),
            ("mask_rato = 0.5", "did you mean `mask_ratio`?"),
            (
                "method = \"finetune\"\n[encoder]\ntype = \"conv_mae\"\ndrop_path_rate = 0.1",
                "another type of this part has it; leave it out",
            ),
            (
                "[encoder]\nembed_dims = 8",
                "`encoder.embed_dims`; did you mean `embed_dim`?",
            ),
            (
                "[target]\ntype = \"clip\"\n",
                "there is no setting `target`",
            ),
        ] {
            let error = error(text);
            assert!(error.contains(wanted), "{error}");
        }
    }
}
