//! [`ParamStore`]: an ordered table of named variables, shared by all modules of a network.

mod entries;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor, Var};

use super::path::Name;
use super::{Draw, InitScheme, MaeInit, Params};
use crate::rng::{Purpose, name_hash, stream};
use crate::{Error, Result, memory};

/// Role of an entry in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Trained by the optimizer.
    Trainable,
    /// Saved, never trained: position tables, a frozen patch embedding.
    Frozen,
    /// State that steps update directly: running statistics, centres, codebooks.
    Buffer,
}

/// Named variables of one network, in order of creation.
///
/// Modules take [`Params`], a path in a store, and request tensors by name. A name can be used only once, unless
/// weights are shared explicitly ([`Params::shared`]). All mutable state of training lives in stores, so a checkpoint
/// consists of its stores, the optimizer and the position in the run. A clone is another handle to the same store.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use mim_core::params::{Init, Kind, ParamStore};
///
/// let store = ParamStore::new(&Device::Cpu, 0, Init::Mae.build(8));
/// let head = store.root().pp("head");
/// let weight = head.weight(&[4, 8], "weight")?; // trained
/// let zeros = Tensor::zeros(4, DType::F32, &Device::Cpu)?;
/// let centre = head.buffer("centre", zeros)?; // set by steps
/// assert_eq!((weight.dims(), centre.dims()), (&[4, 8][..], &[4][..]));
///
/// let kinds: Vec<_> = store.names().into_iter().map(|(_, kind)| kind).collect();
/// assert_eq!(kinds, [Kind::Trainable, Kind::Buffer]);
/// assert!(store.var("head.weight").is_some());
/// assert_eq!(store.trainable_values(), 4 * 8);
///
/// // A name belongs to one part of the network, unless weights are shared on purpose.
/// assert!(head.weight(&[4, 8], "weight").is_err());
/// assert!(head.shared().weight(&[4, 8], "weight").is_ok());
/// # Ok::<(), mim_core::Error>(())
/// ```
#[derive(Clone)]
pub struct ParamStore(Arc<Inner>);

struct Inner {
    device: Device,
    source: Source,
    table: Mutex<Table>,
}

enum Source {
    /// Draws initial values; names that satisfy the function are frozen.
    Student {
        seed: u64,
        init: Box<dyn InitScheme>,
        frozen: fn(&str) -> bool,
    },
    /// Starts at zero and returns detached views: they have no gradient and see updates at once.
    Teacher,
}

#[derive(Default)]
struct Table {
    entries: Vec<Entry>,
    /// Values of all entries.
    values: usize,
    index: HashMap<String, usize>,
}

#[derive(Clone)]
struct Entry {
    name: String,
    var: Var,
    kind: Kind,
}

impl Entry {
    /// The tensor that modules compute with: it tracks gradients if it is trained.
    fn tensor(&self) -> Tensor {
        match self.kind {
            Kind::Trainable => self.var.as_tensor().clone(),
            Kind::Frozen | Kind::Buffer => self.var.as_detached_tensor(),
        }
    }
}

impl ParamStore {
    /// A store whose parameters are drawn by `init` from `seed`, each from the random stream of its name.
    pub fn new(device: &Device, seed: u64, init: impl InitScheme + 'static) -> Self {
        Self::with_frozen(device, seed, init, |_| false)
    }

    /// As [`ParamStore::new`], but parameters whose name satisfies `frozen` are never trained.
    pub fn with_frozen(
        device: &Device,
        seed: u64,
        init: impl InitScheme + 'static,
        frozen: fn(&str) -> bool,
    ) -> Self {
        Self::from_source(
            device,
            Source::Student {
                seed,
                init: Box::new(init),
                frozen,
            },
        )
    }

    /// A store of detached tensors without training. Its values start at zero, to be
    /// copied from a student ([`Ema`](super::Ema)) or loaded.
    pub fn teacher(device: &Device) -> Self {
        Self::from_source(device, Source::Teacher)
    }

