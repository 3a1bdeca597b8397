//! Online clustering: clusters are learned while they serve as targets.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

use super::Linear;
use crate::comm::Reduce;
use crate::params::Params;
use crate::{Error, Result, StepContext, ops};

/// Smaller lengths count as this.
const LEAST_LENGTH: f64 = 1e-7;
/// Added to exponents, so that small ones are not lost in f32.
const SHIFT: f64 = 50.;
/// Added to divisors.
const LEAST_SUM: f64 = 1e-8;

/// Settings of [`OnlineClustering`]; `Default` is CAPI's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OnlineClusteringConfig {
    /// Number of clusters. Default 16384.
    pub num_clusters: usize,
    /// Whether the layer has a bias. Default true.
    pub bias: bool,
    /// Temperature of the assignments. Default 0.06.
    pub target_temp: f64,
    /// Temperature of the head's own loss. Default 0.12.
    pub pred_temp: f64,
    /// Rounds of Sinkhorn balancing. Default 3.
    pub iterations: usize,
    /// Whether to balance clusters over the batch at each position separately, instead of over all tokens. Default
    /// true.
    pub by_position: bool,
}

impl Default for OnlineClusteringConfig {
    fn default() -> Self {
        Self {
            num_clusters: 16_384,
            bias: true,
            target_temp: 0.06,
            pred_temp: 0.12,
            iterations: 3,
            by_position: true,
        }
    }
}

impl OnlineClusteringConfig {
    /// Checks the settings and builds the head for features of `dim` values under `params`: `layer.weight`,
    /// `layer.bias`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a number is not positive.
    pub fn build(&self, params: &Params, dim: usize) -> Result<OnlineClustering> {
        let numbers = [
            ("num_clusters", self.num_clusters as f64),
            ("iterations", self.iterations as f64),
            ("target_temp", self.target_temp),
            ("pred_temp", self.pred_temp),
        ];
        if let Some((field, value)) = numbers
            .into_iter()
            .find(|(_, value)| value.is_nan() || *value <= 0.)
        {
            let (why, fix) = ("it must be positive", "remove it to use the paper's value");
            return Err(Error::config("clustering", field, value, why, fix));
        }
        let params = params.pp("layer");
        let layer = match self.bias {
            true => Linear::new(&params, dim, self.num_clusters)?,
            false => Linear::no_bias(&params, dim, self.num_clusters)?,
        };
        Ok(OnlineClustering {
            layer,
            config: self.clone(),
        })
    }
}

/// Output of a clustering head.
#[derive(Debug, Clone)]
pub struct Clustered {
    /// `[positions, images, clusters]`.
    pub logits: Tensor,
    /// Soft cluster assignments of each token, in the shape of the logits; they sum to one per token. No gradient.
    pub assignments: Tensor,
    /// Training loss of the head, a scalar: cross-entropy between its logits and its assignments, mean over tokens.
    pub loss: Tensor,
}

/// A linear layer whose outputs, balanced over the clusters, are soft assignments (CAPI, Darcet et al., TMLR 2025,
/// section 3.2).
///
/// Balancing covers the images of all processes.
#[derive(Debug, Clone)]
pub struct OnlineClustering {
    layer: Linear,
    config: OnlineClusteringConfig,
}

impl OnlineClustering {
    /// Clusters features `[positions, images, dim]`; the features get no gradient.
    ///
    /// # Errors
    ///
    /// If the last axis is not `dim` wide.
    pub fn forward(&self, features: &Tensor, step: &StepContext) -> Result<Clustered> {
        let features = features.detach();
        let squares = features.sqr()?.sum_keepdim(D::Minus1)?;
        let lengths = squares.sqrt()?.maximum(LEAST_LENGTH)?;
        let logits = self.layer.forward(&features.broadcast_div(&lengths)?)?;
        let assignments = self.assign(&logits.detach(), step)?;
        let rows = |xs: &Tensor| xs.flatten(0, 1);
        let losses =
            ops::soft_cross_entropy(&rows(&logits)?, &rows(&assignments)?, self.config.pred_temp)?;
        Ok(Clustered {
            loss: losses.mean_all()?,
            assignments,
            logits,
        })
    }

