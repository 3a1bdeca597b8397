//! Files that a data set is cut into, such as parquet files, and which of them are which split.

use std::collections::BTreeSet;
use std::path::Path;

use super::Split;
use crate::{Error, Result, Text};

/// Files of an ending (`parquet`, `tar`) below a folder, as paths inside it.
pub(super) fn files(root: &Path, ending: &str) -> Result<Vec<String>> {
    let mut files = vec![];
    walk((root, ""), ending, 0, &mut files)?;
    files.sort_unstable();
    Ok(files)
}

fn walk(
    (folder, inside): (&Path, &str),
    ending: &str,
    depth: usize,
    files: &mut Vec<String>,
) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() && depth < 8 {
            walk(
                (&path, &format!("{inside}{name}/")),
                ending,
                depth + 1,
                files,
            )?;
        } else if is_of(&name, ending) {
            files.push(format!("{inside}{name}"));
        }
    }
    Ok(())
}

fn is_of(name: &str, ending: &str) -> bool {
    name.strip_suffix(ending)
        .is_some_and(|name| name.ends_with('.'))
}

/// Why files are no split of one data set.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The split is not among them; what to do.
    NoSplit(String),
    /// What is wrong, and what to do.
    Wrong(String, Text),
}

impl Refusal {
    /// The error of the files at `path`.
    pub(super) fn at(self, path: &Path, split: Split) -> Error {
        match self {
            Self::NoSplit(fix) => Error::no_split(path.display(), split, fix),
            Self::Wrong(what, fix) => Error::format(path, what, fix),
        }
    }
}

/// The files of a split among those of an ending in `inside` (a folder or a file; all if empty), in order.
///
/// # Errors
///
/// What is wrong, and what to do.
pub(super) fn select(
    files: &[String],
    (inside, ending): (&str, &str),
    split: Split,
) -> Result<Vec<String>, Refusal> {
    let within = |file: &&String| {
        let rest = file.strip_prefix(inside);
        rest.is_some_and(|rest| inside.is_empty() || rest.is_empty() || rest.starts_with('/'))
    };
    let files: Vec<&String> = files
        .iter()
        .filter(|file| is_of(file, ending))
        .filter(within)
        .collect();
    if files.is_empty() {
        return Err(Refusal::Wrong(
            format!("holds no {ending} files"),
            format!(
                "name a data set of {ending} files; other kinds are read as folder:, idx: or cifar:"
            )
            .into(),
        ));
    }
    let parts: Vec<(Option<Split>, &String)> = files
        .into_iter()
        .map(|file| {
            (
                part(file[inside.len()..].trim_start_matches('/')).or_else(|| part(file)),
                file,
            )
        })
        .collect();
    let has = |part| parts.iter().any(|(found, _)| *found == part);
    let wanted = match split {
        Split::Train if !has(Some(Split::Train)) => None,
        split => Some(split),
    };
    let chosen = parts.iter().filter(|(found, _)| *found == wanted);
    let chosen: Vec<String> = chosen.map(|(_, file)| (*file).clone()).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = parts
            .iter()
            .take(8)
            .map(|(_, file)| file.as_str())
            .collect();
        return Err(Refusal::NoSplit(format!(
            "files of a split have train, validation or test in their path, but its files are {}",
            names.join(", ")
        )));
    }
    one_set(&chosen)?;
    whole(&chosen)?;
    Ok(chosen)
}

/// The last word of a path that names a part.
fn part(path: &str) -> Option<Split> {
    let words = path.split(|c: char| !c.is_alphanumeric());
    words.rev().find_map(Split::of_name)
}

/// Refuses files of several data sets, which stand in folders of their own.
fn one_set(files: &[String]) -> Result<(), Refusal> {
    let set = |file: &String| {
        let (folder, _) = file.rsplit_once('/').unwrap_or(("", file));
        let names = folder.split('/').filter(|name| part(name).is_none());
        names.collect::<Vec<_>>().join("/")
    };
    let sets: BTreeSet<String> = files.iter().map(set).collect();
    if sets.len() < 2 {
        return Ok(());
    }
    let names: Vec<String> = sets.into_iter().take(20).collect();
    Err(Refusal::Wrong(
        format!("holds several data sets: {}", names.join(", ")),
        format!(
            "name one of these folders, as {}",
            names.last().map_or("", String::as_str)
        )
        .into(),
    ))
}

/// Refuses a part of the files `..-00000-of-00005.parquet`.
fn whole(files: &[String]) -> Result<(), Refusal> {
    let promised = |file: &String| {
        let (_, rest) = file.rsplit_once("-of-")?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        rest[..digits].parse::<usize>().ok()
    };
    match files.iter().filter_map(promised).max() {
        Some(promised) if promised > files.len() => Err(Refusal::Wrong(
            format!("only {} of {promised} files are there", files.len()),
            "download the others".into(),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(files: &[&str], inside: &str, split: Split) -> Result<Vec<String>, Refusal> {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        select(&files, (inside, "parquet"), split)
    }

    fn wrong(chosen: Result<Vec<String>, Refusal>) -> String {
        match chosen.unwrap_err() {
            Refusal::Wrong(what, _) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn splits_are_told_by_words_in_paths() {
        let hub = [
            "README.md",
            "data/test-00000-of-00001.parquet",
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
            "data/validation-00000-of-00001.parquet",
        ];
        assert_eq!(chosen(&hub, "", Split::Train).unwrap(), hub[2..4]);
        assert_eq!(chosen(&hub, "", Split::Val).unwrap(), hub[4..]);
        assert_eq!(chosen(&hub, "", Split::Test).unwrap(), hub[1..2]);
        let converted = [
            "default/test/0000.parquet",
            "default/partial-train/0000.parquet",
        ];
        assert_eq!(
            chosen(&converted, "default", Split::Train).unwrap(),
            converted[1..]
        );
        assert_eq!(chosen(&converted, "", Split::Test).unwrap(), converted[..1]);
        let plain = ["a.parquet", "b.parquet"];
        assert_eq!(chosen(&plain, "", Split::Train).unwrap(), plain);
        assert_eq!(
            chosen(&plain, "b.parquet", Split::Train).unwrap(),
            plain[1..]
        );
        let refusal = chosen(&plain, "", Split::Test).unwrap_err();
        let error = refusal.at(Path::new("x"), Split::Test).to_string();
        assert!(
            error.contains("no test split") && error.contains("a.parquet"),
            "{error}"
        );
    }

    #[test]
    fn what_is_not_one_whole_data_set_is_refused() {
        let sets = ["cat/train-0.parquet", "cats/train-0.parquet"];
        let what = wrong(chosen(&sets, "", Split::Train));
        assert!(what.contains("cat, cats"), "{what}");
        assert_eq!(chosen(&sets, "cat", Split::Train).unwrap(), sets[..1]);
        let what = wrong(chosen(&["train-00001-of-00003.parquet"], "", Split::Train));
        assert!(what.contains("1 of 3"), "{what}");
        let what = wrong(chosen(&["a.jpg"], "", Split::Train));
        assert!(what.contains("no parquet files"), "{what}");
    }
}
