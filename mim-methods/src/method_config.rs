//! From settings to methods.

use candle_core::Device;
use mim_core::params::{InitScheme, ParamStore};
use mim_core::settings::{self, to_table};
use mim_core::{Method, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Table;

/// Settings of a method, without data and training. `Default` is the paper's base recipe.
pub trait MethodConfig: Default + Serialize + DeserializeOwned {
    /// The method that is built: a [`Composite`](crate::Composite) unless the paper needs more.
    type Method: Method + 'static;

    /// The paper's settings for an encoder size such as `vit_small`.
    ///
    /// # Errors
    ///
    /// If the method does not have this size; the error lists the known ones.
    fn arch(arch: &str) -> Result<Self>;

    /// All settings: `settings` over the defaults (of `arch`, if set).
    ///
    /// # Errors
    ///
    /// If a setting is unknown or of another type.
    fn resolve(mut settings: Table) -> Result<Table> {
        let config = match settings.remove("arch") {
            Some(arch) => Self::arch(arch.as_str().unwrap_or_default())?,
            None => Self::default(),
        };
        let mut resolved = to_table(&config)?;
        settings::overlay(&mut resolved, settings);
        to_table(&settings::read::<Self>("method", resolved)?)
    }

    /// Initialisation of the weights in a store for this method.
    fn init(&self) -> Box<dyn InitScheme>;

    /// A store for the weights of this method, drawn from `seed`.
    fn store(&self, device: &Device, seed: u64) -> ParamStore {
        ParamStore::new(device, seed, self.init())
    }

    /// Checks the settings and builds the method on `student`.
    ///
    /// # Errors
    ///
    /// If a setting is invalid.
    fn build(&self, student: &ParamStore) -> Result<Self::Method>;
}
