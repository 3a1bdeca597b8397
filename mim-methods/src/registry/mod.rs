//! All methods: the table behind the command line, the docs and the tests.

mod parts;

use candle_core::Device;
use mim_core::{Error, Method, ParamStore, Result, settings};
use toml::{Table, Value};

pub use parts::Registry;

use crate::MethodConfig;
use crate::parity::{self, Case, Setup};

/// Sizes of a plain ViT.
pub(crate) const VITS: &[&str] = &["vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge"];

/// Sizes of ConvMAE's hybrid.
pub(crate) const HYBRIDS: &[&str] = &[
    "convmae_tiny",
    "convmae_small",
    "convmae_base",
    "convmae_large",
];

/// Completes settings.
pub type Resolve = fn(&Registry, Table) -> Result<Table>;

/// Builds a method from complete settings. Without a seed its weights are not trainable.
pub type Build = fn(&Registry, Table, &Device, Option<u64>) -> Result<Box<dyn Method>>;

/// Prepares a golden case.
pub type Prepare = fn(&Case, &Device) -> parity::Result<Setup>;

/// What a method does, one line per aspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// What is hidden.
    pub hidden: &'static str,
    /// What is predicted.
    pub predicted: &'static str,
    /// The part that predicts it.
    pub by: &'static str,
    /// The loss.
    pub loss: &'static str,
    /// When to choose this method.
    pub choose: &'static str,
}

impl About {
    /// Empty texts.
    pub const NOTHING: Self = Self {
        hidden: "",
        predicted: "",
        by: "",
        loss: "",
        choose: "",
    };
}

/// A method of the registry.
///
/// ```
/// use mim_methods::MaeConfig;
/// use mim_methods::registry::{Entry, Registry};
///
/// let mut registry = Registry::default();
/// registry.method(Entry {
///     title: "MAE under another name",
///     ..Entry::new::<MaeConfig>("mae_again")
/// })?;
/// # Ok::<(), mim_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Name in configs and on the command line.
    pub name: &'static str,
    /// Title of the paper.
    pub title: &'static str,
    /// Authors, venue, arXiv number.
    pub paper: &'static str,
    /// The code that it agrees with.
    pub reference: &'static str,
    /// Encoder sizes.
    pub archs: &'static [&'static str],
    /// What it does.
    pub about: About,
    /// What has been checked.
    pub status: &'static str,
    /// Shipped recipes: (name, TOML); the first one is for 32-pixel images.
    pub recipes: &'static [(&'static str, &'static str)],
    /// Whether it is for point clouds, not for images.
    pub clouds: bool,
    /// Completes settings.
    pub resolve: Resolve,
    /// Builds the method.
    pub build: Build,
    /// Prepares a golden case, usually by [`parity::golden::Golden::setup`].
    pub parity: Prepare,
}

/// The methods of the program's registry, see [`Registry::current`].
pub fn methods() -> &'static [Entry] {
    Registry::current().methods()
}

/// The method called `name`.
///
/// # Errors
///
/// [`Error::InvalidConfig`] listing all methods.
pub fn method(name: &str) -> Result<&'static Entry> {
    methods()
        .iter()
        .find(|entry| entry.name == name)
        .ok_or_else(|| {
            let known = methods().iter().map(|entry| entry.name);
            let (why, fix) = ("no method has this name", settings::choices(name, known));
            Error::config("settings", "method", name, why, fix)
        })
}

/// The shipped recipe called `name`.
///
/// # Errors
///
/// [`Error::InvalidConfig`] listing all recipes.
pub fn recipe(name: &str) -> Result<&'static str> {
    let all = methods().iter().flat_map(|entry| entry.recipes);
    let found = all.clone().find(|(known, _)| *known == name);
    found.map(|(_, text)| *text).ok_or_else(|| {
        let known = settings::choices(name, all.map(|(known, _)| *known));
        let (why, fix) = ("unknown recipe", format!("{known}, or give a file"));
        Error::config("settings", "recipe", name, why, fix)
    })
}

