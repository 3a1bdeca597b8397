//! Images that a file lists.

mod rows;

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use self::rows::{ENDINGS, Row, Rows, ending};
use super::image_file::decode_file;
use super::labels::{among, classes, some_of};
use super::reading::ReadImage;
use super::{Dataset, FolderDataset, Reading, Split};
use crate::augment::Sample;
use crate::{Error, Result};

/// Images that a file lists, in its order.
///
/// The file has one path per line (`.txt`, `.lst`), is a table whose first line names the columns (`.csv`, `.tsv`,
/// `.tab`), or has one JSON object per line (`.jsonl`, `.ndjson`).
///
/// Paths are relative to the file's folder. A column `label` (or another usual name, or [`Reading::label_column`])
/// holds numbers or names of classes. Classes are sorted as numbers if all of the train split are whole numbers, else
/// as text. A column `split` gives the split of each row, by any of its names ([`Split::names`]). Without it the rows
/// belong to the split that the file is named after, or else to train; a folder may have a list for each split. In a
/// list without columns a line may also name a folder, which stands for all images below it.
///
/// Missing files are left out and counted ([`Dataset::notes`]). So are images of val and test whose class is not in the
/// train split.
#[derive(Debug)]
pub struct ListDataset {
    files: Vec<PathBuf>,
    labels: Vec<u32>,
    classes: Vec<String>,
    notes: Vec<String>,
    how: ReadImage,
}

impl ListDataset {
    /// Reads a split of a list, or of a folder of lists.
    ///
    /// # Errors
    ///
    /// [`Error::NoSplit`] if it has no such split; [`Error::Format`] if it cannot be read or none of its files exists;
    /// [`Error::InvalidConfig`] if a column of `reading` does not exist.
    pub fn open(path: &Path, split: Split, reading: &Reading) -> Result<Self> {
        let (file, rows) = rows_of(path, split, reading)?;
        let known = match split {
            _ if rows.rows.iter().all(|row| row.label.is_none()) => None,
            Split::Train => class_names(&rows.rows),
            _ => match rows_of(path, Split::Train, reading) {
                Ok((_, train)) => class_names(&train.rows),
                Err(Error::NoSplit { .. }) => class_names(&rows.rows),
                Err(error) => return Err(error),
            },
        };
        let mut dataset = Self {
            files: vec![],
            labels: vec![],
            classes: vec![],
            notes: rows.note.into_iter().collect(),
            how: reading.images(false),
        };
        dataset.take(&file, rows.rows, known)?;
        let name = file.display();
        for note in &mut dataset.notes {
            *note = format!("{name}: {note}");
        }
        Ok(dataset)
    }

    /// Whether a file is a list by its name.
    pub(super) fn recognises(path: &Path) -> bool {
        ENDINGS.contains(&ending(path).as_str())
    }

    /// Takes the rows whose files are there, and whose class is known.
    fn take(&mut self, list: &Path, rows: Vec<Row>, known: Option<Vec<String>>) -> Result<()> {
        let folder = list.parent().unwrap_or(Path::new(""));
        let count = rows.len();
        let labels = known.as_ref().map(|known| {
            let texts = rows.iter().map(|row| row.label.as_deref());
            among(known, texts.map(Option::unwrap_or_default))
        });
        let there: Vec<Option<PathBuf>> = rows
            .par_iter()
            .map(|row| Some(folder.join(&row.path)).filter(|path| path.exists()))
            .collect();
        let (mut missing, mut unknown) = (vec![], vec![]);
        for (index, (row, path)) in rows.iter().zip(there).enumerate() {
            let label = labels.as_ref().map(|labels| labels[index]);
            match (path, label) {
                (None, _) => missing.push(row.path.as_str()),
                (_, Some(None)) => unknown.push(row.label.as_deref().unwrap_or("(none)")),
                (Some(path), None) if path.is_dir() => {
                    let layout = self.how.layout;
                    self.files
                        .extend(FolderDataset::below(&path, layout, &mut self.notes)?);
                }
                (Some(path), label) => {
                    self.files.push(path);
                    self.labels.extend(label.flatten());
                }
            }
        }
        self.note_left_out(list, count, &missing, unknown)?;
        match known {
            Some(known) => self.classes = known,
            None if rows.iter().any(|row| row.label.is_some()) => {
                let without = rows.iter().filter(|row| row.label.is_none()).count();
                self.notes.push(format!(
                    "{without} rows of {count} have no label, so images are taken without labels"
                ));
            }
            None => {}
        }
        Ok(())
    }

