//! Pixel predictions of images, and the resulting figures.

use std::collections::BTreeMap;

use mim_core::rng::{Purpose, stream};
use mim_core::{Error, Result};
use rand::RngExt;

use crate::protocol::Outcome;

/// Number of bootstrap samples.
const SAMPLES: usize = 1000;

/// For each image, the confusion counts of its pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentScores {
    classes: usize,
    /// Per image: the nonzero cells, indexed by `true class * classes + predicted class`.
    images: Vec<Vec<(usize, u64)>>,
}

/// The figures of a segmentation, in percent.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentSummary {
    /// The mean of `iou` over the classes that have one.
    pub miou: f64,
    /// Intersection over union of each class; `None` for a class without true and predicted pixels.
    pub iou: Vec<Option<f64>>,
    /// Share of correctly classified pixels.
    pub pixel_accuracy: f64,
    /// The mean over classes of the share of correctly classified pixels.
    pub mean_class_accuracy: f64,
    /// Bounds of the 95 % interval of `miou`, from a bootstrap over images.
    pub interval: [f64; 2],
}

impl SegmentScores {
    /// Without images, for pixels of `classes` classes.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            images: Vec::new(),
        }
    }

    /// Adds an image: true and predicted class of each pixel. Pixels of the true class `ignored` are skipped.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the lengths differ or a class is out of range.
    pub fn push(&mut self, truth: &[u8], given: &[u8], ignored: u8) -> Result<()> {
        let known = |class: &u8| usize::from(*class) < self.classes;
        let fits =
            truth.iter().all(|class| *class == ignored || known(class)) && given.iter().all(known);
        if truth.len() != given.len() || !fits {
            let expected = format!(
                "the same number of pixels in both, of classes below {}",
                self.classes
            );
            let got = format!("{} and {} pixels", truth.len(), given.len());
            let fix = "use a number of classes that covers all masks";
            return Err(Error::shape("masks", expected, got, fix));
        }
        let mut cells = BTreeMap::new();
        for (truth, given) in truth
            .iter()
            .zip(given)
            .filter(|(truth, _)| **truth != ignored)
        {
            *cells
                .entry(usize::from(*truth) * self.classes + usize::from(*given))
                .or_insert(0) += 1;
        }
        self.images.push(cells.into_iter().collect());
        Ok(())
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Confusion matrix: true class by row, predicted class by column.
    pub fn confusion(&self) -> Vec<Vec<u64>> {
        let counts = self.counts(0..self.len());
        counts
            .chunks_exact(self.classes.max(1))
            .map(<[u64]>::to_vec)
            .collect()
    }

    /// The cell sums over some images.
    fn counts(&self, images: impl Iterator<Item = usize>) -> Vec<u64> {
        let mut counts = vec![0; self.classes * self.classes];
        for image in images {
            self.images[image]
                .iter()
                .for_each(|(cell, count)| counts[*cell] += count);
        }
        counts
    }

    /// All figures; `seed` draws the bootstrap samples of images.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if all pixels are ignored.
    pub fn summary(&self, seed: u64) -> Result<SegmentSummary> {
        let counts = self.counts(0..self.len());
        let pixels: u64 = counts.iter().sum();
        if pixels == 0 {
            let (why, fix) = (
                "every pixel is ignored, or there are no images",
                "use masks with classes",
            );
            return Err(Error::unsupported("measuring a segmentation", why, fix));
        }
        let iou = ious(&counts, self.classes);
        let right: u64 = (0..self.classes)
            .map(|class| counts[class * (self.classes + 1)])
            .sum();
        let shares: Vec<f64> = counts
            .chunks_exact(self.classes)
            .enumerate()
            .filter_map(|(class, row)| percent(row[class], row.iter().sum()))
            .collect();
        Ok(SegmentSummary {
            miou: mean(&iou),
            pixel_accuracy: percent(right, pixels).unwrap_or_default(),
            mean_class_accuracy: shares.iter().sum::<f64>() / shares.len() as f64,
            interval: self.interval(seed),
            iou,
        })
    }

    /// The quantiles of `miou` over a thousand bootstrap samples of the images.
    fn interval(&self, seed: u64) -> [f64; 2] {
        let mut rng = stream(seed, Purpose::Bootstrap, [0, 0]);
        let count = self.len();
        let mut means: Vec<f64> = (0..SAMPLES)
            .map(|_| {
                let images = (0..count).map(|_| rng.random_range(0..count));
                mean(&ious(&self.counts(images), self.classes))
            })
            .collect();
        means.sort_by(f64::total_cmp);
        [means[SAMPLES * 25 / 1000], means[SAMPLES * 975 / 1000 - 1]]
    }

    /// The figures of a protocol: `miou`, the bounds of its interval, both accuracies, and the IoU of each class.
    ///
    /// # Errors
    ///
    /// As [`SegmentScores::summary`].
    pub fn outcome(&self) -> Result<Outcome> {
        let summary = self.summary(0)?;
        let [low, high] = summary.interval;
        let mut outcome = Outcome {
            pixels: Some(self.confusion()),
            ..Outcome::default()
        };
        outcome.push("miou", summary.miou);
        outcome.push("miou_low", low);
        outcome.push("miou_high", high);
        outcome.push("pixel_accuracy", summary.pixel_accuracy);
        outcome.push("mean_class_accuracy", summary.mean_class_accuracy);
        for (class, iou) in summary.iou.iter().enumerate() {
            if let Some(iou) = iou {
                outcome.push(format!("iou_{class}"), *iou);
            }
        }
        Ok(outcome)
    }
}

