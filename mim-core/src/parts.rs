//! Registry of parts, which a config file selects by `type`.
//!
//! A part is a kind of masker, encoder, target, decoder or objective. Its settings are a serde struct that
//! implements [`Part`] and the trait of its kind, such as [`ObjectiveSettings`](crate::objectives::ObjectiveSettings). [`Parts`] is the
//! list of all parts of a kind.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::{Error, Result, settings};

/// The settings of a part, with its documentation. `Default` is the recipe of its paper.
pub trait Part:
    fmt::Debug + Default + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// What the part does: one line without a full stop.
    const ABOUT: &'static str;
    /// Authors, venue and arXiv number; the reference code.
    const PAPER: &'static str;
    /// The settings for images of 32 pixels that differ from the defaults, as TOML.
    const SMALL: &'static str = "";
    /// Settings that a composed method takes from its other parts: `norm`, `patch_size` or `mask_token`.
    const FOLLOWS: &'static [&'static str] = &[];
}

/// Settings of a part selected by name.
pub trait Settings: fmt::Debug + Send + Sync {
    /// The complete settings as a table, without `type`.
    ///
    /// # Errors
    ///
    /// If they cannot be written as TOML.
    fn to_table(&self) -> Result<Table>;
}

impl<C: Part> Settings for C {
    fn to_table(&self) -> Result<Table> {
        settings::to_table(self)
    }
}

/// Documentation of a part.
#[derive(Debug, Clone)]
pub struct PartInfo {
    /// Name in configs: the value of `type`.
    pub name: String,
    /// [`Part::ABOUT`].
    pub about: &'static str,
    /// [`Part::PAPER`].
    pub paper: &'static str,
    /// [`Part::FOLLOWS`].
    pub follows: &'static [&'static str],
    small: &'static str,
    defaults: fn() -> Result<Table>,
}

impl PartInfo {
    /// All settings with their defaults, without `type`.
    ///
    /// # Errors
    ///
    /// If they cannot be written as TOML.
    pub fn defaults(&self) -> Result<Table> {
        (self.defaults)()
    }

    /// The settings for images of 32 pixels that differ from the defaults.
    ///
    /// # Errors
    ///
    /// If [`Part::SMALL`] is not TOML.
    pub fn small(&self) -> Result<Table> {
        self.small.parse().map_err(|error: toml::de::Error| {
            let fix = "correct the constant SMALL of this part";
            Error::config(self.name.clone(), "SMALL", error, "it must be TOML", fix)
        })
    }
}

type Read<S> = Arc<dyn Fn(Table) -> Result<Box<S>> + Send + Sync>;

/// An entry in a list of parts: documentation, and a function that reads the settings.
pub struct PartEntry<S: ?Sized + 'static> {
    /// Documentation of the part.
    pub info: PartInfo,
    kind: &'static str,
    read: Read<S>,
}

impl<S: ?Sized + 'static> PartEntry<S> {
    /// Reads the settings of the part, without `type`; missing settings get their defaults.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownSetting`] or [`Error::BadSetting`] naming the setting, such as `masker.mask_ratio`.
    pub fn read(&self, table: Table) -> Result<Box<S>> {
        (self.read)(table).map_err(|mut error| {
            match &mut error {
                Error::UnknownSetting { name, .. } | Error::BadSetting { name, .. } => {
                    *name = format!("{}.{name}", self.kind);
                }
                Error::InvalidConfig { field, .. } => {
                    *field = format!("{}.{field}", self.kind).into();
                }
                _ => {}
            }
            error
        })
    }
}

impl<S: ?Sized + 'static> fmt::Debug for PartEntry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

/// All parts of a kind, by name.
pub struct Parts<S: ?Sized + 'static> {
    kind: &'static str,
    entries: Vec<PartEntry<S>>,
}