    /// Sinkhorn iterations (Cuturi, NeurIPS 2013): first clusters get equal shares of the tokens, then the assignments
    /// of each token sum to one.
    fn assign(&self, logits: &Tensor, step: &StepContext) -> Result<Tensor> {
        let (positions, images, clusters) = logits.dims3()?;
        let population = match self.config.by_position {
            true => logits.clone(),
            false => logits.reshape((1, positions * images, clusters))?,
        };
        let scaled = (population / self.config.target_temp)?;
        let largest = scaled.max_keepdim(1)?;
        let largest = match step.comm.world() {
            1 => largest,
            world => {
                let all = step.comm.all_gather(&largest.contiguous()?)?;
                let all = all.reshape((world, largest.dim(0)?, 1, clusters))?;
                all.max(0)?
            }
        };
        let mut mass = (scaled.broadcast_sub(&largest)? + SHIFT)?.exp()?;
        for _ in 0..self.config.iterations {
            let mut columns = mass.sum_keepdim(1)?;
            if step.comm.world() > 1 {
                columns = step.comm.all_reduce(&columns, Reduce::Sum)?;
            }
            mass = mass.broadcast_div(&(columns + LEAST_SUM)?)?;
            let rows = mass.sum_keepdim(D::Minus1)?;
            mass = mass.broadcast_div(&(rows + LEAST_SUM)?)?;
        }
        Ok(mass.reshape((positions, images, clusters))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use crate::objectives::testing::noise;

    #[test]
    fn assignments_are_balanced_and_only_the_head_learns() {
        let store = ParamStore::cpu(0);
        let config = OnlineClusteringConfig {
            num_clusters: 3,
            target_temp: 1.,
            iterations: 30,
            ..OnlineClusteringConfig::default()
        };
        let head = config.build(&store.root(), 4).unwrap();
        let features = candle_core::Var::from_tensor(&noise(&[2, 6, 4], 1)).unwrap();
        let step = StepContext::new(0);
        let clustered = head.forward(features.as_tensor(), &step).unwrap();
        let sums = |axis: usize| -> Vec<f32> {
            let sums = clustered.assignments.sum(axis).unwrap();
            sums.flatten_all().unwrap().to_vec1().unwrap()
        };
        assert!(sums(2).iter().all(|sum| (sum - 1.).abs() < 1e-5));
        // Six images share three clusters.
        assert!(
            sums(1).iter().all(|sum| (sum - 2.).abs() < 0.05),
            "{:?}",
            sums(1)
        );
        let grads = clustered.loss.backward().unwrap();
        assert!(grads.get(&features).is_none());
        for (name, var) in store.trainable() {
            assert!(grads.get(&var).is_some(), "{name}");
        }
        let one = head.forward(&noise(&[2, 1, 4], 1), &step).unwrap();
        let all: Vec<f32> = one.assignments.flatten_all().unwrap().to_vec1().unwrap();
        // A single image belongs to all clusters equally.
        assert!(all.iter().all(|share| (share - 1. / 3.).abs() < 1e-5));
    }

    #[test]
    fn invalid_settings_are_named() {
        type Wrong = (&'static str, fn(&mut OnlineClusteringConfig));
        let wrong: [Wrong; 3] = [
            ("`num_clusters` is 0", |c| c.num_clusters = 0),
            ("`iterations` is 0", |c| c.iterations = 0),
            ("`pred_temp` is -1", |c| c.pred_temp = -1.),
        ];
        for (what, spoil) in wrong {
            let mut config = OnlineClusteringConfig::default();
            spoil(&mut config);
            let error = config.build(&ParamStore::cpu(0).root(), 4).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}
