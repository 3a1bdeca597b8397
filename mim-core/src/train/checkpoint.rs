//! Checkpoints: folders named by step whose content depends on config and step alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::optim::Optimizer;
use crate::params::ParamStore;
use crate::weights::WeightMap;
use crate::{Error, Method, Result};

/// The version of the layout that this build reads and writes.
const FORMAT: u32 = 1;
/// The file that makes a folder a checkpoint.
const STATE: &str = "state.json";

/// Where training stood, in `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// Version of the layout.
    pub format: u32,
    /// The method's name.
    pub method: String,
    /// Optimizer steps done.
    pub step: usize,
    /// The epoch of the next step.
    pub epoch: usize,
    /// The next step within that epoch.
    pub iter: usize,
    /// The run's seed.
    pub seed: u64,
    /// Number of processes.
    pub world: usize,
    /// Images that are trained on; checkpoints of older versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
    /// Sums over the steps done in the current epoch, by name.
    pub sums: BTreeMap<String, f64>,
    /// The resolved settings of the run; null if its program saved none.
    pub config: serde_json::Value,
}

impl TrainState {
    /// A state of the current layout.
    pub(super) fn new(method: &str, seed: u64, images: usize) -> Self {
        Self {
            format: FORMAT,
            method: method.to_owned(),
            step: 0,
            epoch: 0,
            iter: 0,
            seed,
            world: 1,
            images: Some(images),
            sums: BTreeMap::new(),
            config: serde_json::Value::Null,
        }
    }
}

/// A checkpoint on disk.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    state: TrainState,
}

impl Checkpoint {
    /// Opens a checkpoint folder, or the newest checkpoint of a run folder.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if there is none, or it was written by another version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // A file of a checkpoint stands for the whole of it.
        let path = match path.parent() {
            Some(folder) if path.is_file() => folder,
            _ => path,
        };
        if !path.join(STATE).exists() {
            return match Self::latest(path)? {
                Some(checkpoint) => Ok(checkpoint),
                None => Err(Error::format(
                    path,
                    "there is no checkpoint here (a folder with state.json, or a run with checkpoints/step-N)",
                    "give a run folder that `mim pretrain` wrote, or one of its checkpoints",
                )),
            };
        }
        let file = path.join(STATE);
        let text = fs::read_to_string(&file).map_err(Error::io("read", &file))?;
        let state: TrainState = serde_json::from_str(&text).map_err(|error| {
            Error::format(
                &file,
                error.to_string(),
                "resume from an older checkpoint of the run",
            )
        })?;
        if state.format != FORMAT {
            let what = format!(
                "the checkpoint has layout {}, this program reads {FORMAT}",
                state.format
            );
            return Err(Error::format(
                &file,
                what,
                "use the version of mim that wrote it",
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            state,
        })
    }

