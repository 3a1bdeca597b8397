//! What was made of the pixels of images, and the figures that follow.

use std::collections::BTreeMap;

use mim_core::rng::{Purpose, stream};
use mim_core::{Error, Result};
use rand::RngExt;

use crate::protocol::Outcome;

/// Samples of a bootstrapped interval.
const SAMPLES: usize = 1000;

/// For each image, how many pixels of each class were given each class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentScores {
    classes: usize,
    /// Of each image the cells `true class * classes + given class` that are not zero.
    images: Vec<Vec<(usize, u64)>>,
}

/// The figures of a segmentation, in percent.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentSummary {
    /// The mean of `iou` over the classes that have one.
    pub miou: f64,
    /// Of each class the intersection over the union of its pixels and those given it; none where there are neither.
    pub iou: Vec<Option<f64>>,
    /// Pixels that were given their class.
    pub pixel_accuracy: f64,
    /// The mean over classes of the share of their pixels that were given them.
    pub mean_class_accuracy: f64,
    /// Bounds of the 95 % interval of `miou`, from a bootstrap over images.
    pub interval: [f64; 2],
}

impl SegmentScores {
    /// No image yet, of pixels of so many classes.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            images: Vec::new(),
        }
    }

    /// Adds an image: the class of each pixel, and the one it was given. Pixels of the class `ignored` do not count.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the lengths differ or a class is out of range.
    pub fn push(&mut self, truth: &[u8], given: &[u8], ignored: u8) -> Result<()> {
        let known = |class: &u8| usize::from(*class) < self.classes;
        let fits =
            truth.iter().all(|class| *class == ignored || known(class)) && given.iter().all(known);
        if truth.len() != given.len() || !fits {
            let expected = format!("as many pixels in both, of classes below {}", self.classes);
            let got = format!("{} and {} pixels", truth.len(), given.len());
            let fix = "count the classes of all masks";
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

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// For each class (row) how many of its pixels were given each class (column).
    pub fn confusion(&self) -> Vec<Vec<u64>> {
        let counts = self.counts(0..self.len());
        counts
            .chunks_exact(self.classes.max(1))
            .map(<[u64]>::to_vec)
            .collect()
    }

    /// The sums over some images of all cells.
    fn counts(&self, images: impl Iterator<Item = usize>) -> Vec<u64> {
        let mut counts = vec![0; self.classes * self.classes];
        for image in images {
            self.images[image]
                .iter()
                .for_each(|(cell, count)| counts[*cell] += count);
        }
        counts
    }

    /// All figures; the interval's samples of images are drawn by `seed`.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if no pixel counts.
    pub fn summary(&self, seed: u64) -> Result<SegmentSummary> {
        let counts = self.counts(0..self.len());
        let pixels: u64 = counts.iter().sum();
        if pixels == 0 {
            let (why, fix) = (
                "every pixel is to be ignored, or there is no image",
                "give masks with classes",
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

    /// The quantiles of `miou` of a thousand samples of as many images, drawn with replacement.
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

    /// The figures as a protocol gives them: `miou`, the bounds of its interval, both accuracies and the classes' own.
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

/// Intersection over union of each class that has pixels or was given to some, in percent.
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

/// The mean of those that are there.
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
    fn figures_are_those_of_a_confusion_counted_by_hand() {
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
        // 3 of 5, 1 of 4, 1 of 2; the fourth class is nowhere.
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
    fn a_class_that_is_given_but_nowhere_true_counts_as_missed() {
        let mut scores = SegmentScores::new(2);
        scores.push(&[0, 0], &[0, 1], 255).unwrap();
        assert!(near(scores.summary(0).unwrap().miou, 25.));
    }

    #[test]
    fn intervals_hold_the_mean_and_need_images() {
        let mut scores = SegmentScores::new(2);
        for image in 0..200u8 {
            let given = if image % 4 == 0 { [1, 1] } else { [0, 1] };
            scores.push(&[0, 1], &given, 255).unwrap();
        }
        let summary = scores.summary(3).unwrap();
        let [low, high] = summary.interval;
        // Of class 0 three quarters are right; of class 1 all are, beside a quarter as many that are not: 75 % and 80 %.
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
