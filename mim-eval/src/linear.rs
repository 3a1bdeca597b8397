//! Linear probe: logistic regression on standardised features.

use candle_core::{DType, Device, Tensor};
use mim_core::parts::Part;
use mim_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::logistic::{Logistic, LogisticRegression};
use crate::protocol::{Outcome, ProtocolSettings};
use crate::split::{fixed_choice, of_each_class};
use crate::{Accuracy, Features, Scores};

/// Rows classified at a time, to limit memory.
const CHUNK: usize = 1024;

/// Settings of the linear probe: scikit-learn's `StandardScaler`, then `LogisticRegression(C, max_iter)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinearConfig {
    /// Inverse strength of the penalty, relative to the sum of the losses of all images. Default 0.1.
    pub c: f64,
    /// Maximum number of steps. Default 300.
    pub max_iter: usize,
    /// Gradient elements of the mean loss up to this value count as zero. Default 1e-4, as in scikit-learn.
    pub tolerance: f64,
    /// Candidates that replace `c`: the best one is chosen on a fifth of the training images. Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub c_sweep: Vec<f64>,
    /// Maximum number of training images; if there are more, a fixed pseudo-random choice is used. Default 10000.
    pub max_train: usize,
}

impl Default for LinearConfig {
    fn default() -> Self {
        Self {
            c: 0.1,
            max_iter: 300,
            tolerance: 1e-4,
            max_train: 10_000,
            c_sweep: vec![],
        }
    }
}

impl Part for LinearConfig {
    const ABOUT: &'static str = "multinomial logistic regression on standardised features";
    const PAPER: &'static str = "scikit-learn's StandardScaler and LogisticRegression";
}

impl ProtocolSettings for LinearConfig {
    fn measure(&self, train: &Features, test: &Features) -> Result<Outcome> {
        let best = self.swept(train)?;
        let mut outcome = Outcome::of_scores(best.fit(train)?.scores(test)?)?;
        outcome.push("c", best.c);
        Ok(outcome)
    }
}

impl LinearConfig {
    /// The settings with the `c` from the sweep that does best on a fifth of the training images; ties go to the first.
    fn swept(&self, train: &Features) -> Result<Self> {
        if self.c_sweep.is_empty() {
            return Ok(self.clone());
        }
        let (held, rest) = of_each_class(train, (0, 0), |images| images / 5);
        held.check_sweep()?;
        let (mut best, mut most) = (self.clone(), f64::NEG_INFINITY);
        for c in &self.c_sweep {
            let tried = Self {
                c: *c,
                ..self.clone()
            };
            let top1 = tried.fit(&rest)?.accuracies(&held)?.top1;
            if top1 > most {
                (best, most) = (tried, top1);
            }
        }
        Ok(best)
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first invalid setting.
    pub fn check(&self) -> Result<()> {
        let positive = |value: f64| value > 0. && value.is_finite();
        let (field, value, why, fix) = if !positive(self.c) {
            let fix = "use a positive number such as 0.1";
            ("c", self.c.to_string(), "it divides the penalty", fix)
        } else if self.max_iter == 0 {
            let why = "the probe would learn nothing";
            ("max_iter", "0".into(), why, "use 1 or more")
        } else if !positive(self.tolerance) {
            let fix = "use a positive number such as 1e-4";
            let why = "it limits absolute values";
            ("tolerance", self.tolerance.to_string(), why, fix)
        } else if self.max_train < 2 {
            let why = "two classes need two images";
            let value = self.max_train.to_string();
            ("max_train", value, why, "use 2 or more")
        } else {
            return Ok(());
        };
        Err(Error::config("linear probe", field, value, why, fix))
    }

    /// Fits the probe.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for a setting out of range, [`Error::Unsupported`] if the training images have only
    /// one class.
    pub fn fit(&self, train: &Features) -> Result<LinearProbe> {
        self.check()?;
        let rows = fixed_choice(train.len(), self.max_train);
        let mut classes: Vec<u32> = rows.iter().map(|row| train.labels()[*row]).collect();
        let labels = classes.clone();
        classes.sort_unstable();
        classes.dedup();
        if classes.len() < 2 {
            return Err(Error::unsupported(
                "a linear probe of one class",
                format!(
                    "all {} training images have label {}",
                    rows.len(),
                    labels[0]
                ),
                "use training data of two or more classes",
            ));
        }
        let targets: Vec<u32> = labels
            .iter()
            .map(|label| position(&classes, *label))
            .collect();
        let scaler = Scaler::fit(train, &rows);
        let values: Vec<f64> = rows
            .iter()
            .flat_map(|row| scaler.apply(train, *row))
            .collect();
        let xs = Tensor::from_vec(values, (rows.len(), train.dim()), &Device::Cpu)?;
        let regression = LogisticRegression {
            penalty: 1. / (self.c * rows.len() as f64),
            intercept: true,
            max_iter: self.max_iter,
            tolerance: self.tolerance,
        };
        Ok(LinearProbe {
            logistic: regression.fit(&xs, &targets, classes.len())?,
            scaler,
            classes,
        })
    }
}

/// The index of `label` in sorted `classes`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "classes are distinct u32 values"
)]
fn position(classes: &[u32], label: u32) -> u32 {
    classes.partition_point(|class| *class < label) as u32
}