impl<S: ?Sized + 'static> Parts<S> {
    /// An empty list; `kind` is the config table that selects a part: `masker`, `encoder`, ...
    pub fn new(kind: &'static str) -> Self {
        Self {
            kind,
            entries: Vec::new(),
        }
    }

    /// The config table that selects a part from this list.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Adds the part with the settings `C` under `name`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the name is taken.
    pub fn add<C: Part>(&mut self, name: impl Into<String>, boxed: fn(C) -> Box<S>) -> Result<()> {
        let name = name.into();
        if self.entries.iter().any(|entry| entry.info.name == name) {
            let (why, fix) = ("the name is taken", "give the part another name");
            return Err(Error::config(self.kind, "type", name, why, fix));
        }
        self.push(name, boxed);
        Ok(())
    }

    /// The list with another part; for [`crate::parts!`], where module names are unique.
    #[doc(hidden)]
    #[must_use]
    pub fn with<C: Part>(mut self, name: &str, boxed: fn(C) -> Box<S>) -> Self {
        self.push(name.to_owned(), boxed);
        self
    }

    fn push<C: Part>(&mut self, name: String, boxed: fn(C) -> Box<S>) {
        let kind = self.kind;
        self.entries.push(PartEntry {
            info: PartInfo {
                name,
                about: C::ABOUT,
                paper: C::PAPER,
                follows: C::FOLLOWS,
                small: C::SMALL,
                defaults: || settings::to_table(&C::default()),
            },
            kind,
            read: Arc::new(move |table| settings::read("method", table).map(boxed)),
        });
    }

    /// The part called `name`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] listing all parts.
    pub fn get(&self, name: &str) -> Result<&PartEntry<S>> {
        let found = self.entries.iter().find(|entry| entry.info.name == name);
        found.ok_or_else(|| {
            let (field, why) = (format!("{}.type", self.kind), "it is not a known part");
            Error::config("settings", field, name, why, self.choices(name))
        })
    }

    /// Suggestion for an unknown `name`.
    fn choices(&self, name: &str) -> String {
        settings::choices(
            name,
            self.entries.iter().map(|entry| entry.info.name.as_str()),
        )
    }

    /// All parts.
    pub fn iter(&self) -> impl Iterator<Item = &PartEntry<S>> {
        self.entries.iter()
    }

    /// Documentation of all parts.
    pub fn infos(&self) -> impl Iterator<Item = &PartInfo> {
        self.entries.iter().map(|entry| &entry.info)
    }

    /// Reads a table that selects a part by its `type`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if there is no such part; otherwise errors name the setting.
    pub fn read(&self, mut table: Table) -> Result<Box<S>> {
        match table.remove("type") {
            Some(Value::String(name)) => self.get(&name)?.read(table),
            other => {
                let (field, why) = (
                    format!("{}.type", self.kind),
                    "it must be the name of a part",
                );
                let value = other.map_or("not set".to_owned(), |value| value.to_string());
                Err(Error::config(
                    "settings",
                    field,
                    value,
                    why,
                    self.choices(""),
                ))
            }
        }
    }
}

impl<S: ?Sized + 'static> fmt::Debug for Parts<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.infos().map(|info| &info.name).collect();
        f.debug_struct("Parts")
            .field("kind", &self.kind)
            .field("names", &names)
            .finish()
    }
}

/// Declares the parts of a kind, one per line: `module => Settings, other public items;`. The part has the name of its
/// module.
///
/// ```ignore
/// parts! {
///     /// The maskers of mim.
///     pub fn maskers() -> dyn MaskerSettings as "masker";
///     random => RandomMaskerConfig, RandomMasker;
/// }
/// ```
///
/// Each line creates the `mod`, the `pub use`, and the entry in the list that the function returns.
#[macro_export]
macro_rules! parts {
    (
        $(#[$about:meta])*
        pub fn $all:ident() -> dyn $settings:ident as $kind:literal;
        $($module:ident => $config:ident $(, $public:ident)*;)*
    ) => {
        $(
            mod $module;
            pub use self::$module::{$config $(, $public)*};
        )*

        $(#[$about])*
        pub fn $all() -> $crate::parts::Parts<dyn $settings> {
            $crate::parts::Parts::<dyn $settings>::new($kind)
                $(.with(stringify!($module), |config: $config| Box::new(config)))*
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::{CosineConfig, ObjectiveSettings, objectives};

    #[test]
    fn duplicate_names_are_refused_and_unknown_ones_get_suggestions() {
        let mut parts = objectives();
        let error = parts
            .add("cosine", |config: CosineConfig| Box::new(config))
            .unwrap_err()
            .to_string();
        assert!(error.contains("is taken"), "{error}");
        parts
            .add("angle", |config: CosineConfig| Box::new(config))
            .unwrap();
        assert!(parts.get("angle").is_ok());
        let unknown = |text: &str| match parts.read(text.parse().unwrap()) {
            Ok(_) => panic!("{text} is not refused"),
            Err(error) => error.to_string(),
        };
        let error = unknown("type = \"cosin\"");
        assert!(
            error.contains("objective.type") && error.contains("did you mean cosine?"),
            "{error}"
        );
        let error = unknown("type = \"cosine\"\nofset = 1.0");
        assert!(error.contains("did you mean `offset`?"), "{error}");
        let error = unknown("offset = 1.0");
        assert!(error.contains("regression, cosine"), "{error}");
    }

    #[test]
    fn settings_overlay_defaults_and_are_written_completely() {
        let parts: Parts<dyn ObjectiveSettings> = objectives();
        let read = parts.read("type = \"cosine\"\noffset = 2.0".parse().unwrap());
        let table = read.unwrap().to_table().unwrap();
        assert_eq!(table["offset"].as_float(), Some(2.));
        assert_eq!(
            table.len(),
            parts.get("cosine").unwrap().info.defaults().unwrap().len()
        );
    }
}
