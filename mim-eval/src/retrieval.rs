//! Image retrieval by class.

use candle_core::Tensor;
use mim_core::parts::Part;
use mim_core::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Features;
use crate::protocol::{Outcome, ProtocolSettings, not_empty};

/// Maximum number of similarities in memory: 64 MiB.
const SIMILARITIES: usize = 1 << 24;

/// Settings of image retrieval: each test image is a query for training images of its class, ranked by cosine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrievalConfig {
    /// Numbers k for recall@k: how often one of the k nearest images has the class. Default 1, 5, 10.
    pub recall_at: Vec<usize>,
}

impl Default for RetrievalConfig {
    fn default() -> Self {
        Self {
            recall_at: vec![1, 5, 10],
        }
    }
}

impl Part for RetrievalConfig {
    const ABOUT: &'static str =
        "retrieval of training images of the same class: recall@k and mean average precision";
    const PAPER: &'static str =
        "recall@k as in Jegou et al., TPAMI 2011; average precision over the whole ranking";
}

impl ProtocolSettings for RetrievalConfig {
    fn measure(&self, train: &Features, test: &Features) -> Result<Outcome> {
        not_empty("retrieval", "recall_at", &self.recall_at)?;
        train.check_classes("retrieval")?;
        if let Some(k) = self
            .recall_at
            .iter()
            .find(|k| **k == 0 || **k > train.len())
        {
            let why = format!("there are {} training images", train.len());
            let fix = format!("use numbers from 1 to {}", train.len());
            return Err(Error::config("retrieval", "recall_at", k, why, fix));
        }
        train.check_pair(test)?;
        let bank = train.units()?.t()?;
        let (mut found, mut precisions) = (vec![0usize; self.recall_at.len()], Vec::new());
        let chunk = (SIMILARITIES / train.len()).max(1);
        let units = test.units()?;
        for start in (0..test.len()).step_by(chunk) {
            let count = chunk.min(test.len() - start);
            let rows = units.narrow(0, start, count)?.matmul(&bank)?;
            let rows: Vec<f32> = rows.flatten_all()?.to_vec1()?;
            let labels = &test.labels()[start..start + count];
            let ranked: Vec<_> = rows
                .par_chunks_exact(train.len())
                .zip(labels)
                .map(|(row, label)| ranking(row, train.labels(), *label))
                .collect();
            for (first, precision) in ranked {
                for (found, k) in found.iter_mut().zip(&self.recall_at) {
                    *found += usize::from(first.is_some_and(|first| first < *k));
                }
                precisions.extend(precision);
            }
        }
        if precisions.is_empty() {
            let why = "no test image has a class from the training images";
            let fix = "use splits with the same classes";
            return Err(Error::unsupported("retrieval", why, fix));
        }
        let mut outcome = Outcome::default();
        for (found, k) in found.iter().zip(&self.recall_at) {
            outcome.push(
                format!("recall_at_{k}"),
                100. * *found as f64 / test.len() as f64,
            );
        }
        let mean = precisions.iter().sum::<f64>() / precisions.len() as f64;
        outcome.push("map", 100. * mean);
        Ok(outcome)
    }
}

/// The rank, from 0, of the first image of the class, and the average precision; `None` if no image has the class. Ties
/// go to the earlier image.
fn ranking(similarities: &[f32], labels: &[u32], label: u32) -> (Option<usize>, Option<f64>) {
    let mut order: Vec<usize> = (0..similarities.len()).collect();
    order.sort_by(|a, b| similarities[*b].total_cmp(&similarities[*a]).then(a.cmp(b)));
    let right = order
        .iter()
        .enumerate()
        .filter(|(_, image)| labels[**image] == label);
    let ranks: Vec<usize> = right.map(|(rank, _)| rank).collect();
    let precisions = ranks
        .iter()
        .zip(1..)
        .map(|(rank, found)| f64::from(found) / (rank + 1) as f64);
    let sum: f64 = precisions.sum();
    match ranks.first() {
        None => (None, None),
        Some(first) => (Some(*first), Some(sum / ranks.len() as f64)),
    }
}

impl Features {
    /// The rows scaled to length 1, `[len, dim]`.
    pub(crate) fn units(&self) -> Result<Tensor> {
        crate::knn::units(self.values(), self.dim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(values: &[f32], labels: &[u32]) -> Features {
        Features::new(values.to_vec(), 2, labels.to_vec()).unwrap()
    }

    #[test]
    fn known_ranking() {
        // Nearest first: classes 1, 0, 1, 0.
        let train = features(&[1., 0., 1., 0.2, 1., 0.5, 0., 1.], &[1, 0, 1, 0]);
        let test = features(&[1., 0.], &[1]);
        let config = RetrievalConfig {
            recall_at: vec![1, 2],
        };
        let outcome = config.measure(&train, &test).unwrap();
        let values: Vec<f64> = outcome.figures.iter().map(|(_, value)| *value).collect();
        assert_eq!(values[..2], [100., 100.]);
        // Precision is 1 at the first rank and 2/3 at the third.
        assert!((values[2] - 100. * (1. + 2. / 3.) / 2.).abs() < 1e-9);
        let other = config.measure(&train, &features(&[1., 0.], &[0])).unwrap();
        assert_eq!(other.figures[0].1, 0.);
        assert_eq!(other.figures[1].1, 100.);
    }

    #[test]
    fn invalid_rankings_are_refused() {
        let train = features(&[1., 0., 0., 1.], &[1, 2]);
        let config = RetrievalConfig { recall_at: vec![3] };
        let error = config.measure(&train, &train).unwrap_err();
        assert!(error.to_string().contains("2 training images"), "{error}");
        let config = RetrievalConfig { recall_at: vec![1] };
        let error = config
            .measure(&train, &features(&[1., 0.], &[3]))
            .unwrap_err();
        assert!(error.to_string().contains("no test image"), "{error}");
        let one = features(&[1., 0.], &[1]);
        let error = config.measure(&one, &one).unwrap_err();
        assert!(
            error.to_string().contains("retrieval of one class"),
            "{error}"
        );
    }
}
