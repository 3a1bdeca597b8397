//! PyTorch files: zip archives with a pickle and one entry per storage.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use candle_core::Tensor;
use zip::{CompressionMethod, ZipArchive};

use super::budget::Budget;
use super::elements::Elements;
use super::pickle::{Id, Node, Tree};
use super::resave;
use crate::weights::WeightMap;
use crate::{Error, Result};

/// Limits on axes and on the length of storage keys, above any tensor.
const MOST_AXES: usize = 16;
const LONGEST_KEY: usize = 64;

/// A zip archive on disk.
pub(super) type Archive = ZipArchive<BufReader<File>>;

/// A tensor in a pickle; its values are still in the archive.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    /// The entry that holds the values.
    key: String,
    elements: Elements,
    /// In elements.
    offset: usize,
    shape: Vec<usize>,
    /// In elements.
    strides: Vec<usize>,
}

/// The tree of the archive's pickle, and the folder of its entries.
///
/// # Errors
///
/// [`Error::Format`] with instructions, for archives that hold a program.
pub(super) fn tree(
    archive: &mut Archive,
    path: &Path,
    budget: &mut Budget,
) -> Result<(Tree, String)> {
    let names: Vec<String> = archive
        .file_names()
        .filter_map(|name| Some(name.ok()?.into_owned()))
        .collect();
    let root = names
        .iter()
        .filter_map(|name| name.strip_suffix("data.pkl"))
        .find(|root| root.is_empty() || root.ends_with('/'));
    let Some(root) = root.map(str::to_owned) else {
        return Err(Error::format(
            path,
            "this zip archive holds no weights (neither data.pkl, as PyTorch writes it, nor .npy files)",
            "use the file written by torch.save or numpy.savez, not an archive that contains it",
        ));
    };
    let program = |name: &String| {
        name.strip_prefix(root.as_str())
            .is_some_and(|rest| rest == "constants.pkl" || rest.starts_with("code/"))
    };
    if names.iter().any(program) {
        return Err(Error::format(
            path,
            "this is a TorchScript program, not a file of weights",
            resave(
                path,
                "torch.jit.load(path, map_location='cpu').state_dict()",
            ),
        ));
    }
    let order = format!("{root}byteorder");
    if names.contains(&order) && entry(archive, &order, path, budget)?.starts_with(b"big") {
        return Err(Error::format(
            path,
            "its numbers are big-endian, which is not supported",
            resave(path, "torch.load(path, map_location='cpu')"),
        ));
    }
    let bytes = entry(archive, &format!("{root}data.pkl"), path, budget)?;
    let tree = Tree::read(&bytes).map_err(|what| damaged(path, what))?;
    Ok((tree, root))
}

/// All bytes of an entry, with the archive's checksum verified.
fn entry(archive: &mut Archive, name: &str, path: &Path, budget: &mut Budget) -> Result<Vec<u8>> {
    let what = |error: &dyn std::fmt::Display| damaged(path, format!("entry `{name}`: {error}"));
    let mut file = archive.by_name(name).map_err(|error| what(&error))?;
    if file.compression() != CompressionMethod::Stored {
        return Err(what(&"it is compressed, which PyTorch never does"));
    }
    budget.entry(file.size()).map_err(|error| what(&error))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| what(&error))?;
    Ok(bytes)
}

pub(super) fn damaged(path: &Path, what: impl Into<crate::Text>) -> Error {
    Error::format(
        path,
        what,
        "the file is damaged or cut short: copy or download it again",
    )
}

/// The tensor at `id`: `None` if it is something else, an error if it is a tensor that cannot be read.
pub(super) fn stored(tree: &Tree, id: Id) -> Option<Result<Stored, String>> {
    let mut id = id;
    // A parameter is a call around the call that creates a tensor.
    for _ in 0..4 {
        let Node::Made { by, with } = tree.get(id) else {
            return None;
        };
        let (by, with) = (tree.global(*by)?, tree.sequence(*with)?);
        match by {
            "torch._utils._rebuild_tensor_v2" => return Some(rebuilt(tree, with, None)),
            "torch._utils._rebuild_tensor_v3" => {
                let dtype = with.get(6).and_then(|dtype| tree.global(*dtype));
                return Some(rebuilt(tree, with, Some(dtype.unwrap_or("no dtype"))));
            }
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
                id = *with.first()?;
            }
            "torch._tensor._rebuild_from_type_v2" => {
                // The function and its arguments, for a tensor subclass.
                let (function, args) =
                    (tree.global(*with.first()?)?, tree.sequence(*with.get(2)?)?);
                return (function == "torch._utils._rebuild_tensor_v2")
                    .then(|| rebuilt(tree, args, None));
            }
            other if other.starts_with("torch.") && other.contains("._rebuild_") => {
                return Some(Err(format!("{other} is not a dense tensor")));
            }
            _ => return None,
        }
    }
    None
}

