//! What all protocols on frozen features have in common.

use mim_core::parts::Settings;
use mim_core::{Error, Result};

use crate::{Features, Scores, SegmentConfig, Summary};

/// Settings of a protocol: what it does with the features of training and test images.
pub trait ProtocolSettings: Settings {
    /// Measures the features.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for a setting that is out of range or does not fit the data, [`Error::Unsupported`] if
    /// the labels do not allow it.
    fn measure(&self, train: &Features, test: &Features) -> Result<Outcome>;

    /// Whether images without labels will do. Default: no.
    fn without_labels(&self) -> bool {
        false
    }

    /// The settings, if it is segmentation: that reads masks and the features of patches, and is measured by
    /// [`SegmentConfig::scores`].
    fn segmentation(&self) -> Option<&SegmentConfig> {
        None
    }
}

/// What a protocol measured.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// Figures by name, in the order in which they are to be shown.
    pub figures: Vec<(String, f64)>,
    /// What was made of each test image, where the protocol classifies.
    pub scores: Option<Scores>,
    /// For each class (row) how many pixels of the test images were given each class (column), where the protocol
    /// classifies pixels.
    pub pixels: Option<Vec<Vec<u64>>>,
    /// Rows of the training images that each draw took, where the protocol draws some.
    pub drawn: Vec<Vec<usize>>,
}

impl Outcome {
    /// The figures of a classifier: top-1 and top-5 in percent, the mean over classes, and the bounds of a 95 % interval.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if there is no image.
    pub fn of_scores(scores: Scores) -> Result<Self> {
        let Summary {
            top1,
            top5,
            mean_per_class,
            interval: [low, high],
        } = scores.summary(0)?;
        let figures = [
            ("top1", top1),
            ("top5", top5),
            ("mean_per_class", mean_per_class),
            ("top1_low", low),
            ("top1_high", high),
        ];
        Ok(Self {
            figures: figures.map(|(name, value)| (name.to_owned(), value)).into(),
            scores: Some(scores),
            pixels: None,
            drawn: Vec::new(),
        })
    }

    /// Adds a figure.
    pub fn push(&mut self, name: impl Into<String>, value: f64) {
        self.figures.push((name.into(), value));
    }
}

/// The mean and the deviation of a sample.
pub(crate) fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.).max(1.)).sqrt())
}

/// Refuses a list that is empty, of which `what` is chosen.
pub(crate) fn not_empty<T>(
    component: &'static str,
    field: &'static str,
    values: &[T],
) -> Result<()> {
    if values.is_empty() {
        let (why, fix) = ("there is nothing to choose from", "give one or more values");
        return Err(Error::config(component, field, "[]", why, fix));
    }
    Ok(())
}
