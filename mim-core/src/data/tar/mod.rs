//! Images in tar files, as WebDataset keeps them.

mod pattern;
mod shard;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use self::shard::{Contents, Entry};
use super::image_file::decode_bytes;
use super::index_cache::{IndexFile, Stamp};
use super::labels::{among, classes, some_of};
use super::passed_over::PassedOver;
use super::reading::ReadImage;
use super::{Dataset, Reading, Shards, Split, out_of_range, shard_files};
use crate::augment::Sample;
use crate::{Error, Result};

/// Samples among which the next one is drawn.
const WINDOW: usize = 10_000;
/// Samples above which the places of all are kept for the next time.
const LARGE: usize = 10_000;

/// Images of tar files (shards) in WebDataset's form.
///
/// The files of one sample follow one another and have the same name up to the first dot, such as `0001.jpg`,
/// `0001.cls`, `0001.json`.
///
/// The image of a sample is its first file with an image ending, or the file with the ending [`Reading::image_column`].
/// Arrays (`.npy`, `.npz`) are images if the order of their axes is set ([`Reading::array_layout`]).
/// Its label is the text of its `.cls` file, else a value of its `.json` file (`label` or another usual name). With
/// [`Reading::label_column`] it is the file with that ending, or the value of that name. Classes are sorted as numbers
/// if all labels are whole numbers, else as text.
///
/// Opening the files notes the positions of all images, so every image can be read by its index. An epoch goes through
/// the shards in a new order and draws the next image from a window of 10000 ([`Dataset::shards`]), so that disks read
/// sequentially.
#[derive(Debug)]
pub struct TarDataset {
    shards: Vec<PathBuf>,
    /// The index of each shard's first image.
    starts: Vec<usize>,
    entries: Vec<Entry>,
    labels: Vec<u32>,
    classes: Vec<String>,
    notes: Vec<String>,
    how: ReadImage,
}

/// Shards by name, as kept for the next time.
type Index = BTreeMap<PathBuf, (Stamp, Contents)>;

impl TarDataset {
    /// Opens a split of a tar file, of a folder of tar files, or of the files of a pattern such as
    /// `train-{000..146}.tar`.
    ///
    /// Files with the name of a split in their path (as a word, [`Split::names`]) belong to that split. If no path has
    /// the train split's name, files without such a word are the train split.
    ///
    /// # Errors
    ///
    /// [`Error::NoSplit`] if no file is of the split; [`Error::Format`] if a file is missing or damaged, or there is no
    /// image; [`Error::Io`] if files cannot be read.
    pub fn open(path: &Path, split: Split, reading: &Reading) -> Result<Self> {
        let (root, names) = files(path)?;
        let select = |split| {
            let chosen = shard_files::select(&names, ("", "tar"), split);
            chosen.map_err(|refusal| refusal.at(path, split))
        };
        let paths = |names: Vec<String>| names.iter().map(|name| root.join(name)).collect();
        let chosen: Vec<PathBuf> = paths(select(split)?);
        let found = list(path, &chosen, reading)?;
        let trained = match split {
            Split::Train => None,
            _ => match select(Split::Train) {
                Ok(train) => {
                    let train: Vec<PathBuf> = paths(train);
                    Some(list(path, &train, reading)?)
                }
                Err(Error::NoSplit { .. }) => None,
                Err(error) => return Err(error),
            },
        };
        Self::of_contents(path, chosen, found, trained, reading)
    }

    /// The samples of shards, with the classes of `trained` where it is not the train split itself.
    fn of_contents(
        path: &Path,
        shards: Vec<PathBuf>,
        found: Vec<Contents>,
        trained: Option<Vec<Contents>>,
        reading: &Reading,
    ) -> Result<Self> {
        let (mut starts, mut entries, mut texts) = (vec![], vec![], vec![]);
        let mut passed_over = PassedOver::default();
        for contents in found {
            starts.push(entries.len());
            passed_over.extend(contents.passed_over);
            for mut entry in contents.entries {
                texts.push(entry.label.take());
                entries.push(entry);
            }
        }
        if entries.is_empty() {
            let kinds = passed_over.lines().join("; ");
            let what = format!("its tar files hold no images; {kinds}");
            let fix = "WebDataset's form is files such as 0001.jpg and 0001.cls, side by side; data.array_layout makes images of .npy and .npz files";
            return Err(Error::format(path, what, fix));
        }
        let mut notes = passed_over.lines();
        let known = known_classes(&texts, trained, &mut notes);
        let (mut labels, mut classes) = (vec![], vec![]);
        if let Some(known) = known {
            let found = among(&known, texts.iter().flatten().map(|text| &**text));
            notes.extend(left_out(&texts, &found));
            // A shard starts behind the images that are kept of those before it.
            for start in &mut starts {
                *start = found[..*start].iter().flatten().count();
            }
            let mut kept = found.iter().map(Option::is_some);
            entries.retain(|_| kept.next().unwrap_or(false));
            labels = found.into_iter().flatten().collect();
            classes = known;
        }
        if entries.is_empty() {
            let what = "the train split has no class of its labels";
            return Err(Error::format(
                path,
                what,
                "use the same names in all splits",
            ));
        }
        let notes = notes.into_iter();
        Ok(Self {
            notes: notes
                .map(|note| format!("{}: {note}", path.display()))
                .collect(),
            how: reading.images(false),
            shards,
            starts,
            entries,
            labels,
            classes,
        })
    }

    fn shard(&self, index: usize) -> &Path {
        let shard = self.starts.partition_point(|start| *start <= index);
        &self.shards[shard - 1]
    }
}

