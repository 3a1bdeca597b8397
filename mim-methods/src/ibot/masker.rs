//! The masker, which distinguishes iBOT and AttMask.

use mim_core::Result;
use mim_masking::{AttentionMaskerConfig, IbotBlockMaskerConfig, Masker};

/// Masker settings that select a method.
pub trait NamingMasker: Default + Clone + PartialEq + std::fmt::Debug {
    /// The method's name in the registry.
    const METHOD: &'static str;

    /// Checks the settings and builds the masker.
    ///
    /// # Errors
    ///
    /// [`mim_core::Error::InvalidConfig`] naming the setting.
    fn masker(&self) -> Result<Box<dyn Masker>>;
}

impl NamingMasker for IbotBlockMaskerConfig {
    const METHOD: &'static str = "ibot";

    fn masker(&self) -> Result<Box<dyn Masker>> {
        Ok(Box::new(self.build()?))
    }
}

impl NamingMasker for AttentionMaskerConfig {
    const METHOD: &'static str = "attmask";

    fn masker(&self) -> Result<Box<dyn Masker>> {
        Ok(Box::new(self.build()?))
    }
}
