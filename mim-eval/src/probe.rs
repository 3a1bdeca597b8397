//! Linear probe and k-NN on one pair of feature sets.

use mim_core::Result;
use serde::{Deserialize, Serialize};

use crate::{EvalConfig, Features};

/// Accuracy in percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// How often the right class comes first.
    pub top1: f64,
    /// How often the right class is among the first five.
    pub top5: f64,
}

/// Accuracies on the test images, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Linear probe, see [`LinearConfig`](crate::LinearConfig).
    pub linear_top1: f64,
    /// Linear probe, top-5.
    pub linear_top5: f64,
    /// Nearest neighbours, see [`KnnConfig`](crate::KnnConfig).
    pub knn_top1: f64,
    /// Nearest neighbours, top-5.
    pub knn_top5: f64,
}

/// Fits the linear probe and the nearest neighbours to `train` and measures both on `test`.
///
/// # Errors
///
/// [`Error::InvalidConfig`](mim_core::Error) for a setting that is out of range or does not match the data,
/// [`Error::Shape`](mim_core::Error) if the features differ in width.
pub fn probe(train: &Features, test: &Features, config: &EvalConfig) -> Result<ProbeResult> {
    config.check()?;
    train.check_pair(test)?;
    let neighbours = config.knn.accuracy(train, test)?;
    let linear = config.linear.fit(train)?.accuracies(test)?;
    Ok(ProbeResult {
        linear_top1: linear.top1,
        linear_top5: linear.top5,
        knn_top1: neighbours.top1,
        knn_top5: neighbours.top5,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KnnConfig;

    #[test]
    fn separates_separable_classes_and_repeats() {
        let direction = |class: u32| [[1., 0., 0.], [0., 1., 0.], [0., 0., 1.]][class as usize];
        let set = |count: u32, bend: f32| {
            let labels: Vec<u32> = (0..count).map(|i| i % 3).collect();
            let rows = labels.iter().zip(0..).flat_map(|(class, i)| {
                direction(*class).map(|v: f32| v + bend * ((i * 7 % 5) as f32 - 2.))
            });
            Features::new(rows.collect(), 3, labels).unwrap()
        };
        let config = EvalConfig {
            knn: KnnConfig {
                k: 5,
                ..KnnConfig::default()
            },
            ..EvalConfig::default()
        };
        let result = probe(&set(30, 0.1), &set(12, 0.05), &config).unwrap();
        assert_eq!(
            (result.linear_top1, result.knn_top1, result.knn_top5),
            (100., 100., 100.)
        );
        assert_eq!(
            probe(&set(30, 0.1), &set(12, 0.05), &config).unwrap(),
            result
        );
    }

    #[test]
    fn settings_are_checked_against_the_data() {
        let few = Features::new(vec![0., 1.], 1, vec![0, 1]).unwrap();
        let error = probe(&few, &few, &EvalConfig::default()).unwrap_err();
        assert!(error.to_string().contains("`k` is 20"), "{error}");
    }
}