    fn from_source(device: &Device, source: Source) -> Self {
        Self(Arc::new(Inner {
            device: device.clone(),
            source,
            table: Mutex::default(),
        }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Entries are pushed whole, so a panic cannot leave the table half-written.
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device of all values.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Whether its parameters can be trained: false for a teacher's store.
    pub fn trains(&self) -> bool {
        matches!(self.0.source, Source::Student { .. })
    }

    /// The seed of its initial values; `None` for a teacher's store.
    pub fn seed(&self) -> Option<u64> {
        match self.0.source {
            Source::Student { seed, .. } => Some(seed),
            Source::Teacher => None,
        }
    }

    /// The root path.
    pub fn root(&self) -> Params {
        Params {
            store: self.clone(),
            path: String::new(),
            shared: false,
        }
    }

    /// The tensor of `name`, created by `first` if it does not exist.
    fn entry(
        &self,
        Name { full: name, shared }: Name,
        shape: &[usize],
        kind: Kind,
        first: impl FnOnce() -> Result<Var>,
    ) -> Result<Entry> {
        let mut table = self.table();
        if let Some(&at) = table.index.get(&name) {
            let entry = table.entries[at].clone();
            if !shared {
                return Err(Error::config(
                    "parameters",
                    "name",
                    name,
                    "another part of the network uses it",
                    "give each part its own path with Params::pp, or share the weights with Params::shared",
                ));
            }
            if entry.var.dims() != shape {
                return Err(Error::shape(
                    format!("parameter `{name}`"),
                    entry.var.dims(),
                    shape,
                    "give parts with different shapes different names",
                ));
            }
            return Ok(entry);
        }
        // Before anything is allocated.
        table.values += memory::check(("parameters", &name), shape, table.values)?;
        let entry = Entry {
            name: name.clone(),
            var: first()?,
            kind,
        };
        let at = table.entries.len();
        table.index.insert(name, at);
        table.entries.push(entry.clone());
        Ok(entry)
    }

    /// A parameter with the initial value `value`, or drawn by the scheme.
    pub(super) fn weight(&self, name: Name, shape: &[usize], value: Option<f64>) -> Result<Tensor> {
        let device = self.device();
        let kind = self.kind(&name.full);
        let full = name.full.clone();
        let first = || match (&self.0.source, value) {
            (Source::Teacher, _) => Ok(Var::zeros(shape, DType::F32, device)?),
            (_, Some(value)) => {
                let value = Tensor::full(value, shape, device)?;
                Ok(Var::from_tensor(&value.to_dtype(DType::F32)?)?)
            }
            (Source::Student { seed, init, .. }, None) => {
                draw(init.draw(&full, shape), *seed, &full, shape, device)
            }
        };
        Ok(self.entry(name, shape, kind, first)?.tensor())
    }

    /// A parameter with given initial values.
    pub(super) fn starting(&self, name: Name, value: Tensor) -> Result<Tensor> {
        let (kind, shape) = (self.kind(&name.full), value.dims().to_vec());
        let first = || match &self.0.source {
            Source::Teacher => Ok(Var::zeros(shape.as_slice(), DType::F32, self.device())?),
            Source::Student { .. } => Ok(Var::from_tensor(&value.to_device(self.device())?)?),
        };
        Ok(self.entry(name, value.dims(), kind, first)?.tensor())
    }

    /// Whether a parameter of this name is trained.
    fn kind(&self, name: &str) -> Kind {
        match &self.0.source {
            Source::Student { frozen, .. } if !frozen(name) => Kind::Trainable,
            _ => Kind::Frozen,
        }
    }

    /// A buffer initialised by draws from the random stream of its name.
    pub(super) fn drawn(&self, name: Name, shape: &[usize], from: Draw) -> Result<Var> {
        let (device, full) = (self.device(), name.full.clone());
        let first = || match &self.0.source {
            Source::Teacher => Ok(Var::zeros(shape, DType::F32, device)?),
            Source::Student { seed, .. } => draw(from, *seed, &full, shape, device),
        };
        Ok(self.entry(name, shape, Kind::Buffer, first)?.var)
    }

    /// A variable of the given kind with the initial value `value`.
    pub(super) fn made(&self, name: Name, kind: Kind, value: Tensor) -> Result<Var> {
        let shape = value.dims().to_vec();
        let device = self.device();
        let first = || Ok(Var::from_tensor(&value.to_device(device)?)?);
        Ok(self.entry(name, &shape, kind, first)?.var)
    }
}

pub(super) fn draw(
    draw: Draw,
    seed: u64,
    name: &str,
    shape: &[usize],
    device: &Device,
) -> Result<Var> {
    let mut rng = stream(seed, Purpose::Init, [name_hash(name), 0]);
    let values = draw.sample(shape.iter().product(), &mut rng);
    Ok(Var::from_vec(values, shape, device)?)
}

impl std::fmt::Debug for ParamStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entries = self.table().entries.len();
        f.debug_struct("ParamStore")
            .field("device", &self.0.device)
            .field("entries", &entries)
            .finish()
    }
}

impl ParamStore {
    /// A store with MAE's initialisation on the CPU, for examples and tests.
    pub fn cpu(seed: u64) -> Self {
        Self::new(&Device::Cpu, seed, MaeInit { patch_values: 768 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_depend_on_seed_and_name_not_on_order() {
        let (first, second) = (ParamStore::cpu(1), ParamStore::cpu(1));
        first.root().pp("a").weight(&[2, 3], "weight").unwrap();
        let b = first.root().pp("b").weight(&[2, 3], "weight").unwrap();
        let same = second.root().pp("b").weight(&[2, 3], "weight").unwrap();
        assert_eq!(b.to_vec2::<f32>().unwrap(), same.to_vec2::<f32>().unwrap());
        let other = ParamStore::cpu(2)
            .root()
            .pp("b")
            .weight(&[2, 3], "weight")
            .unwrap();
        assert_ne!(b.to_vec2::<f32>().unwrap(), other.to_vec2::<f32>().unwrap());
    }

    #[test]
    fn teachers_follow_their_variables_without_gradient() {
        let store = ParamStore::teacher(&Device::Cpu);
        let weight = store.root().weight(&[2], "weight").unwrap();
        assert!(!weight.track_op() && store.trainable().is_empty());
        store
            .var("weight")
            .unwrap()
            .set(&Tensor::new(&[1f32, 2.], &Device::Cpu).unwrap())
            .unwrap();
        assert_eq!(weight.to_vec1::<f32>().unwrap(), [1., 2.]);
    }

    #[test]
    fn weights_are_shared_only_explicitly() {
        let store = ParamStore::cpu(0);
        let root = store.root();
        let first = root.weight(&[2], "weight").unwrap();
        let error = root.weight(&[2], "weight").unwrap_err().to_string();
        assert!(error.contains("`name` is weight"), "{error}");
        let second = root.shared().weight(&[2], "weight").unwrap();
        assert_eq!(second.id(), first.id());
        assert!(root.shared().weight(&[3], "weight").is_err());
    }
}
