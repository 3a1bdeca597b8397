//! Predictions for labelled images, and the resulting figures.

use mim_core::rng::{Purpose, stream};
use mim_core::{Error, Result};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::Accuracy;

/// Number of bootstrap samples.
const SAMPLES: usize = 1000;

/// Label, prediction and rank of the label of each image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scores {
    labels: Vec<u32>,
    predicted: Vec<u32>,
    ranks: Vec<usize>,
}

/// The figures of a classifier, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Share of images whose own class comes first.
    pub top1: f64,
    /// Share of images whose own class is among the first five.
    pub top5: f64,
    /// The mean over classes of the `top1` of their images.
    pub mean_per_class: f64,
    /// Bounds of the 95 % interval of `top1`, from a bootstrap over images.
    pub interval: [f64; 2],
}

impl Scores {
    /// Adds an image of class `label`, with one score per class. Ties go to the lower class; a label
    /// without a score is never right.
    pub fn push(&mut self, label: u32, scores: &[f64]) {
        let best =
            scores
                .iter()
                .enumerate()
                .fold((0, f64::NEG_INFINITY), |best, (class, score)| {
                    if *score > best.1 {
                        (class, *score)
                    } else {
                        best
                    }
                });
        self.labels.push(label);
        self.predicted
            .push(u32::try_from(best.0).unwrap_or(u32::MAX));
        self.ranks.push(rank(scores, label as usize));
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The predicted class of each image.
    pub fn predicted(&self) -> &[u32] {
        &self.predicted
    }

    fn share(&self, right: impl Fn(usize) -> bool) -> f64 {
        let count = (0..self.len()).filter(|image| right(*image)).count();
        100. * count as f64 / self.len().max(1) as f64
    }

    /// How often the right class comes first, and among the first five.
    pub fn accuracy(&self) -> Accuracy {
        Accuracy {
            top1: self.share(|image| self.ranks[image] < 1),
            top5: self.share(|image| self.ranks[image] < 5),
        }
    }

    /// Confusion matrix: true class by row, predicted class by column.
    pub fn confusion(&self) -> Vec<Vec<usize>> {
        let all = self.labels.iter().chain(&self.predicted);
        let classes = all.max().map_or(0, |class| *class as usize + 1);
        let mut counts = vec![vec![0; classes]; classes];
        for (label, predicted) in self.labels.iter().zip(&self.predicted) {
            counts[*label as usize][*predicted as usize] += 1;
        }
        counts
    }

    /// The mean over classes of the share of images whose own class comes first, in percent.
    pub fn mean_per_class(&self) -> f64 {
        let classes = self
            .labels
            .iter()
            .max()
            .map_or(0, |class| *class as usize + 1);
        let mut counts = vec![[0usize; 2]; classes];
        for (label, rank) in self.labels.iter().zip(&self.ranks) {
            let [right, all] = &mut counts[*label as usize];
            *right += usize::from(*rank < 1);
            *all += 1;
        }
        let shares = counts.iter().filter(|[_, all]| *all > 0);
        let shares: Vec<f64> = shares
            .map(|[right, all]| *right as f64 / *all as f64)
            .collect();
        100. * shares.iter().sum::<f64>() / shares.len().max(1) as f64
    }

    /// Bounds of the 95 % interval of the top-1 accuracy in percent: quantiles over a thousand bootstrap samples of the
    /// images, drawn by `seed`.
    pub fn interval(&self, seed: u64) -> [f64; 2] {
        let mut rng = stream(seed, Purpose::Bootstrap, [0, 0]);
        let count = self.len();
        if count == 0 {
            return [0., 100.];
        }
        let mut sample = || {
            let right = (0..count).filter(|_| self.ranks[rng.random_range(0..count)] < 1);
            100. * right.count() as f64 / count as f64
        };
        let mut shares: Vec<f64> = (0..SAMPLES).map(|_| sample()).collect();
        shares.sort_by(f64::total_cmp);
        [
            shares[SAMPLES * 25 / 1000],
            shares[SAMPLES * 975 / 1000 - 1],
        ]
    }

    /// All figures; `seed` draws the bootstrap samples.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if there are no images.
    pub fn summary(&self, seed: u64) -> Result<Summary> {
        if self.is_empty() {
            return Err(Error::unsupported(
                "accuracies",
                "there are no images to measure them on",
                "use a split with images",
            ));
        }
        let Accuracy { top1, top5 } = self.accuracy();
        Ok(Summary {
            top1,
            top5,
            mean_per_class: self.mean_per_class(),
            interval: self.interval(seed),
        })
    }
}

/// Number of classes before `class`: those with a higher score, and lower classes with the same. A class without a
/// score, or with minus infinity, ranks after all classes.
pub(crate) fn rank(scores: &[f64], class: usize) -> usize {
    let own = scores.get(class).filter(|own| **own > f64::NEG_INFINITY);
    let Some(own) = own else {
        return usize::MAX;
    };
    let (lower, others) = scores.split_at(class);
    let earlier = lower.iter().filter(|other| *other >= own).count();
    earlier + others.iter().filter(|other| *other > own).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(rows: &[(u32, &[f64])]) -> Scores {
        let mut all = Scores::default();
        rows.iter()
            .for_each(|(label, scores)| all.push(*label, scores));
        all
    }

    #[test]
    fn ties_go_to_the_lower_class_and_unknown_labels_are_never_right() {
        let all = scores(&[(0, &[1., 1.]), (1, &[1., 1.]), (7, &[1., 0.])]);
        assert_eq!(all.predicted(), [0, 0, 0]);
        assert_eq!(
            all.accuracy(),
            Accuracy {
                top1: 100. / 3.,
                top5: 200. / 3.
            }
        );
    }

    #[test]
    fn classes_weigh_the_same_for_any_number_of_images() {
        let all = scores(&[
            (0, &[1., 0.]),
            (0, &[1., 0.]),
            (0, &[1., 0.]),
            (1, &[1., 0.]),
        ]);
        assert_eq!((all.accuracy().top1, all.mean_per_class()), (75., 50.));
        assert_eq!(all.confusion(), [[3, 0], [1, 0]]);
    }

    #[test]
    fn intervals_contain_the_accuracy_and_shrink_with_more_images() {
        let of = |count: u32| {
            let mut all = Scores::default();
            (0..count).for_each(|image| all.push(u32::from(image % 5 == 0), &[1., 0.]));
            let summary = all.summary(3).unwrap();
            let [low, high] = summary.interval;
            assert!(low < summary.top1 && summary.top1 < high, "{summary:?}");
            assert_eq!(all.summary(3).unwrap(), summary);
            high - low
        };
        // Two standard errors on each side: 4 sqrt(0.2 * 0.8 / n).
        let (few, many) = (of(100), of(1600));
        assert!(
            (few - 16.).abs() < 3. && (many - 4.).abs() < 1.,
            "{few} {many}"
        );
        assert!(Scores::default().summary(0).is_err());
    }
}
