//! Weighted nearest-neighbour classifier (k-NN).

use candle_core::{Device, Tensor};
use mim_core::parts::Part;
use mim_core::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::protocol::{Outcome, ProtocolSettings};
use crate::split::of_each_class;
use crate::{Accuracy, Features, Scores};

/// Maximum number of similarities in memory: 64 MiB.
const SIMILARITIES: usize = 1 << 24;
/// Smaller norms count as this, as in PyTorch's `normalize`.
const LEAST_NORM: f32 = 1e-12;
/// Below this, `exp(1 / temperature)` overflows.
const LEAST_TEMPERATURE: f64 = 0.002;

/// Settings of the nearest-neighbour classifier of DINO and iBOT.
///
/// Features are scaled to length 1. Each of the `k` training images with the greatest cosine adds
/// `exp(cosine / temperature)` to the votes for its class. Zhou et al., "iBOT", ICLR 2022; bytedance/ibot @ da316d8,
/// `evaluation/eval_knn.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KnnConfig {
    /// Number of neighbours. Default 20.
    pub k: usize,
    /// Temperature of the cosines. Default 0.07.
    pub temperature: f64,
    /// Candidates for the number of neighbours, which replace `k`: the best one is chosen on a fifth of the training
    /// images. Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub k_sweep: Vec<usize>,
    /// Candidates for the temperature, chosen in the same way. Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub temperature_sweep: Vec<f64>,
}

impl Default for KnnConfig {
    fn default() -> Self {
        Self {
            k: 20,
            temperature: 0.07,
            k_sweep: vec![],
            temperature_sweep: vec![],
        }
    }
}

impl Part for KnnConfig {
    const ABOUT: &'static str =
        "the votes of the nearest training images, weighted by their cosine";
    const PAPER: &'static str = "iBOT: Zhou et al., ICLR 2022, arXiv 2111.07832";
}

impl ProtocolSettings for KnnConfig {
    fn measure(&self, train: &Features, test: &Features) -> Result<Outcome> {
        let best = self.swept(train)?;
        let mut outcome = Outcome::of_scores(best.scores(train, test)?)?;
        outcome.push("k", best.k as f64);
        outcome.push("temperature", best.temperature);
        Ok(outcome)
    }
}