impl Entry {
    /// The method with the settings `C`, without documentation texts and golden cases.
    pub const fn new<C: MethodConfig>(name: &'static str) -> Self {
        Self {
            name,
            title: "",
            paper: "",
            reference: "none",
            archs: &[],
            about: About::NOTHING,
            status: "",
            recipes: &[],
            clouds: false,
            resolve: resolve::<C>,
            build: build::<C>,
            parity: parity::none,
        }
    }

    /// All settings of the method: `settings` over its defaults (of `arch`, if set).
    ///
    /// # Errors
    ///
    /// If a setting is unknown or of another type.
    pub fn resolve(&self, settings: Table) -> Result<Table> {
        self.resolve_with(Registry::current(), settings)
    }

    /// Like [`Entry::resolve`], with the parts of `registry`.
    ///
    /// # Errors
    ///
    /// If a setting is unknown or of another type.
    pub fn resolve_with(&self, registry: &Registry, mut settings: Table) -> Result<Table> {
        if let Some(arch) = settings.get("arch").and_then(|arch| arch.as_str())
            && !self.archs.contains(&arch)
        {
            let arch = arch.to_owned();
            let why = format!("{} does not have this size", self.name);
            let fix = match self.archs {
                [] => "set the sizes of its encoder, such as encoder.embed_dim".to_owned(),
                known => settings::choices(&arch, known.iter().copied()),
            };
            return Err(Error::config(self.name, "arch", arch, why, fix));
        }
        settings.remove("method");
        (self.resolve)(registry, settings)
    }

    /// Builds the method from complete settings, with weights drawn from `seed`.
    ///
    /// # Errors
    ///
    /// If a setting is invalid.
    pub fn build(&self, settings: Table, device: &Device, seed: u64) -> Result<Box<dyn Method>> {
        self.build_with(Registry::current(), settings, device, seed)
    }

    /// Like [`Entry::build`], with the parts of `registry`.
    ///
    /// # Errors
    ///
    /// If a setting is invalid.
    pub fn build_with(
        &self,
        registry: &Registry,
        settings: Table,
        device: &Device,
        seed: u64,
    ) -> Result<Box<dyn Method>> {
        let largest = largest(&settings);
        let built = (self.build)(registry, settings, device, Some(seed));
        built.map_err(|error| match error {
            Error::InvalidConfig {
                component,
                field,
                value,
                why,
                fix,
            } if component == "parameters" => {
                let fix = format!("{fix}; the largest settings are {largest}");
                Error::config(component, field, value, why, fix)
            }
            other => other,
        })
    }

    /// Builds the method from complete settings with zero weights that are not trainable, to be loaded.
    ///
    /// # Errors
    ///
    /// If a setting is invalid.
    pub fn build_frozen(&self, settings: Table, device: &Device) -> Result<Box<dyn Method>> {
        (self.build)(Registry::current(), settings, device, None)
    }

    /// Prepares a golden case of this method.
    ///
    /// # Errors
    ///
    /// If the case's settings or inputs do not fit.
    pub fn parity(&self, case: &Case, device: &Device) -> parity::Result<Setup> {
        (self.parity)(case, device)
    }
}

/// The largest whole numbers of a table with their dotted keys.
fn largest(settings: &Table) -> String {
    let mut all = Vec::new();
    numbers(settings, "", &mut all);
    all.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
    let first = all.iter().take(3);
    let first: Vec<_> = first
        .map(|(key, number)| format!("{key} = {number}"))
        .collect();
    first.join(", ")
}

fn numbers(table: &Table, around: &str, found: &mut Vec<(String, i64)>) {
    for (key, value) in table {
        match value {
            Value::Table(inner) => numbers(inner, &format!("{around}{key}."), found),
            Value::Integer(number) => found.push((format!("{around}{key}"), *number)),
            _ => {}
        }
    }
}

fn resolve<C: MethodConfig>(_registry: &Registry, settings: Table) -> Result<Table> {
    C::resolve(settings)
}

