//! Settings of a codebook.

use serde::{Deserialize, Serialize};

use super::Codebook;
use crate::params::Params;
use crate::{Error, Result};

const NAME: &str = "codebook";

/// How the nearest code is found, and how codes follow the vectors assigned to them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum CodeMetric {
    /// By angle: vectors and codes are unit vectors, and a code moves towards the mean of its vectors (BEiT v2).
    Cosine,
    /// By distance: a code is the moving sum of its vectors divided by their moving count, smoothed by `eps` (VQ-VAE).
    Euclidean {
        /// Added to every count, so that no count is zero.
        eps: f64,
    },
}

/// Settings of [`Codebook`]; `Default` is BEiT v2's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CodebookConfig {
    /// Number of codes. Default 8192.
    pub size: usize,
    /// Width of a code. Default 32.
    pub dim: usize,
    /// How the nearest code is found. Default `cosine`.
    pub metric: CodeMetric,
    /// Share of a code that each step keeps, in `[0, 1)`. Default 0.99.
    pub decay: f64,
    /// Rounds of k-means that initialise the codes from the first batch; 0 draws them at random. Default 10.
    pub kmeans: usize,
    /// A code whose moving count falls below this is replaced by a vector of the batch; `None` (the default) never
    /// replaces codes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_below: Option<f64>,
}

impl Default for CodebookConfig {
    fn default() -> Self {
        Self {
            size: 8192,
            dim: 32,
            metric: CodeMetric::Cosine,
            decay: 0.99,
            kmeans: 10,
            restart_below: None,
        }
    }
}

impl CodebookConfig {
    /// PeCo's: 8192 codes of width 256, by distance, drawn at random.
    pub fn peco() -> Self {
        Self {
            dim: 256,
            metric: CodeMetric::Euclidean { eps: 1e-5 },
            kmeans: 0,
            ..Self::default()
        }
    }

    /// Checks ranges.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first invalid setting.
    pub fn validate(&self) -> Result<()> {
        let bad = |field: &'static str, value: String, why: &'static str, fix: &'static str| {
            Err(Error::config(NAME, field, value, why, fix))
        };
        if self.size < 2 || u32::try_from(self.size).is_err() {
            let why = "a codebook needs at least two codes, and their numbers fit 32 bits";
            return bad("size", self.size.to_string(), why, "use 8192");
        }
        if self.dim == 0 {
            return bad(
                "dim",
                "0".to_owned(),
                "a code needs at least one value",
                "use 32",
            );
        }
        if !(0. ..1.).contains(&self.decay) {
            let why = "it must be in [0, 1)";
            return bad("decay", self.decay.to_string(), why, "use 0.99");
        }
        if let CodeMetric::Euclidean { eps } = self.metric
            && !(eps.is_finite() && eps > 0.)
        {
            let why = "it must be positive to keep counts from zero";
            return bad("metric.eps", eps.to_string(), why, "use 1e-5");
        }
        match self.restart_below {
            Some(count) if !(count.is_finite() && count > 0.) => {
                let why = "it is compared with a moving count, so it must be positive";
                bad(
                    "restart_below",
                    count.to_string(),
                    why,
                    "use 0.01, or remove it",
                )
            }
            _ => Ok(()),
        }
    }

    /// Checks the settings and builds the codebook under `params`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn build(&self, params: &Params) -> Result<Codebook> {
        Codebook::new(params, self)
    }
}