/// A fitted linear probe.
#[derive(Debug, Clone)]
pub struct LinearProbe {
    scaler: Scaler,
    logistic: Logistic,
    classes: Vec<u32>,
}

impl LinearProbe {
    /// The classifier on standardised features; its classes are those of the training images, in ascending order.
    pub fn logistic(&self) -> &Logistic {
        &self.logistic
    }

    /// The most likely class of each image; ties go to the lowest.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the width of the features differs.
    pub fn predict(&self, features: &Features) -> Result<Vec<u32>> {
        let mut predictions = Vec::with_capacity(features.len());
        self.each_chunk(features, |logits| {
            let best = logits.argmax(1)?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
            predictions.extend(best.iter().map(|class| self.classes[*class as usize]));
            Ok(())
        })?;
        Ok(predictions)
    }

    /// How often the right class is the most likely one, and how often among the five most likely. Ties go to the lower
    /// class.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the width of the features differs.
    pub fn accuracies(&self, features: &Features) -> Result<Accuracy> {
        Ok(self.scores(features)?.accuracy())
    }

    /// Scores of each image.
    ///
    /// # Errors
    ///
    /// As [`LinearProbe::accuracies`].
    pub fn scores(&self, features: &Features) -> Result<Scores> {
        let labels = features.labels();
        let all = labels.iter().chain(&self.classes).max();
        let count = all.map_or(0, |class| *class as usize + 1);
        let (mut labels, mut scores) = (labels.iter(), Scores::default());
        self.each_chunk(features, |logits| {
            for (row, label) in logits.to_vec2::<f64>()?.iter().zip(&mut labels) {
                // Classes without training images stay at minus infinity.
                let mut by_class = vec![f64::NEG_INFINITY; count];
                for (class, logit) in self.classes.iter().zip(row) {
                    by_class[*class as usize] = *logit;
                }
                scores.push(*label, &by_class);
            }
            Ok(())
        })?;
        Ok(scores)
    }

    /// Passes on the logits `[images, classes]` of chunks of images, in order.
    fn each_chunk(
        &self,
        features: &Features,
        mut take: impl FnMut(Tensor) -> Result<()>,
    ) -> Result<()> {
        if features.dim() != self.scaler.mean.len() {
            return Err(Error::shape(
                "features for the linear probe",
                format!("width {}, like the training images", self.scaler.mean.len()),
                features.dim(),
                "extract both with the same encoder and views",
            ));
        }
        for start in (0..features.len()).step_by(CHUNK) {
            let rows = start..features.len().min(start + CHUNK);
            let shape = (rows.len(), features.dim());
            let values = rows.flat_map(|row| self.scaler.apply(features, row));
            let values = Tensor::from_vec(values.collect::<Vec<f64>>(), shape, &Device::Cpu)?;
            take(self.logistic.logits(&values)?)?;
        }
        Ok(())
    }
}

