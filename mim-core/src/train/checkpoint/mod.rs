//! Checkpoints: folders named by step whose content depends on config and step alone.

mod find;
mod save;
mod state;

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use self::find::steps;
pub(super) use self::save::{keep, prune, save, write};
pub use self::state::TrainState;
use self::state::{Checksums, OTHER, STATE, Saved, checksum};
use crate::optim::Optimizer;
use crate::weights::{WeightFile, WeightMap};
use crate::{Error, Method, Result, files};

/// The folder of a run that holds its checkpoints, and the one with the best of them.
const FOLDER: &str = "checkpoints";
const BEST: &str = "best";
/// The optimizer's state, which only a resumed run reads.
const OPTIMIZER: &str = "optimizer.safetensors";
/// What to give instead of a path without a checkpoint.
const RUN: &str = "give a run folder that `mim pretrain` wrote, or one of its checkpoints";

/// A checkpoint on disk.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    state: TrainState,
    files: Option<Checksums>,
}

impl Checkpoint {
    /// Opens a checkpoint folder, one of its files, or the newest checkpoint of a run folder whose weights are whole.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] if there is none, or it is damaged; [`Error::Unsupported`] if another version wrote it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_file() {
            return Self::of_file(path);
        }
        if path.join(STATE).exists() {
            return Ok(Self::read(path)?.warned());
        }
        Self::newest(path, |file| file != OPTIMIZER)?.ok_or_else(|| {
            Error::format(
                path,
                "there is no checkpoint here (a folder with state.json, or a run with checkpoints/step-N)",
                RUN,
            )
        })
    }

    /// The checkpoint that a file belongs to.
    fn of_file(file: &Path) -> Result<Self> {
        match file.parent() {
            Some(folder) if folder.join(STATE).exists() => Ok(Self::read(folder)?.warned()),
            _ => Err(Error::format(
                file,
                "this file does not belong to a checkpoint",
                format!(
                    "{RUN}; `mim eval`, `mim features` and `mim visualize` read a file of weights by --weights"
                ),
            )),
        }
    }

    /// Reads `state.json` of a checkpoint folder.
    fn read(path: &Path) -> Result<Self> {
        let Saved { state, files } = Saved::read(path)?;
        Ok(Self {
            path: path.to_owned(),
            state,
            files,
        })
    }

    /// Warns about a checkpoint of an older version, where damage would not be noticed.
    fn warned(self) -> Self {
        if self.files.is_none() {
            tracing::warn!(
                "{} was written by an older version, without checksums: damage to it would not be noticed",
                self.path.display()
            );
        }
        self
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state of training.
    pub fn state(&self) -> &TrainState {
        &self.state
    }

    /// Whether it has checksums; older versions wrote none.
    pub fn has_checksums(&self) -> bool {
        self.files.is_some()
    }

    /// Checks that all its files are unchanged. Without checksums, only their lengths can be checked.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] or [`Error::Io`] for a file that is damaged or missing.
    pub fn verify(&self) -> Result<()> {
        self.check(|_| true)
    }

    fn check(&self, needed: impl Fn(&str) -> bool) -> Result<()> {
        let Some(files) = &self.files else {
            return self.check_lengths();
        };
        for (name, expected) in files.iter().filter(|(name, _)| needed(name)) {
            let path = self.file(name)?;
            let mut file = BufReader::new(files::open(&path)?);
            let (mut hasher, mut some) = (crc32fast::Hasher::new(), vec![0; 1 << 20]);
            loop {
                match file.read(&mut some).map_err(Error::io("read", &path))? {
                    0 => break,
                    count => hasher.update(&some[..count]),
                }
            }
            same(&path, &format!("{:08x}", hasher.finalize()), expected)?;
        }
        Ok(())
    }

    fn check_lengths(&self) -> Result<()> {
        let weights = |path: &PathBuf| path.extension().is_some_and(|end| end == "safetensors");
        let all = files::entries(&self.path)?.into_iter().filter(weights);
        for path in all.chain([self.path.join(OPTIMIZER)]) {
            if WeightFile::header(&path)?.is_none() {
                let what = "the file is damaged: it is not a safetensors file";
                return Err(Error::format(path, what, OTHER));
            }
        }
        Ok(())
    }

    /// The path of one of its files.
    fn file(&self, name: &str) -> Result<PathBuf> {
        match Path::new(name).file_name() {
            Some(plain) if plain == name => Ok(self.path.join(name)),
            _ => {
                let what = format!("`{name}` is not a file of a checkpoint");
                Err(Error::format(self.path.join(STATE), what, OTHER))
            }
        }
    }

    fn weights_of(&self, file: &str) -> Result<WeightMap> {
        let path = self.file(file)?;
        let bytes = files::read(&path)?;
        if let Some(files) = &self.files {
            let expected = files.get(file).map_or("none", String::as_str);
            same(&path, &checksum(&bytes), expected)?;
        }
        WeightMap::from_bytes(&path, &bytes)
    }

    /// The weights of one store.
    ///
    /// # Errors
    ///
    /// If the file is missing or damaged.
    pub fn weights(&self, store: &str) -> Result<WeightMap> {
        self.weights_of(&format!("{store}.safetensors"))
    }

    /// Sets all stores of `method`.
    ///
    /// # Errors
    ///
    /// If the checkpoint belongs to another method or size; the error lists the names that do not fit.
    pub fn load_method(&self, method: &dyn Method) -> Result<()> {
        if self.state.method != method.name() {
            return Err(Error::format(
                &self.path,
                format!(
                    "this is a checkpoint of {}, not of {}",
                    self.state.method,
                    method.name()
                ),
                "use the method of its run",
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
        optimizer.load_state(&self.weights_of(OPTIMIZER)?)
    }
}

/// Compares the checksum of a file with the recorded one.
fn same(path: &Path, found: &str, expected: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let what = format!("the file is damaged: its CRC-32 is {found}, but {expected} was recorded");
    Err(Error::format(path, what, OTHER))
}
