//! Weight files: detection of the format, and of the weights inside a checkpoint.

mod budget;
mod elements;
mod nested;
mod npz;
mod numpy;
mod pickle;
mod safetensors;
#[cfg(test)]
mod tests;
mod torch;

use std::fmt::{Display, Formatter};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use budget::Budget;
pub(crate) use npz::read_npz_entry;
pub(crate) use numpy::{read_npy, read_npy_bytes};
pub(in crate::weights) use safetensors::parse as parse_safetensors;

use super::WeightMap;
use crate::{Error, Result, files};

/// Format of a weight file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WeightFormat {
    /// `.safetensors`.
    Safetensors,
    /// What `torch.save` writes since PyTorch 1.6: `.pth`, `.pt`, `.bin`, `.pth.tar`.
    Torch,
    /// numpy's `.npz`.
    Npz,
}

/// The weights of a file, with information on how they were found.
#[derive(Debug, Clone)]
pub struct WeightFile {
    /// The tensors under the names they have in the file.
    pub weights: WeightMap,
    /// The file that was read; for a folder, the file inside it.
    pub path: PathBuf,
    /// Its format.
    pub format: WeightFormat,
    /// The key of the checkpoint that held them; `None` at the top level.
    pub key: Option<String>,
    /// Other keys that hold weights.
    pub other_keys: Vec<String>,
    /// Other entries that are not tensors or cannot be read, with the reason.
    pub skipped: Vec<String>,
}

/// A tensor in a file header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorHeader {
    /// Its name.
    pub name: String,
    /// Its dtype, as the file names it: `F32`, `F8_E5M2`, ...
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// Names of weight files in a folder, in search order.
const IN_FOLDER: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

impl WeightFile {
    /// Reads a `.safetensors` file, a PyTorch checkpoint, an `.npz` archive, an index of several files,
    /// a folder with one of them, or `hf:owner/name[@revision][/file]` of the Hugging Face Hub (see
    /// [`locate`](super::locate)). The content decides, not the file name.
    ///
    /// Checkpoints are often dicts around the weights. `key` names the entry: several levels are joined by dots, and
    /// `.` means all dicts, with their keys joined by dots. Without it, the usual keys are tried, two levels deep. No
    /// code in a pickle is run.
    ///
    /// Hostile files give an error, too: values may take at most 16 times the file size plus 64 MiB (for tensors that
    /// share values, and compressed zeros), and a pickle may hold at most 4 million entries of a few dozen bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Hub`] if it cannot be downloaded; [`Error::Io`] if it cannot be read; [`Error::Format`] if it is
    /// damaged, holds no weights, or must be re-saved in Python: then the error gives the lines to run.
    pub fn open(path: impl AsRef<Path>, key: Option<&str>) -> Result<Self> {
        let path = super::locate(path)?;
        let path = path.as_path();
        if path.is_dir() {
            return Self::open(in_folder(path)?, key);
        }
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let weights =
                safetensors::read_sharded(path, |shard| Ok(Self::open_one(shard, key)?.weights))?;
            return Self::plain(weights, path, WeightFormat::Safetensors);
        }
        Self::open_one(path, key)
    }

    /// Names, dtypes and shapes of a `.safetensors` file; `None` for another format. Only the header is read, and
    /// dtypes that cannot be loaded are listed, too.
    ///
    /// # Errors
    ///
    /// As [`WeightFile::open`].
    pub fn header(path: impl AsRef<Path>) -> Result<Option<Vec<TensorHeader>>> {
        let path = super::locate(path)?;
        if path.is_dir() {
            return match in_folder(&path)? {
                file if file.extension().is_some_and(|name| name == "safetensors") => {
                    Self::header(file)
                }
                _ => Ok(None),
            };
        }
        let start = start(&path)?;
        no_weights(&path, &start)?;
        match start.get(8) == Some(&b'{') && !start.starts_with(b"PK") {
            true => safetensors::header(&path).map(Some),
            false => Ok(None),
        }
    }

    fn open_one(path: &Path, key: Option<&str>) -> Result<Self> {
        let start = start(path)?;
        no_weights(path, &start)?;
        if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
            return Self::open_zip(path, key);
        }
        let pickled =
            start.first() == Some(&0x80) && start.get(1).is_some_and(|version| *version <= 5);
        if pickled && start.get(8) != Some(&b'{') {
            return Err(bare_pickle(path, &start));
        }
        if start.get(8) != Some(&b'{') && path.extension().is_none_or(|name| name != "safetensors")
        {
            return Err(Error::format(
                path,
                "this is neither a .safetensors file, nor a zip archive of PyTorch or numpy",
                "use a file of weights; a download may have saved an error page instead",
            ));
        }
        if let Some(key) = key {
            return Err(Error::format(
                path,
                format!("a .safetensors file has no key `{key}`"),
                "remove the key",
            ));
        }
        Self::plain(safetensors::read(path)?, path, WeightFormat::Safetensors)
    }

    fn plain(weights: WeightMap, path: &Path, format: WeightFormat) -> Result<Self> {
        Ok(Self {
            weights,
            path: path.to_owned(),
            format,
            key: None,
            other_keys: Vec::new(),
            skipped: Vec::new(),
        })
    }

    fn open_zip(path: &Path, key: Option<&str>) -> Result<Self> {
        let file = files::open(path)?;
        let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| {
            torch::damaged(path, format!("the zip archive cannot be read ({error})"))
        })?;
        let mut budget = Budget::of(path)?;
        if numpy::is_npz(&archive) {
            let (weights, skipped) = numpy::read(&mut archive, path, &mut budget)?;
            let file = Self::plain(weights, path, WeightFormat::Npz)?;
            return Ok(Self { skipped, ..file });
        }
        let (tree, root) = torch::tree(&mut archive, path, &mut budget)?;
        let found = nested::find(&tree, key).map_err(|what| {
            let load = "torch.load(path, map_location='cpu', weights_only=False)";
            let fix = match what.contains("whole module") {
                true => resave(
                    path,
                    &format!("{load}.state_dict()  # needs the class's code"),
                ),
                false => "name the key of the weights, or save only the weights".to_owned(),
            };
            Error::format(path, what, fix)
        })?;
        Ok(Self {
            weights: torch::load(&mut archive, &root, found.tensors, (path, &mut budget))?,
            path: path.to_owned(),
            format: WeightFormat::Torch,
            key: found.key,
            other_keys: found.others,
            skipped: found.skipped,
        })
    }
}