    /// Says which of `count` rows are left out; an error if all are.
    fn note_left_out(
        &mut self,
        list: &Path,
        count: usize,
        missing: &[&str],
        mut unknown: Vec<&str>,
    ) -> Result<()> {
        if missing.len() == count {
            let what = format!("none of its {count} files is there, such as {}", missing[0]);
            let fix = "paths are relative to the folder of the list; correct them";
            return Err(Error::format(list, what, fix));
        }
        if self.files.is_empty() {
            let what = "the train split has no class of its labels";
            let fix = "use the same names in all splits";
            return Err(Error::format(list, what, fix));
        }
        if !missing.is_empty() {
            let (some, of) = (some_of(missing, 1), missing.len());
            self.notes.push(format!(
                "left out {of} files of {count} that are not there: {some}"
            ));
        }
        if !unknown.is_empty() {
            let of = unknown.len();
            unknown.sort_unstable();
            unknown.dedup();
            let names = some_of(&unknown, 5);
            self.notes.push(format!(
                "left out {of} images of classes that the train split does not have: {names}"
            ));
        }
        Ok(())
    }
}

/// The classes of rows, if all have one.
fn class_names(rows: &[Row]) -> Option<Vec<String>> {
    let texts: Option<Vec<&str>> = rows.iter().map(|row| row.label.as_deref()).collect();
    texts.map(classes)
}

/// The rows of a split, and the file they are from.
fn rows_of(path: &Path, split: Split, reading: &Reading) -> Result<(PathBuf, Rows)> {
    let file = match path.is_dir() {
        true => list_in(path, split)?,
        false => path.to_owned(),
    };
    let mut rows = rows::read(&file, reading)?;
    if rows.has_splits {
        let count = rows.rows.len();
        let unknown = |row: &&Row| rows::split(row).is_none();
        if let Some(row) = rows.rows.iter().find(unknown) {
            let of = rows.rows.iter().filter(unknown).count();
            let word = row.split.as_deref().unwrap_or_default();
            let note = format!(
                "left out {of} rows of {count} whose split is none of train, val and test, such as {word:?}"
            );
            rows.note = Some(
                rows.note
                    .map_or(note.clone(), |first| format!("{first}; {note}")),
            );
        }
        rows.rows.retain(|row| rows::split(row) == Some(split));
        if rows.rows.is_empty() {
            let fix = "its column of splits does not name it";
            return Err(Error::no_split(file.display(), split, fix));
        }
    } else if stem(&file).unwrap_or(Split::Train) != split {
        let fix = "add a column `split`, or give a folder with a list for each split";
        return Err(Error::no_split(file.display(), split, fix));
    }
    Ok((file, rows))
}

/// The split that a list is named after.
fn stem(file: &Path) -> Option<Split> {
    let stem = file.file_stem()?.to_str()?;
    Split::of_name(stem)
}

/// The list of a split in a folder.
fn list_in(folder: &Path, split: Split) -> Result<PathBuf> {
    let mut lists = vec![];
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        if ListDataset::recognises(&path) && path.is_file() {
            lists.push(path);
        }
    }
    lists.sort_unstable();
    let mut named: Vec<&PathBuf> = lists
        .iter()
        .filter(|path| stem(path) == Some(split))
        .collect();
    if let (true, [only]) = (named.is_empty(), lists.as_slice())
        && stem(only).is_none()
    {
        named.push(only);
    }
    match named.as_slice() {
        [one] => Ok((*one).clone()),
        [] if lists.is_empty() => Err(Error::format(
            folder,
            "holds no list of images",
            format!("give a file that ends in {}", ENDINGS.join(", ")),
        )),
        [] => {
            let fix = format!("put a list such as {split}.csv into the folder");
            Err(Error::no_split(folder.display(), split, fix))
        }
        [first, second, ..] => {
            let what = format!("both it and {} list the {split} split", second.display());
            Err(Error::format(*first, what, "keep one of them"))
        }
    }
}

impl Dataset for ListDataset {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn read(&self, index: usize) -> Result<Sample> {
        let path = self
            .files
            .get(index)
            .ok_or_else(|| super::out_of_range(index, self.len()))?;
        decode_file(path, &self.how)
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

    fn name_of(&self, index: usize) -> String {
        let path = self.files.get(index);
        path.map_or_else(|| format!("#{index}"), |path| path.display().to_string())
    }
}
