//! The trait of protocols on frozen features.

use mim_core::parts::Settings;
use mim_core::{Error, Result};

use crate::{Features, Scores, SegmentConfig, Summary};

/// Settings of a protocol, which evaluates features of training and test images.
pub trait ProtocolSettings: Settings {
    /// Measures the features.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for a setting that is out of range or does not match the data, [`Error::Unsupported`]
    /// if the labels do not allow it.
    fn measure(&self, train: &Features, test: &Features) -> Result<Outcome>;

    /// Whether it works without labels. Default: no.
    fn without_labels(&self) -> bool {
        false
    }

    /// The settings, if the protocol is segmentation. That reads masks and patch features, so [`SegmentConfig::scores`]
    /// measures it.
    fn segmentation(&self) -> Option<&SegmentConfig> {
        None
    }
}

/// Result of a protocol.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// Figures by name, in display order.
    pub figures: Vec<(String, f64)>,
    /// Scores of each test image, if the protocol classifies images.
    pub scores: Option<Scores>,
    /// Confusion matrix over pixels of the test images, true class by row and predicted class by column, if the
    /// protocol classifies pixels.
    pub pixels: Option<Vec<Vec<u64>>>,
    /// Rows of the training images used by each draw, if the protocol draws some.
    pub drawn: Vec<Vec<usize>>,
}

impl Outcome {
    /// Figures of a classifier: top-1 and top-5 in percent, the mean over classes, and the bounds of a 95 % interval.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if there are no images.
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

/// Mean and standard deviation of a sample.
pub(crate) fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.).max(1.)).sqrt())
}

/// Refuses an empty list of candidates for `what`.
pub(crate) fn not_empty<T>(
    component: &'static str,
    field: &'static str,
    values: &[T],
) -> Result<()> {
    if values.is_empty() {
        let (why, fix) = ("there is nothing to choose from", "use one or more values");
        return Err(Error::config(component, field, "[]", why, fix));
    }
    Ok(())
}
