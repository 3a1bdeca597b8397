//! [`Params`]: paths in a store.

use std::fmt::Display;

use candle_core::{Device, Tensor, Var};

use super::{Draw, Kind, ParamStore};
use crate::Result;

/// A path in a store: the only thing constructors of modules take.
#[derive(Debug, Clone)]
pub struct Params {
    pub(super) store: ParamStore,
    pub(super) path: String,
    pub(super) shared: bool,
}

/// The full name of an entry, and whether it may exist already.
pub(super) struct Name {
    pub(super) full: String,
    pub(super) shared: bool,
}

impl Params {
    /// The same path, whose names may exist already: a part built on it has the weights of the part that was built
    /// on it before.
    #[must_use]
    pub fn shared(&self) -> Self {
        Self {
            shared: true,
            ..self.clone()
        }
    }

    /// The path one level down.
    pub fn pp(&self, name: impl Display) -> Self {
        Self {
            store: self.store.clone(),
            path: self.full(&name),
            shared: self.shared,
        }
    }

    fn full(&self, name: &impl Display) -> String {
        if self.path.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    fn named(&self, name: &str) -> Name {
        Name {
            full: self.full(&name),
            shared: self.shared,
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

    /// A parameter of the given shape, initialised by the store's scheme.
    ///
    /// # Errors
    ///
    /// [`crate::Error::InvalidConfig`] if the name is taken; on a [`Params::shared`] path
    /// [`crate::Error::Shape`] if it is taken by another shape.
    pub fn weight(&self, shape: &[usize], name: &str) -> Result<Tensor> {
        self.store.weight(self.named(name), shape, None)
    }

    /// A trained parameter whose initial value is the layer's own business (layer scale).
    ///
    /// # Errors
    ///
    /// As [`Params::weight`].
    pub fn filled(&self, shape: &[usize], name: &str, value: f64) -> Result<Tensor> {
        self.store.weight(self.named(name), shape, Some(value))
    }

    /// A trained parameter that starts at given values: frequencies of positions.
    ///
    /// # Errors
    ///
    /// As [`Params::weight`].
    pub fn starting(&self, name: &str, value: Tensor) -> Result<Tensor> {
        self.store.starting(self.named(name), value)
    }

    /// A value that is saved but never trained, such as a table of sines and cosines.
    ///
    /// # Errors
    ///
    /// As [`Params::weight`].
    pub fn constant(&self, name: &str, value: Tensor) -> Result<Tensor> {
        let made = self.store.made(self.named(name), Kind::Frozen, value)?;
        Ok(made.as_detached_tensor())
    }

    /// State that a step changes by itself, starting at `value`.
    ///
    /// # Errors
    ///
    /// As [`Params::weight`].
    pub fn buffer(&self, name: &str, value: Tensor) -> Result<Var> {
        self.store.made(self.named(name), Kind::Buffer, value)
    }

    /// State that a step changes by itself, starting at draws from the stream of its name; zero in a teacher's store.
    ///
    /// # Errors
    ///
    /// As [`Params::weight`].
    pub fn drawn(&self, name: &str, shape: &[usize], draw: Draw) -> Result<Var> {
        self.store.drawn(self.named(name), shape, draw)
    }
}