/// Without a seed the weights are not trainable.
fn build<C: MethodConfig>(
    _registry: &Registry,
    settings: Table,
    device: &Device,
    seed: Option<u64>,
) -> Result<Box<dyn Method>> {
    let config: C = settings::read("method", settings)?;
    let store = match seed {
        Some(seed) => config.store(device, seed),
        None => ParamStore::teacher(device),
    };
    Ok(Box::new(config.build(&store)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MaeConfig, SimMimConfig};
    use mim_core::encoders::EncoderConfig;

    #[test]
    fn sizes_and_settings_overlay_the_defaults() {
        let settings =
            toml::from_str("arch = \"vit_small\"\nmask_ratio = 0.5\n[encoder]\ndepth = 2").unwrap();
        let config: MaeConfig = method("mae")
            .unwrap()
            .resolve(settings)
            .unwrap()
            .try_into()
            .unwrap();
        assert_eq!(
            (
                config.mask_ratio,
                config.encoder.depth,
                config.encoder.embed_dim
            ),
            (0.5, 2, 384)
        );
        assert_eq!(config.decoder.embed_dim, 512);
    }

    #[test]
    fn an_encoder_type_replaces_the_default_and_keys_override_it() {
        let resolve = |text: &str| -> SimMimConfig {
            let table = text.parse().unwrap();
            method("simmim")
                .unwrap()
                .resolve(table)
                .unwrap()
                .try_into()
                .unwrap()
        };
        let EncoderConfig::Vit(vit) = resolve("[encoder]\ndepth = 2").encoder else {
            panic!("the default is a ViT");
        };
        assert_eq!(
            (vit.depth, vit.mask_token, vit.layer_scale_init),
            (2, true, Some(0.1))
        );
        let text = "[encoder]\ntype = \"swin\"\nwindow_size = 3\nimage_size = 96";
        let EncoderConfig::Swin(swin) = resolve(text).encoder else {
            panic!("the type is Swin");
        };
        assert_eq!((swin.window_size, swin.embed_dim), (3, 128));
        let EncoderConfig::Swin(swin) =
            resolve("arch = \"swin_large\"\n[encoder]\nwindow_size = 6").encoder
        else {
            panic!("the size is a Swin");
        };
        assert_eq!((swin.window_size, swin.embed_dim), (6, 192));
        // Resolving resolved settings does not change them.
        let all = method("simmim")
            .unwrap()
            .resolve(text.parse().unwrap())
            .unwrap();
        assert_eq!(method("simmim").unwrap().resolve(all.clone()).unwrap(), all);
        let mixed = "[encoder]\ntype = \"swin\"\ndepth = 2".parse().unwrap();
        let error = method("simmim")
            .unwrap()
            .resolve(mixed)
            .unwrap_err()
            .to_string();
        assert!(error.contains("did you mean `depths`?"), "{error}");
    }

    #[test]
    fn a_network_that_fits_no_memory_is_refused_with_its_largest_settings() {
        let mae = method("mae").unwrap();
        let text = "[encoder]\nimage_size = 16\npatch_size = 4\nembed_dim = 65536\nnum_heads = 4";
        let settings = mae.resolve(text.parse().unwrap()).unwrap();
        let built = mae.build(settings, &Device::Cpu, 0);
        let error = built.err().unwrap().to_string();
        assert!(error.contains("GB"), "{error}");
        assert!(error.contains("encoder.embed_dim = 65536"), "{error}");
    }

    #[test]
    fn errors_for_unknown_names_list_the_known_ones() {
        assert!(
            method("mea")
                .unwrap_err()
                .to_string()
                .contains("mae, simmim")
        );
        assert!(
            recipe("nothing")
                .unwrap_err()
                .to_string()
                .contains("mae_base")
        );
        let settings = toml::from_str("arch = \"vit_giant\"").unwrap();
        assert!(
            method("mae")
                .unwrap()
                .resolve(settings)
                .unwrap_err()
                .to_string()
                .contains("vit_base")
        );
    }
}
