//! [`Params`]: paths in a store.

use std::fmt::Display;

use candle_core::{Device, Tensor, Var};

use super::{Kind, ParamStore};
use crate::Result;

/// A path in a store: the only thing constructors of modules take.
#[derive(Debug, Clone)]
pub struct Params {
    pub(super) store: ParamStore,
    pub(super) path: String,
}

impl Params {
    /// The path one level down.
    pub fn pp(&self, name: impl Display) -> Self {
        Self {
            store: self.store.clone(),
            path: self.full(&name),
        }
    }

    fn full(&self, name: &impl Display) -> String {
        if self.path.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// The store this path belongs to.
    pub fn store(&self) -> &ParamStore {
        &self.store
    }

    /// The device all values live on.
    pub fn device(&self) -> &Device {
        self.store.device()
    }

    /// A parameter of the given shape, initialised by the store's scheme. The same name twice is
    /// the same tensor: that is how weights are shared.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Shape`] if the name is taken by another shape.
    pub fn weight(&self, shape: &[usize], name: &str) -> Result<Tensor> {
        self.store.weight(self.full(&name), shape, None)
    }

    /// A trained parameter whose initial value is the layer's own business (layer scale).
    ///
    /// # Errors
    ///
    /// [`crate::Error::Shape`] if the name is taken by another shape.
    pub fn filled(&self, shape: &[usize], name: &str, value: f64) -> Result<Tensor> {
        self.store.weight(self.full(&name), shape, Some(value))
    }

    /// A value that is saved but never trained, such as a table of sines and cosines.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Shape`] if the name is taken by another shape.
    pub fn constant(&self, name: &str, value: Tensor) -> Result<Tensor> {
        let made = self.store.made(self.full(&name), Kind::Frozen, value)?;
        Ok(made.as_detached_tensor())
    }

    /// State that a step changes by itself, starting at `value`.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Shape`] if the name is taken by another shape.
    pub fn buffer(&self, name: &str, value: Tensor) -> Result<Var> {
        self.store.made(self.full(&name), Kind::Buffer, value)
    }
}