fn rebuilt(tree: &Tree, args: &[Id], dtype: Option<&str>) -> Result<Stored, String> {
    let parts = || -> Option<(Stored, &str)> {
        let &[storage, offset, shape, strides, ..] = args else {
            return None;
        };
        let Node::Persistent(storage) = tree.get(storage) else {
            return None;
        };
        let &[_, class, key, ..] = tree.sequence(*storage)? else {
            return None;
        };
        let counts = |id: Id| -> Option<Vec<usize>> {
            let counts = tree.sequence(id).filter(|ids| ids.len() <= MOST_AXES)?;
            counts.iter().map(|id| tree.count(*id)).collect()
        };
        let class = dtype.map_or_else(|| tree.global(class), Some)?;
        let stored = Stored {
            key: tree
                .text(key)
                .filter(|key| key.len() <= LONGEST_KEY)?
                .to_owned(),
            elements: Elements::F32,
            offset: tree.count(offset)?,
            shape: counts(shape)?,
            strides: counts(strides)?,
        };
        Some((stored, class))
    };
    let (stored, class) = parts().ok_or("its description is damaged")?;
    let elements = Elements::of_torch(class).ok_or_else(|| format!("{class} cannot be read"))?;
    if stored.shape.len() != stored.strides.len() {
        return Err("its shape and strides do not match".to_owned());
    }
    Ok(Stored { elements, ..stored })
}

/// Reads the values of `tensors`; each entry is read once.
///
/// # Errors
///
/// [`Error::Format`] if an entry is missing or too short.
pub(super) fn load(
    archive: &mut Archive,
    root: &str,
    tensors: Vec<(String, Stored)>,
    (path, budget): (&Path, &mut Budget),
) -> Result<WeightMap> {
    let mut by_entry: BTreeMap<String, Vec<(String, Stored)>> = BTreeMap::new();
    for (name, stored) in tensors {
        by_entry
            .entry(stored.key.clone())
            .or_default()
            .push((name, stored));
    }
    let mut weights = WeightMap::default();
    for (key, tensors) in by_entry {
        let bytes = entry(archive, &format!("{root}data/{key}"), path, budget)?;
        for (name, stored) in tensors {
            let tensor = stored
                .tensor(&bytes, budget)
                .map_err(|what| damaged(path, format!("tensor `{name}`: {what}")))?;
            weights.insert(name, tensor);
        }
    }
    Ok(weights)
}

impl Stored {
    fn tensor(&self, storage: &[u8], budget: &mut Budget) -> Result<Tensor, String> {
        let (width, shape) = (self.elements.width(), &self.shape);
        let fits = |size: &usize, length: usize| length.checked_mul((*size).max(1));
        let volume = shape
            .iter()
            .try_fold(1usize, |length, size| fits(size, length));
        let volume = volume.ok_or("its shape is too large")?;
        let count = if shape.contains(&0) { 0 } else { volume };
        let held = storage.len() / width;
        if count > held {
            return Err(format!("it has {count} values, but its storage has {held}"));
        }
        budget.values(count, self.elements)?;
        if count == 0 {
            return self.elements.tensor(&[], shape);
        }
        let last = shape
            .iter()
            .zip(&self.strides)
            .try_fold(self.offset, |last, (size, stride)| {
                last.checked_add((size - 1).checked_mul(*stride)?)
            });
        if last.is_none_or(|last| last >= held) {
            return Err(format!("it exceeds its storage of {held} values"));
        }
        if self.strides == contiguous(shape) {
            let bytes = storage.get(self.offset * width..(self.offset + count) * width);
            return self.elements.tensor(bytes.unwrap_or_default(), shape);
        }
        let mut bytes = Vec::with_capacity(count * width);
        let mut place = vec![0; shape.len()];
        for _ in 0..count {
            let steps = place.iter().zip(&self.strides);
            let at = self.offset + steps.map(|(index, stride)| index * stride).sum::<usize>();
            bytes.extend_from_slice(&storage[at * width..(at + 1) * width]);
            for (index, size) in place.iter_mut().zip(shape).rev() {
                *index += 1;
                if *index < *size {
                    break;
                }
                *index = 0;
            }
        }
        self.elements.tensor(&bytes, shape)
    }
}

/// The strides of contiguous values.
fn contiguous(shape: &[usize]) -> Vec<usize> {
    let mut strides: Vec<usize> = shape
        .iter()
        .rev()
        .scan(1, |step, size| {
            let stride = *step;
            *step *= size;
            Some(stride)
        })
        .collect();
    strides.reverse();
    strides
}
