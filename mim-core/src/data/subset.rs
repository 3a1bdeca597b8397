//! Some images of a data set.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::RngExt;

use super::{Dataset, Shards};
use crate::augment::Sample;
use crate::rng::{Purpose, stream};
use crate::{Error, Result};

/// Some images of another data set, in a given order.
#[derive(Debug, Clone)]
pub struct Subset {
    all: Arc<dyn Dataset>,
    indices: Vec<usize>,
}

impl Subset {
    /// The images `indices` of `all`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if an index is not below the number of images.
    pub fn new(all: Arc<dyn Dataset>, indices: Vec<usize>) -> Result<Self> {
        if let Some(index) = indices.iter().find(|index| **index >= all.len()) {
            let below = format!("below {}", all.len());
            return Err(Error::shape(
                "an index of a subset",
                below,
                index,
                "give indices of the data set",
            ));
        }
        Ok(Self { all, indices })
    }

    fn index(&self, index: usize) -> usize {
        self.indices.get(index).copied().unwrap_or(usize::MAX)
    }
}

impl Dataset for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn read(&self, index: usize) -> Result<Sample> {
        self.all.read(self.index(index))
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.all.label(self.index(index))
    }

    fn classes(&self) -> usize {
        self.all.classes()
    }

    fn class_names(&self) -> &[String] {
        self.all.class_names()
    }

    fn shards(&self) -> Option<Shards> {
        let shards = self.all.shards()?;
        let ascending = self.indices.is_sorted();
        ascending.then(|| shards.of_some(&self.indices))
    }

    fn notes(&self) -> &[String] {
        self.all.notes()
    }

    fn name_of(&self, index: usize) -> String {
        self.all.name_of(self.index(index))
    }
}

/// Splits a data set in two: (the rest, a `share` of each class). The choice depends on `seed` and on the number of
/// images and classes. Both parts keep the order of the data set.
///
/// Each class gives `round(share * count)` images, at least one and never all of several.
///
/// # Errors
///
/// [`Error::InvalidConfig`] if `share` is not in `(0, 1)`.
pub fn hold_out(all: &Arc<dyn Dataset>, share: f64, seed: u64) -> Result<(Subset, Subset)> {
    if !(share > 0. && share < 1.) {
        let (why, fix) = (
            "it is a share of the training images",
            "use a number between 0 and 1, such as 0.1",
        );
        return Err(Error::config("data", "val_share", share, why, fix));
    }
    let mut classes: BTreeMap<Option<u32>, Vec<usize>> = BTreeMap::new();
    for index in 0..all.len() {
        classes.entry(all.label(index)).or_default().push(index);
    }
    let mut rng = stream(seed, Purpose::Split, [0, 0]);
    let (mut kept, mut held) = (vec![], vec![]);
    for mut members in classes.into_values() {
        let most = (members.len() - 1).max(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count"
        )]
        let count = ((members.len() as f64 * share).round() as usize).clamp(1, most);
        if members.len() == 1 {
            kept.append(&mut members);
            continue;
        }
        for place in 0..count {
            let other = rng.random_range(place..members.len());
            members.swap(place, other);
        }
        kept.extend(members.split_off(count));
        held.append(&mut members);
    }
    kept.sort_unstable();
    held.sort_unstable();
    Ok((
        Subset::new(all.clone(), kept)?,
        Subset::new(all.clone(), held)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{DataSource, Split};

    #[test]
    fn a_share_of_each_class_is_held_out_once() {
        let all = DataSource::Embedded.open(Split::Train).unwrap();
        let (rest, held) = hold_out(&all, 0.1, 3).unwrap();
        assert_eq!((rest.len(), held.len()), (900, 100));
        let mut counts = [0; 10];
        for index in 0..held.len() {
            counts[held.label(index).unwrap() as usize] += 1;
        }
        assert_eq!(counts, [10; 10]);
        let mut both: Vec<usize> = rest.indices.iter().chain(&held.indices).copied().collect();
        both.sort_unstable();
        assert!(both.into_iter().eq(0..1000));
        assert_eq!(hold_out(&all, 0.1, 3).unwrap().1.indices, held.indices);
        assert_ne!(hold_out(&all, 0.1, 4).unwrap().1.indices, held.indices);
        assert_eq!(held.read(0).unwrap(), all.read(held.indices[0]).unwrap());
        for share in [0., 1., f64::NAN] {
            assert!(hold_out(&all, share, 0).is_err());
        }
    }
}