/// Intersection over union of each class with true or predicted pixels, in percent.
fn ious(counts: &[u64], classes: usize) -> Vec<Option<f64>> {
    let mut unions = vec![0; classes];
    for (cell, count) in counts.iter().enumerate() {
        let (truth, given) = (cell / classes, cell % classes);
        unions[truth] += count;
        if given != truth {
            unions[given] += count;
        }
    }
    let both = |class: usize| counts[class * (classes + 1)];
    let unions = unions.into_iter().enumerate();
    unions
        .map(|(class, union)| percent(both(class), union))
        .collect()
}

/// The mean of the existing values.
fn mean(values: &[Option<f64>]) -> f64 {
    let there: Vec<f64> = values.iter().flatten().copied().collect();
    there.iter().sum::<f64>() / there.len().max(1) as f64
}

fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| 100. * part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(own: f64, wanted: f64) -> bool {
        (own - wanted).abs() < 1e-9
    }

    #[test]
    fn figures_match_a_hand_counted_confusion_matrix() {
        let mut scores = SegmentScores::new(4);
        scores
            .push(&[0, 0, 0, 0, 1, 1, 255], &[0, 0, 0, 1, 1, 0, 2], 255)
            .unwrap();
        scores.push(&[2, 2, 255], &[2, 1, 1], 255).unwrap();
        assert_eq!(
            scores.confusion(),
            [[3, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
        );
        let summary = scores.summary(0).unwrap();
        // 3 of 5, 1 of 4, 1 of 2; the fourth class does not occur.
        let wanted = [60., 25., 50.];
        for (own, wanted) in summary.iou.iter().zip(wanted) {
            assert!(near(own.unwrap(), wanted), "{summary:?}");
        }
        assert_eq!(summary.iou[3], None);
        assert!(near(summary.miou, 45.) && near(summary.pixel_accuracy, 500. / 8.));
        assert!(near(summary.mean_class_accuracy, (75. + 50. + 50.) / 3.));
        let outcome = scores.outcome().unwrap();
        assert_eq!(outcome.figures.len(), 5 + 3);
        assert_eq!(outcome.pixels.unwrap()[2], [0, 1, 1, 0]);
    }

    #[test]
    fn a_class_that_is_predicted_but_never_true_has_zero_iou() {
        let mut scores = SegmentScores::new(2);
        scores.push(&[0, 0], &[0, 1], 255).unwrap();
        assert!(near(scores.summary(0).unwrap().miou, 25.));
    }

    #[test]
    fn intervals_contain_the_mean_and_need_images() {
        let mut scores = SegmentScores::new(2);
        for image in 0..200u8 {
            let given = if image % 4 == 0 { [1, 1] } else { [0, 1] };
            scores.push(&[0, 1], &given, 255).unwrap();
        }
        let summary = scores.summary(3).unwrap();
        let [low, high] = summary.interval;
        // In class 0, three quarters are right; in class 1 all are, plus a quarter as many wrong ones: 75 % and 80 %.
        assert!(
            low < summary.miou && summary.miou < high && high - low < 10.,
            "{summary:?}"
        );
        assert!(near(summary.miou, 77.5));
        assert_eq!(scores.summary(3).unwrap(), summary);
        assert!(SegmentScores::new(2).summary(0).is_err());
        let mut ignored = SegmentScores::new(2);
        ignored.push(&[7], &[1], 7).unwrap();
        assert!(
            ignored
                .summary(0)
                .unwrap_err()
                .to_string()
                .contains("ignored")
        );
        assert!(ignored.push(&[3], &[1], 7).is_err() && ignored.push(&[1], &[], 7).is_err());
    }
}