impl KnnConfig {
    /// The candidate settings that do best on a fifth of the training images; ties go to the
    /// first.
    fn swept(&self, train: &Features) -> Result<Self> {
        let plain = Self {
            k_sweep: vec![],
            temperature_sweep: vec![],
            ..self.clone()
        };
        if self.k_sweep.is_empty() && self.temperature_sweep.is_empty() {
            return Ok(plain);
        }
        let or = |sweep: &[usize], own: usize| {
            if sweep.is_empty() {
                vec![own]
            } else {
                sweep.to_vec()
            }
        };
        let temperatures = match self.temperature_sweep.as_slice() {
            [] => vec![self.temperature],
            sweep => sweep.to_vec(),
        };
        let (held, rest) = of_each_class(train, (0, 0), |images| images / 5);
        held.check_sweep()?;
        let mut best: Option<(f64, Self)> = None;
        for k in or(&self.k_sweep, self.k) {
            for temperature in &temperatures {
                let tried = Self {
                    k,
                    temperature: *temperature,
                    ..plain.clone()
                };
                let top1 = tried.accuracy(&rest, &held)?.top1;
                if best.as_ref().is_none_or(|(most, _)| top1 > *most) {
                    best = Some((top1, tried));
                }
            }
        }
        Ok(best.map_or(plain, |(_, best)| best))
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first invalid setting.
    pub fn check(&self) -> Result<()> {
        if self.k == 0 {
            return Err(Error::config(
                "k-NN",
                "k",
                0,
                "there would be no votes",
                "use 1 or more",
            ));
        }
        if !(self.temperature >= LEAST_TEMPERATURE && self.temperature.is_finite()) {
            return Err(Error::config(
                "k-NN",
                "temperature",
                self.temperature,
                format!(
                    "votes are exp(cosine / temperature), which overflow below {LEAST_TEMPERATURE}"
                ),
                "use a number such as 0.07",
            ));
        }
        Ok(())
    }

    /// Classifies the test images by the training images. Ties between classes go to the lower one, ties between
    /// neighbours to the earlier one.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for a setting out of range or more neighbours than training images;
    /// [`Error::Unsupported`] if all training images are of one class; [`Error::Shape`] if the widths differ.
    pub fn accuracy(&self, train: &Features, test: &Features) -> Result<Accuracy> {
        Ok(self.scores(train, test)?.accuracy())
    }

    /// Scores of each test image from the votes.
    ///
    /// # Errors
    ///
    /// As [`KnnConfig::accuracy`].
    pub fn scores(&self, train: &Features, test: &Features) -> Result<Scores> {
        let (mut labels, mut scores) = (test.labels().iter(), Scores::default());
        self.each_chunk(train, test, |votes| {
            for (votes, label) in votes.iter().zip(&mut labels) {
                scores.push(*label, votes);
            }
        })?;
        Ok(scores)
    }

    /// The votes for each class, for every test image.
    ///
    /// # Errors
    ///
    /// As [`KnnConfig::accuracy`].
    pub fn votes(&self, train: &Features, test: &Features) -> Result<Vec<Vec<f64>>> {
        let mut all = Vec::with_capacity(test.len());
        self.each_chunk(train, test, |votes| all.extend(votes))?;
        Ok(all)
    }

    /// Passes on the votes for chunks of test images, in order.
    fn each_chunk(
        &self,
        train: &Features,
        test: &Features,
        mut take: impl FnMut(Vec<Vec<f64>>),
    ) -> Result<()> {
        self.check()?;
        train.check_pair(test)?;
        train.check_classes("k-NN")?;
        if self.k > train.len() {
            return Err(Error::config(
                "k-NN",
                "k",
                self.k,
                format!("there are only {} training images", train.len()),
                "use fewer neighbours or more training images",
            ));
        }
        let labels = train.labels().iter().chain(test.labels());
        let classes = labels.max().map_or(0, |label| *label as usize + 1);
        let bank = units(train.values(), train.dim())?.t()?;
        let rows = (SIMILARITIES / train.len()).max(1);
        for values in test.values().chunks(rows * test.dim()) {
            let similarities = units(values, test.dim())?.matmul(&bank)?;
            let similarities: Vec<f32> = similarities.flatten_all()?.to_vec1()?;
            let votes = similarities.par_chunks_exact(train.len()).map(|row| {
                let mut votes = vec![0.; classes];
                for (index, similarity) in nearest(row, self.k) {
                    votes[train.labels()[index] as usize] +=
                        (f64::from(similarity) / self.temperature).exp();
                }
                votes
            });
            take(votes.collect());
        }
        Ok(())
    }
}

/// Rows of width `dim` scaled to length 1.
pub(crate) fn units(values: &[f32], dim: usize) -> Result<Tensor> {
    let rows = values.chunks_exact(dim).flat_map(|row| {
        let norm = row
            .iter()
            .map(|v| v * v)
            .sum::<f32>()
            .sqrt()
            .max(LEAST_NORM);
        row.iter().map(move |v| v / norm)
    });
    Ok(Tensor::from_vec(
        rows.collect::<Vec<f32>>(),
        (values.len() / dim, dim),
        &Device::Cpu,
    )?)
}

/// The `k` greatest values with their indices, greatest first; ties go to the earlier one.
fn nearest(row: &[f32], k: usize) -> Vec<(usize, f32)> {
    let mut best: Vec<(usize, f32)> = Vec::with_capacity(k + 1);
    let mut least = f32::NEG_INFINITY;
    for (index, value) in row.iter().enumerate() {
        if best.len() == k && *value <= least {
            continue;
        }
        let place = best.partition_point(|(_, other)| other >= value);
        best.insert(place, (index, *value));
        best.truncate(k);
        least = best.last().map_or(least, |(_, value)| *value);
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scores::rank;

    fn features(values: &[f32], labels: &[u32]) -> Features {
        Features::new(
            values.to_vec(),
            values.len() / labels.len(),
            labels.to_vec(),
        )
        .unwrap()
    }

    #[test]
    fn votes_grow_with_the_cosine_for_any_length() {
        let train = features(&[2., 0., 0., 9., -1., 0.], &[1, 0, 2]);
        let test = features(&[0.6, 0.8], &[0]);
        let config = KnnConfig {
            k: 2,
            temperature: 0.5,
            ..KnnConfig::default()
        };
        let votes = config.votes(&train, &test).unwrap();
        let want = [1.6f64.exp(), 1.2f64.exp(), 0.];
        for (got, want) in votes[0].iter().zip(want) {
            assert!((got - want).abs() < 1e-5, "{votes:?}");
        }
    }

    #[test]
    fn ties_go_to_earlier_neighbours_and_lower_classes() {
        let train = features(&[1., 1., 1.], &[2, 1, 0]);
        let one = KnnConfig {
            k: 1,
            ..KnnConfig::default()
        };
        let test = features(&[1.], &[2]);
        assert_eq!(one.accuracy(&train, &test).unwrap().top1, 100.);
        let two = KnnConfig {
            k: 2,
            ..one.clone()
        };
        assert_eq!(two.accuracy(&train, &test).unwrap().top1, 0.);
        assert_eq!(
            two.accuracy(&train, &features(&[1.], &[1])).unwrap().top1,
            100.
        );
    }

    #[test]
    fn zero_features_and_unknown_classes_are_allowed() {
        let train = features(&[1., 0., 0., 1.], &[0, 1]);
        let test = features(&[0., 0., 1., 0.], &[7, 0]);
        let config = KnnConfig {
            k: 2,
            ..KnnConfig::default()
        };
        assert_eq!(config.accuracy(&train, &test).unwrap().top1, 50.);
    }

    #[test]
    fn refuses_one_class_and_more_neighbours_than_images() {
        let same = features(&[1., 2., 3.], &[1, 1, 1]);
        let error = KnnConfig::default().accuracy(&same, &same).unwrap_err();
        assert!(error.to_string().contains("k-NN of one class"), "{error}");

        let xs = features(&[1., 2., 3.], &[0, 1, 1]);
        let error = KnnConfig::default().accuracy(&xs, &xs).unwrap_err();
        assert!(
            error.to_string().contains("only 3 training images"),
            "{error}"
        );
        let wide = features(&[1., 2.], &[0]);
        let one = KnnConfig {
            k: 1,
            ..KnnConfig::default()
        };
        assert!(
            one.accuracy(&xs, &wide)
                .unwrap_err()
                .to_string()
                .contains("width 1")
        );
    }

    #[test]
    fn a_sweep_needs_images_to_choose_on() {
        let xs = features(&[1., 2.], &[0, 1]);
        let config = KnnConfig {
            k_sweep: vec![1],
            ..KnnConfig::default()
        };
        let error = config.measure(&xs, &xs).unwrap_err().to_string();
        assert!(error.contains("five training images"), "{error}");
    }

    proptest! {
        #[test]
        fn nearest_are_the_first_of_a_stable_sort(
            row in prop::collection::vec((0..5i16).prop_map(f32::from), 1..40),
            k in 1..40usize,
        ) {
            let k = k.min(row.len());
            let mut sorted: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            prop_assert_eq!(nearest(&row, k), &sorted[..k]);
        }

        #[test]
        fn ranks_are_a_permutation(votes in prop::collection::vec((0..4i16).prop_map(f64::from), 1..12)) {
            let mut ranks: Vec<usize> = (0..votes.len()).map(|class| rank(&votes, class)).collect();
            ranks.sort_unstable();
            prop_assert_eq!(ranks, (0..votes.len()).collect::<Vec<_>>());
        }
    }
}
