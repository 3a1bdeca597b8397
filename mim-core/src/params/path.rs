//! [`Params`]: paths in a store.

use std::fmt::Display;

use candle_core::{Device, Tensor, Var};

use super::{Draw, Kind, ParamStore};
use crate::Result;

/// A path in a store: the only argument through which module constructors get tensors.
#[derive(Debug, Clone)]
pub struct Params {
    pub(super) store: ParamStore,
    pub(super) path: String,
    pub(super) shared: bool,
}

/// The full name of an entry, and whether it may already exist.
pub(super) struct Name {
    pub(super) full: String,
    pub(super) shared: bool,
}

impl Params {
    /// The same path, but names may already exist: a part built on it shares the weights of the part that was built
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

    /// The device of all values.
    pub fn device(&self) -> &Device {
        self.store.device()
    }

    /// A trained parameter of the given shape, initialised by the store's scheme.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) if the name is taken; on a [`Params::shared`] path
    /// [`Error::Shape`](crate::Error::Shape) if the existing parameter has another shape.
    pub fn weight(&self, shape: &[usize], name: &str) -> Result<Tensor> {
        self.store.weight(self.named(name), shape, None)
    }

    /// A trained parameter of the given shape, filled with `value` (layer scale).
    ///
    /// # Errors
    ///
    /// As [`Params::weight`].
    pub fn filled(&self, shape: &[usize], name: &str, value: f64) -> Result<Tensor> {
        self.store.weight(self.named(name), shape, Some(value))
    }

    /// A trained parameter with the shape and the initial values of `value`, such as frequencies of positions.
    ///
    /// # Errors
    ///
    /// As [`Params::weight`].
    pub fn starting(&self, name: &str, value: Tensor) -> Result<Tensor> {
        self.store.starting(self.named(name), value)
    }

    /// A value that is saved but never trained, such as a table of sines and cosines; returns it without gradient, in the
    /// shape of `value`.
    ///
    /// # Errors
    ///
    /// As [`Params::weight`].
    pub fn constant(&self, name: &str, value: Tensor) -> Result<Tensor> {
        let made = self.store.made(self.named(name), Kind::Frozen, value)?;
        Ok(made.as_detached_tensor())
    }

    /// State that steps update directly, with the shape and the initial values of `value`.
    ///
    /// # Errors
    ///
    /// As [`Params::weight`].
    pub fn buffer(&self, name: &str, value: Tensor) -> Result<Var> {
        self.store.made(self.named(name), Kind::Buffer, value)
    }

    /// State that steps update directly, initialised by draws from the random stream of its name; zero in a teacher's
    /// store.
    ///
    /// # Errors
    ///
    /// As [`Params::weight`].
    pub fn drawn(&self, name: &str, shape: &[usize], draw: Draw) -> Result<Var> {
        self.store.drawn(self.named(name), shape, draw)
    }
}
