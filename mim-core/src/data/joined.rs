//! Several sources as one.

use std::sync::Arc;

use super::labels::{among, classes};
use super::{Dataset, Shards, Split, out_of_range};
use crate::augment::Sample;
use crate::{Error, Result};

/// The images of several data sets, one set after another. Classes with the same name are one class.
#[derive(Debug)]
pub struct JoinedDataset {
    parts: Vec<Arc<dyn Dataset>>,
    /// The index of each part's first image, and the number of all.
    firsts: Vec<usize>,
    /// The class of each part's labels; empty if images are taken without labels.
    labels: Vec<Vec<Option<u32>>>,
    classes: Vec<String>,
    class_count: usize,
    notes: Vec<String>,
}

impl JoinedDataset {
    /// Joins the `split` of several sources; `open` opens the source at a position of the list. A source without that
    /// split is left out, unless it is the train split.
    ///
    /// # Errors
    ///
    /// The errors of `open`; [`Error::NoSplit`] if no source has the split.
    pub(super) fn open(
        names: &[String],
        split: Split,
        open: impl Fn(usize, Split) -> Result<Arc<dyn Dataset>>,
    ) -> Result<Self> {
        let (mut parts, mut notes, mut none) = (vec![], vec![], None);
        for (place, name) in names.iter().enumerate() {
            match open(place, split) {
                Ok(part) => parts.push(part),
                Err(error @ Error::NoSplit { .. }) if split != Split::Train => {
                    notes.push(format!("{name} has no {split} split"));
                    none = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        if let (true, Some(error)) = (parts.is_empty(), none) {
            return Err(error);
        }
        let trained: Vec<Arc<dyn Dataset>> = match split {
            Split::Train => parts.clone(),
            _ => (0..names.len())
                .map(|place| open(place, Split::Train))
                .filter(|part| !matches!(part, Err(Error::NoSplit { .. })))
                .collect::<Result<_>>()?,
        };
        let mut joined = Self {
            firsts: vec![0],
            labels: vec![],
            classes: vec![],
            class_count: 0,
            notes: vec![],
            parts,
        };
        for part in &joined.parts {
            joined
                .firsts
                .push(joined.firsts[joined.firsts.len() - 1] + part.len());
            notes.extend_from_slice(part.notes());
        }
        joined.notes = notes;
        joined.join_labels(&trained);
        Ok(joined)
    }

    fn join_labels(&mut self, trained: &[Arc<dyn Dataset>]) {
        let all = trained.iter().chain(&self.parts);
        let labelled = all.clone().filter(|part| part.classes() > 0).count();
        if labelled == 0 {
            return;
        }
        let named = |part: &Arc<dyn Dataset>| part.class_names().len() == part.classes();
        let counts = |part: &Arc<dyn Dataset>| part.classes() == self.parts[0].classes();
        if labelled < all.clone().count() || !(all.clone().all(named) || all.clone().all(counts)) {
            let note = "some sources have no labels, or classes without names, so images are taken without labels";
            self.notes.push(note.to_owned());
            return;
        }
        if all.clone().all(named) {
            let names = all.flat_map(|part| part.class_names().iter().map(String::as_str));
            self.classes = classes(names);
            self.class_count = self.classes.len();
            let labels = self
                .parts
                .iter()
                .map(|part| among(&self.classes, part.class_names().iter().map(String::as_str)));
            self.labels = labels.collect();
        } else {
            self.class_count = self.parts[0].classes();
            let same: Vec<Option<u32>> = (0..).take(self.class_count).map(Some).collect();
            self.labels = vec![same; self.parts.len()];
        }
    }

    /// The part of image `index`, and its index there.
    fn place(&self, index: usize) -> Option<(usize, usize)> {
        let part = self.firsts.partition_point(|first| *first <= index) - 1;
        (part < self.parts.len()).then(|| (part, index - self.firsts[part]))
    }
}

impl Dataset for JoinedDataset {
    fn len(&self) -> usize {
        self.firsts.last().copied().unwrap_or(0)
    }

    fn read(&self, index: usize) -> Result<Sample> {
        let (part, index) = self
            .place(index)
            .ok_or_else(|| out_of_range(index, self.len()))?;
        self.parts[part].read(index)
    }

    fn label(&self, index: usize) -> Option<u32> {
        let (part, index) = self.place(index)?;
        let label = self.parts[part].label(index)?;
        self.labels
            .get(part)?
            .get(label as usize)
            .copied()
            .flatten()
    }

    fn classes(&self) -> usize {
        self.class_count
    }

    fn class_names(&self) -> &[String] {
        &self.classes
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn shards(&self) -> Option<Shards> {
        let parts = std::iter::zip(&self.parts, &self.firsts);
        let mut joined: Option<Shards> = None;
        let mut starts = vec![];
        for (part, first) in parts {
            match part.shards() {
                Some(shards) => {
                    starts.extend(shards.starts.iter().map(|start| first + start));
                    let window = joined.map_or(shards.window, |one| one.window.min(shards.window));
                    joined = Some(Shards {
                        starts: vec![],
                        window,
                    });
                }
                None => starts.push(*first),
            }
        }
        Some(Shards { starts, ..joined? })
    }

    fn name_of(&self, index: usize) -> String {
        self.place(index).map_or_else(
            || format!("#{index}"),
            |(part, index)| self.parts[part].name_of(index),
        )
    }
}