impl Display for WeightFile {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let format = match self.format {
            WeightFormat::Safetensors => "safetensors",
            WeightFormat::Torch => "a PyTorch checkpoint",
            WeightFormat::Npz => "numpy",
        };
        write!(
            f,
            "{}: {format}, {} tensors",
            self.path.display(),
            self.weights.len()
        )?;
        if let Some(key) = &self.key {
            write!(f, ", under the key `{key}`")?;
        }
        if !self.other_keys.is_empty() {
            write!(f, " (others with weights: {})", self.other_keys.join(", "))?;
        }
        for line in &self.skipped {
            write!(f, "\n  skipped: {line}")?;
        }
        Ok(())
    }
}

fn in_folder(folder: &Path) -> Result<PathBuf> {
    let found = IN_FOLDER
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.exists());
    found.ok_or_else(|| {
        Error::format(
            folder,
            format!("the folder holds no weights ({})", IN_FOLDER.join(", ")),
            "name the file itself",
        )
    })
}

/// Refuses files often found in place of weights: a Git LFS pointer, a web page.
fn no_weights(path: &Path, start: &[u8]) -> Result<()> {
    let (what, fix) = if start.starts_with(b"version https://git-lfs") {
        let fix = "run `git lfs pull` in its repository, or download the file itself";
        ("this is a Git LFS pointer, not the file itself", fix)
    } else if start.trim_ascii_start().starts_with(b"<") {
        let fix = "download the file itself: an address of a page, or an error page, was saved";
        ("this is a web page, not a file of weights", fix)
    } else {
        return Ok(());
    };
    Err(Error::format(path, what, fix))
}

/// The first bytes of a file.
fn start(path: &Path) -> Result<Vec<u8>> {
    let file = files::open(path)?;
    let mut start = Vec::new();
    file.take(32)
        .read_to_end(&mut start)
        .map_err(Error::io("read", path))?;
    Ok(start)
}

fn bare_pickle(path: &Path, start: &[u8]) -> Error {
    // The first bytes of files from PyTorch before 1.6.
    const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    match start.get(2..).is_some_and(|rest| rest.starts_with(MAGIC)) {
        true => Error::format(
            path,
            "this is a file from PyTorch before version 1.6 (not a zip archive)",
            resave(
                path,
                "torch.load(path, map_location='cpu', weights_only=False)",
            ),
        ),
        false => Error::format(
            path,
            "this is a pickle that torch.save did not write",
            resave(
                path,
                "...  # a dict of tensors by name, loaded with the code that wrote the file",
            ),
        ),
    }
}

/// Python lines that save weights as `.safetensors`.
fn resave(path: &Path, load: &str) -> String {
    format!(
        "save the weights anew in Python, if you trust the file (this runs what it says):\n\
         \x20   import torch\n\
         \x20   from safetensors.torch import save_file\n\
         \x20   path = {path:?}\n\
         \x20   weights = {load}\n\
         \x20   weights = weights.get('model', weights.get('state_dict', weights))\n\
         \x20   save_file({{k: v.clone().contiguous() for k, v in weights.items() if hasattr(v, 'clone')}}, 'model.safetensors')",
    )
}
