//! Quality signals of features without labels.

use mim_core::parts::Part;
use mim_core::{Error, Result};
use nalgebra::DMatrix;
use serde::{Deserialize, Serialize};

use crate::Features;
use crate::protocol::{Outcome, ProtocolSettings};

/// Added to the normalised singular values in RankMe.
const RANKME_EPS: f64 = 1e-7;

/// Signals of collapse and rank.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Signals {
    /// RankMe: the exponential of the entropy of the singular values of the features, from 1 to their width
    /// (Garrido et al., ICML 2023, arXiv 2210.02885, eq. 1).
    pub rankme: f64,
    /// The same for centred features (effective rank: Roy and Vetterli, EUSIPCO 2007).
    pub effective_rank: f64,
    /// Deviation of the features scaled to length 1: its mean over columns times the square root of their number. 0 if
    /// all images have the same feature, about 1 if features are spread in all directions (Chen and He, "SimSiam",
    /// CVPR 2021, Sec. 4.1).
    pub feature_std: f64,
}

/// Settings of [`Signals`]; it has none.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignalsConfig {}

impl Part for SignalsConfig {
    const ABOUT: &'static str =
        "signals without labels: RankMe, effective rank, deviation of the features";
    const PAPER: &'static str = "RankMe: Garrido et al., ICML 2023, arXiv 2210.02885";
}

impl ProtocolSettings for SignalsConfig {
    fn measure(&self, _train: &Features, test: &Features) -> Result<Outcome> {
        let signals = Signals::of(test)?;
        let mut outcome = Outcome::default();
        outcome.push("rankme", signals.rankme);
        outcome.push("effective_rank", signals.effective_rank);
        outcome.push("feature_std", signals.feature_std);
        Ok(outcome)
    }

    fn without_labels(&self) -> bool {
        true
    }
}

impl Signals {
    /// The signals of `features`.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for fewer than two images.
    pub fn of(features: &Features) -> Result<Self> {
        let (count, dim) = (features.len(), features.dim());
        if count < 2 {
            return Err(Error::unsupported(
                "signals of one image",
                "they compare images with each other",
                "use two images or more",
            ));
        }
        let rows = || (0..count).map(|image| features.row(image));
        let mut means = vec![0.; dim];
        for row in rows() {
            for (mean, value) in means.iter_mut().zip(row) {
                *mean += f64::from(*value) / count as f64;
            }
        }
        let values = rows().flat_map(|row| row.iter().map(|value| f64::from(*value)));
        let plain = DMatrix::from_row_iterator(count, dim, values);
        let mut centred = plain.clone();
        for (mut column, mean) in centred.column_iter_mut().zip(&means) {
            column.add_scalar_mut(-mean);
        }
        Ok(Self {
            rankme: rank(&plain, RANKME_EPS),
            effective_rank: rank(&centred, 0.),
            feature_std: deviation(plain),
        })
    }
}

/// The exponential of the entropy of the normalised singular values.
fn rank(features: &DMatrix<f64>, eps: f64) -> f64 {
    // Use the smaller Gram matrix; its eigenvalues are the squared singular values.
    let gram = match features.nrows() < features.ncols() {
        true => features * features.transpose(),
        false => features.transpose() * features,
    };
    let squares = gram.symmetric_eigenvalues();
    let singular: Vec<f64> = squares.iter().map(|square| square.max(0.).sqrt()).collect();
    let sum: f64 = singular.iter().sum();
    if sum == 0. {
        return 1.;
    }
    let shares = singular.iter().map(|value| value / sum + eps);
    let entropy: f64 = shares
        .filter(|share| *share > 0.)
        .map(|share| -share * share.ln())
        .sum();
    entropy.exp()
}

/// The mean deviation of the columns after scaling rows to length 1, times the square root of their number.
fn deviation(mut features: DMatrix<f64>) -> f64 {
    for mut row in features.row_iter_mut() {
        let norm = row.norm().max(1e-12);
        row /= norm;
    }
    let dim = features.ncols() as f64;
    let deviations = features
        .column_iter()
        .map(|column| column.variance().sqrt());
    deviations.sum::<f64>() / dim * dim.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signals(values: &[f32], dim: usize) -> Signals {
        let labels = vec![0; values.len() / dim];
        Signals::of(&Features::new(values.to_vec(), dim, labels).unwrap()).unwrap()
    }

    #[test]
    fn equal_features_have_rank_one_and_zero_deviation() {
        let same = signals(&[1., 2., 3., 1., 2., 3., 1., 2., 3.], 3);
        assert!((same.rankme - 1.).abs() < 1e-4, "{same:?}");
        assert!(same.feature_std < 1e-9 && (same.effective_rank - 1.).abs() < 1e-6);
    }

    #[test]
    fn equal_directions_add_up_to_the_rank() {
        let axes = signals(&[1., 0., 0., 0., 1., 0., 0., 0., 1.], 3);
        assert!((axes.rankme - 3.).abs() < 1e-4, "{axes:?}");
        // Without their mean, three corners span a plane.
        assert!((axes.effective_rank - 2.).abs() < 1e-6, "{axes:?}");
        // Each column has the values 1, 0, 0.
        assert!(
            (axes.feature_std - (2f64 / 9.).sqrt() * 3f64.sqrt()).abs() < 1e-6,
            "{axes:?}"
        );
        let wide = signals(&[1., 0., 0., 0., 0., 0., 2., 0.], 4);
        let share = 1f64 / 3.;
        let entropy = -share * share.ln() - 2. * share * (2. * share).ln();
        assert!((wide.rankme - entropy.exp()).abs() < 1e-4, "{wide:?}");
    }

    #[test]
    fn one_image_is_refused() {
        let one = Features::new(vec![1.], 1, vec![0]).unwrap();
        assert!(Signals::of(&one).is_err());
    }
}