/// Mean and reciprocal deviation of each column, as in scikit-learn's `StandardScaler`.
#[derive(Debug, Clone)]
struct Scaler {
    mean: Vec<f64>,
    scale: Vec<f64>,
}

impl Scaler {
    /// Population deviations; a column that is constant up to rounding is only centred.
    fn fit(features: &Features, rows: &[usize]) -> Self {
        let count = rows.len() as f64;
        let columns = |term: &dyn Fn(usize, f64) -> f64| {
            let mut sums = vec![0.; features.dim()];
            for row in rows {
                for (column, (sum, value)) in sums.iter_mut().zip(features.row(*row)).enumerate() {
                    *sum += term(column, f64::from(*value));
                }
            }
            sums.iter_mut().for_each(|sum| *sum /= count);
            sums
        };
        let mean = columns(&|_, value| value);
        let variance = columns(&|column, value| (value - mean[column]).powi(2));
        let scale = mean.iter().zip(variance).map(|(mean, variance)| {
            let rounding = count * f64::EPSILON * variance + (count * mean * f64::EPSILON).powi(2);
            if variance <= rounding {
                1.
            } else {
                variance.sqrt().recip()
            }
        });
        Self {
            scale: scale.collect(),
            mean,
        }
    }

    fn apply<'a>(
        &'a self,
        features: &'a Features,
        row: usize,
    ) -> impl Iterator<Item = f64> + use<'a> {
        let columns = self.mean.iter().zip(&self.scale);
        features
            .row(row)
            .iter()
            .zip(columns)
            .map(|(value, (mean, scale))| (f64::from(*value) - mean) * scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(values: &[f32], dim: usize, labels: &[u32]) -> Features {
        Features::new(values.to_vec(), dim, labels.to_vec()).unwrap()
    }

    #[test]
    fn standardises_with_the_population_deviation_and_centres_constants() {
        let xs = features(&[1., 0.1, 3., 0.1, 5., 0.1], 2, &[0, 0, 1]);
        let scaler = Scaler::fit(&xs, &[0, 1, 2]);
        let deviation = (8f64 / 3.).sqrt();
        assert!((scaler.mean[0] - 3.).abs() < 1e-12);
        assert!((scaler.scale[0] * deviation - 1.).abs() < 1e-12);
        assert_eq!(scaler.scale[1], 1.);
        let row: Vec<f64> = scaler.apply(&xs, 2).collect();
        assert!((row[0] - 2. / deviation).abs() < 1e-12 && row[1].abs() < 1e-12);
    }

    #[test]
    fn matches_the_closed_form_for_two_points() {
        // Standardised to -1 and 1, with weights w and -w.
        let train = features(&[3., 7.], 1, &[4, 9]);
        let config = LinearConfig {
            tolerance: 1e-12,
            ..LinearConfig::default()
        };
        let probe = config.fit(&train).unwrap();
        let weight: Vec<f64> = probe
            .logistic
            .weight
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        let w = weight[1];
        assert!((weight[0] + w).abs() < 1e-9);
        // d/dw of 2 ln(1 + exp(-2w)) + (2 w^2) / (2 c) is zero.
        assert!(
            (w / config.c - 2. / ((2. * w).exp() + 1.)).abs() < 1e-9,
            "{w}"
        );
        assert_eq!(
            probe.predict(&features(&[0., 10.], 1, &[0, 0])).unwrap(),
            [4, 9]
        );
        assert_eq!(
            probe
                .accuracies(&features(&[0., 10.], 1, &[4, 4]))
                .unwrap()
                .top1,
            50.
        );
    }

    #[test]
    fn refuses_one_class_and_other_widths() {
        let config = LinearConfig::default();
        let error = config.fit(&features(&[1., 2.], 1, &[3, 3])).unwrap_err();
        assert!(error.to_string().contains("label 3"), "{error}");
        let probe = config.fit(&features(&[1., 2.], 1, &[0, 1])).unwrap();
        let error = probe.predict(&features(&[1., 2.], 2, &[0])).unwrap_err();
        assert!(error.to_string().contains("width 1"), "{error}");
    }
}