    /// The newest checkpoint in a run folder; what was left half-written is passed over.
    ///
    /// # Errors
    ///
    /// If a checkpoint cannot be read.
    pub fn latest(run: &Path) -> Result<Option<Self>> {
        match steps(&run.join("checkpoints"))?.last() {
            Some((_, path)) => Self::open(path).map(Some),
            None => Ok(None),
        }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where training stood.
    pub fn state(&self) -> &TrainState {
        &self.state
    }

    /// The weights of one store.
    ///
    /// # Errors
    ///
    /// If the file is missing or damaged.
    pub fn weights(&self, store: &str) -> Result<WeightMap> {
        WeightMap::read(self.path.join(format!("{store}.safetensors")))
    }

    /// Sets all stores of `method`.
    ///
    /// # Errors
    ///
    /// If the checkpoint belongs to another method or size; the names that do not fit are listed.
    pub fn load_method(&self, method: &dyn Method) -> Result<()> {
        if self.state.method != method.name() {
            return Err(Error::format(
                &self.path,
                format!(
                    "this is a checkpoint of {}, not of {}",
                    self.state.method,
                    method.name()
                ),
                "choose the method it was made with",
            ));
        }
        for (name, store) in method.stores() {
            store.load(&self.weights(name)?)?;
        }
        Ok(())
    }

    /// Sets the optimizer's state.
    ///
    /// # Errors
    ///
    /// If the file is missing, damaged or belongs to other parameters.
    pub fn load_optimizer(&self, optimizer: &mut dyn Optimizer) -> Result<()> {
        optimizer.load_state(&WeightMap::read(self.path.join("optimizer.safetensors"))?)
    }
}

/// Writes `checkpoints/step-N` under `run` and removes all but the `keep` newest ones.
///
/// Everything is written under a temporary name, synced and renamed, so that a checkpoint is whole
/// or not there.
///
/// # Errors
///
/// [`Error::Io`] if something cannot be written; the older checkpoints stay.
pub(super) fn save(
    run: &Path,
    state: &TrainState,
    method: &dyn Method,
    optimizer: &dyn Optimizer,
    keep: usize,
) -> Result<PathBuf> {
    let folder = run.join("checkpoints");
    let path = folder.join(format!("step-{}", state.step));
    write(&path, state, method, optimizer)?;
    let older = steps(&folder)?.into_iter().filter(|(_, old)| *old != path);
    let older: Vec<_> = older.collect();
    for (_, old) in &older[..(older.len() + 1).saturating_sub(keep)] {
        fs::remove_dir_all(old).map_err(Error::io("remove", old))?;
    }
    Ok(path)
}

/// Writes `best` under `run`, in place of the one that is there.
///
/// # Errors
///
/// [`Error::Io`] if something cannot be written; the one that was there stays.
pub(super) fn keep(
    run: &Path,
    state: &TrainState,
    method: &dyn Method,
    optimizer: &dyn Optimizer,
) -> Result<()> {
    write(&run.join("best"), state, method, optimizer)
}

/// Writes a checkpoint at `path`: under a temporary name, synced and renamed.
pub(super) fn write(
    path: &Path,
    state: &TrainState,
    method: &dyn Method,
    optimizer: &dyn Optimizer,
) -> Result<()> {
    let named = |end: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(end);
        path.with_file_name(name)
    };
    let (temporary, replaced) = (named(".tmp"), named(".old"));
    for left in [&temporary, &replaced] {
        if left.exists() {
            fs::remove_dir_all(left).map_err(Error::io("remove", left))?;
        }
    }
    fs::create_dir_all(&temporary).map_err(Error::io("create", &temporary))?;
    for (name, store) in method.stores() {
        store_weights(store).write(
            temporary.join(format!("{name}.safetensors")),
            Some(("format", "mim")),
        )?;
    }
    optimizer.state()?.write(
        temporary.join("optimizer.safetensors"),
        Some(("format", "mim")),
    )?;
    let file = temporary.join(STATE);
    let text = serde_json::to_string_pretty(state)
        .map_err(|error| Error::format(&file, error.to_string(), "report this as a bug"))?;
    fs::write(&file, text).map_err(Error::io("write", &file))?;
    sync(&file)?;
    sync(&temporary)?;
    if path.exists() {
        fs::rename(path, &replaced).map_err(Error::io("replace", path))?;
    }
    fs::rename(&temporary, path).map_err(Error::io("write", path))?;
    sync(path.parent().unwrap_or(path))?;
    if replaced.exists() {
        fs::remove_dir_all(&replaced).map_err(Error::io("remove", &replaced))?;
    }
    Ok(())
}

/// All entries of a store as they are now.
fn store_weights(store: &ParamStore) -> WeightMap {
    store
        .vars()
        .into_iter()
        .map(|(name, var)| (name, var.as_detached_tensor()))
        .collect()
}

fn sync(path: &Path) -> Result<()> {
    let file = fs::File::open(path).map_err(Error::io("open", path))?;
    file.sync_all().map_err(Error::io("sync", path))
}

/// The whole checkpoints of a folder, oldest first.
fn steps(folder: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let step = name
            .strip_prefix("step-")
            .and_then(|step| step.parse::<usize>().ok());
        if let Some(step) = step.filter(|_| path.join(STATE).exists()) {
            found.push((step, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}
