//! Labels of parquet files, as classes.

use std::path::PathBuf;

use super::super::labels::{among, classes, some_of};
use super::shard::{Labels, Shard};
use crate::{Error, Result};

/// Files of the other splits.
pub(super) struct Others<'a> {
    /// Those on this machine.
    pub(super) local: Vec<PathBuf>,
    /// Those of the train split, perhaps to be downloaded; none of the train split itself.
    pub(super) train: Option<&'a dyn Fn() -> Result<Vec<PathBuf>>>,
}

/// Labels and classes of the rows of some shards.
#[derive(Debug, Default)]
pub(super) struct Classes {
    /// Those of all rows that are used; empty if images are taken without labels.
    pub(super) labels: Vec<u32>,
    pub(super) names: Vec<String>,
    pub(super) count: usize,
    /// Rows that are used, if not all are.
    pub(super) kept: Option<Vec<usize>>,
    pub(super) notes: Vec<String>,
}

impl Classes {
    /// Reads the labels of `rows` rows in all; none count if one is missing.
    pub(super) fn read(shards: &[Shard], rows: usize, others: &Others<'_>) -> Result<Self> {
        let (mut numbers, mut texts) = (vec![], vec![]);
        for shard in shards {
            match shard.labels()? {
                Labels::None => return Ok(Self::default()),
                Labels::Numbers(more) => numbers.extend(more),
                Labels::Texts(more) => texts.extend(more),
            }
        }
        match (numbers.len() == rows, texts.len() == rows) {
            (true, _) => Self::of_numbers(shards, &numbers, others),
            (_, true) => Self::of_texts(shards, &texts, others),
            _ => Err(Error::format(
                shards[0].path(),
                "labels are numbers in some files of the data set and text in others",
                "write them in one way",
            )),
        }
    }

    fn of_numbers(shards: &[Shard], numbers: &[i64], others: &Others<'_>) -> Result<Self> {
        // ImageNet's test split and others say "unknown" with -1.
        let known = numbers.iter().map(|label| u32::try_from(*label).ok());
        let Some(labels) = known.collect::<Option<Vec<u32>>>() else {
            let note = "some labels are missing or negative, so images are taken without labels";
            return Ok(Self {
                notes: vec![note.to_owned()],
                ..Self::default()
            });
        };
        let names = shards[0].classes().to_vec();
        let mut count = labels.iter().max().map_or(0, |label| *label as usize + 1);
        if !names.is_empty() {
            if count > names.len() {
                return Err(Error::format(
                    shards[0].path(),
                    format!("label {} among {} classes", count - 1, names.len()),
                    "download the data set again",
                ));
            }
            count = names.len();
        } else {
            for path in &others.local {
                if let Labels::Numbers(more) = shards[0].like(path)?.labels()? {
                    let most = more.into_iter().max().unwrap_or(-1);
                    count = count.max(usize::try_from(most + 1).unwrap_or(0));
                }
            }
        }
        Ok(Self {
            labels,
            names,
            count,
            ..Self::default()
        })
    }

    fn of_texts(shards: &[Shard], texts: &[Option<String>], others: &Others<'_>) -> Result<Self> {
        let mut trained = vec![];
        for path in others.train.map_or(Ok(vec![]), |train| train())? {
            if let Labels::Texts(more) = shards[0].like(&path)?.labels()? {
                trained.extend(more.into_iter().flatten());
            }
        }
        let Some(texts) = texts
            .iter()
            .map(Option::as_deref)
            .collect::<Option<Vec<_>>>()
        else {
            let note = "some labels are missing, so images are taken without labels";
            return Ok(Self {
                notes: vec![note.to_owned()],
                ..Self::default()
            });
        };
        let names = match trained.as_slice() {
            [] => classes(texts.iter().copied()),
            trained => classes(trained.iter().map(String::as_str)),
        };
        let found = among(&names, texts.iter().copied());
        let mut dataset = Self {
            count: names.len(),
            labels: found.iter().copied().flatten().collect(),
            ..Self::default()
        };
        if dataset.labels.len() < texts.len() {
            let unknown = std::iter::zip(&texts, &found).filter(|(_, label)| label.is_none());
            let unknown = classes(unknown.map(|(text, _)| *text));
            dataset.notes.push(format!(
                "left out {} images of classes that the train split does not have: {}",
                texts.len() - dataset.labels.len(),
                some_of(&unknown, 5)
            ));
            let kept = found.iter().enumerate();
            let kept = kept.filter_map(|(row, label)| label.map(|_| row));
            dataset.kept = Some(kept.collect());
        }
        if dataset.labels.is_empty() {
            let what = "the train split has no class of its labels";
            let fix = "use the same names in all splits";
            return Err(Error::format(shards[0].path(), what, fix));
        }
        dataset.names = names;
        Ok(dataset)
    }
}