/// The classes that images have; none, which is noted, if some image has no label.
fn known_classes(
    texts: &[Option<Box<str>>],
    trained: Option<Vec<Contents>>,
    notes: &mut Vec<String>,
) -> Option<Vec<String>> {
    let known = match trained {
        Some(trained) => class_names(trained.iter().flat_map(texts_of)),
        None => class_names(texts.iter().map(Option::as_deref)),
    };
    let without = texts.iter().filter(|text| text.is_none()).count();
    let known = known.filter(|_| without == 0);
    if known.is_none() && without < texts.len() {
        let whose = match without {
            0 => "some images of the train split".to_owned(),
            count => format!("{count} images"),
        };
        let note = format!("{whose} have no label, so images are taken without labels");
        notes.push(note);
    }
    known
}

/// The labels in a shard.
fn texts_of(contents: &Contents) -> impl Iterator<Item = Option<&str>> {
    let entries = contents.entries.iter();
    entries.map(|entry| entry.label.as_deref())
}

/// The classes of all labels; none if some image has none.
fn class_names<'a>(texts: impl Iterator<Item = Option<&'a str>>) -> Option<Vec<String>> {
    let texts: Option<Vec<&str>> = texts.collect();
    texts.filter(|texts| !texts.is_empty()).map(classes)
}

/// Says how many images have a class that the train split does not have.
fn left_out(texts: &[Option<Box<str>>], found: &[Option<u32>]) -> Option<String> {
    let unknown = texts.iter().zip(found).filter(|(_, class)| class.is_none());
    let unknown: Vec<&str> = unknown.filter_map(|(text, _)| text.as_deref()).collect();
    let names = some_of(&classes(unknown.iter().copied()), 5);
    let count = unknown.len();
    (count > 0).then(|| {
        format!("left out {count} images of classes that the train split does not have: {names}")
    })
}

/// The folder that names are in, and the names of tar files of a path or pattern.
fn files(path: &Path) -> Result<(PathBuf, Vec<String>)> {
    if path.is_dir() {
        return Ok((path.to_owned(), shard_files::files(path, "tar")?));
    }
    let text = path.to_str().unwrap_or_default();
    let fix = "write a tar file, a folder of them, or a pattern such as train-{000..146}.tar";
    let names = match path.exists() {
        true => vec![text.to_owned()],
        false => pattern::expand(text).map_err(|what| Error::format(path, what, fix))?,
    };
    let missing: Vec<&String> = names
        .iter()
        .filter(|name| !Path::new(name).exists())
        .collect();
    if !missing.is_empty() {
        let what = match names.len() {
            1 => "does not exist".to_owned(),
            count => format!(
                "{} of its {count} files are not there: {}",
                missing.len(),
                some_of(&missing, 3)
            ),
        };
        return Err(Error::format(path, what, fix));
    }
    Ok((PathBuf::new(), names))
}

/// What is in each shard; those of large sets are looked through once and kept.
fn list(path: &Path, shards: &[PathBuf], reading: &Reading) -> Result<Vec<Contents>> {
    let arrays = reading.array_layout.is_some();
    let chosen = (&reading.image_column, &reading.label_column, arrays);
    let file = IndexFile::of(
        &format!("tar-{chosen:?}").replace(['"', '/'], ""),
        &shards[0],
    );
    let mut kept: Index = file.read().unwrap_or_default();
    let old: Vec<Option<Contents>> = shards
        .iter()
        .map(|shard| {
            let (stamp, contents) = kept.remove(shard)?;
            (Stamp::of(shard)? == stamp).then_some(contents)
        })
        .collect();
    let missing = old.iter().filter(|old| old.is_none()).count();
    if missing > 1 {
        tracing::info!("{}: looking through {missing} tar files", path.display());
    }
    let found: Vec<Contents> = shards
        .par_iter()
        .zip(old)
        .map(|(shard, old)| old.map_or_else(|| shard::list(shard, reading), Ok))
        .collect::<Result<_>>()?;
    let count: usize = found.iter().map(|contents| contents.entries.len()).sum();
    if missing > 0 && count > LARGE {
        let stamped = shards.iter().zip(&found).filter_map(|(shard, contents)| {
            let stamp = Stamp::of(shard)?;
            Some((shard.clone(), (stamp, contents)))
        });
        file.write(&stamped.collect::<BTreeMap<_, _>>());
    }
    Ok(found)
}

impl Dataset for TarDataset {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn read(&self, index: usize) -> Result<Sample> {
        let entry = self
            .entries
            .get(index)
            .ok_or_else(|| out_of_range(index, self.len()))?;
        let shard = self.shard(index);
        let read = || {
            // A file of its own: threads that share one disturb each other's position.
            let mut file = File::open(shard)?;
            file.seek(SeekFrom::Start(entry.offset))?;
            let mut bytes = Vec::new();
            file.take(entry.len).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(Error::io("read", shard))?;
        decode_bytes(&bytes, Path::new(&self.name_of(index)), &self.how)
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.get(index).copied()
    }

    fn classes(&self) -> usize {
        self.classes.len()
    }

    fn class_names(&self) -> &[String] {
        &self.classes
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn shards(&self) -> Option<Shards> {
        Some(Shards {
            starts: self.starts.clone(),
            window: WINDOW,
        })
    }

    fn name_of(&self, index: usize) -> String {
        match self.entries.get(index) {
            Some(entry) => format!("{}#{}", self.shard(index).display(), entry.key),
            None => format!("#{index}"),
        }
    }
}
