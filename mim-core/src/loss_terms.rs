//! Named losses.

use candle_core::{DType, Tensor};

use crate::{Error, Result};

/// Named f32 scalars with weights, and metrics without gradient.
#[derive(Debug, Clone, Default)]
pub struct LossTerms {
    terms: Vec<(String, Tensor, f64)>,
    metrics: Vec<(String, f64)>,
}

impl LossTerms {
    /// One term of weight 1.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if `value` is not an f32 scalar.
    pub fn single(name: impl Into<String>, value: Tensor) -> Result<Self> {
        let mut terms = Self::default();
        terms.push(name, value, 1.)?;
        Ok(terms)
    }

    /// Adds a term.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if `value` is not an f32 scalar.
    pub fn push(&mut self, name: impl Into<String>, value: Tensor, weight: f64) -> Result<()> {
        let name = name.into();
        if value.rank() != 0 || value.dtype() != DType::F32 {
            return Err(Error::shape(
                format!("loss term `{name}`"),
                "an f32 scalar",
                (value.dims(), value.dtype()),
                "reduce the loss in f32",
            ));
        }
        self.terms.push((name, value, weight));
        Ok(())
    }

    /// Adds all terms and metrics of `other`, with its weights multiplied by `weight`.
    pub fn extend(&mut self, other: Self, weight: f64) {
        self.terms.extend(
            other
                .terms
                .into_iter()
                .map(|(name, value, own)| (name, value, own * weight)),
        );
        self.metrics.extend(other.metrics);
    }

    /// Renames terms and metrics as parts of `branch`: a single term becomes `branch`, several become `branch.name`.
    #[must_use]
    pub fn prefixed(mut self, branch: &str) -> Self {
        let single = self.terms.len() == 1;
        let under = |name: &str| format!("{branch}.{name}");
        for (name, ..) in &mut self.terms {
            *name = if single {
                branch.to_owned()
            } else {
                under(name)
            };
        }
        for (name, _) in &mut self.metrics {
            *name = under(name);
        }
        self
    }

    /// Adds a number for the log.
    pub fn metric(&mut self, name: impl Into<String>, value: f64) {
        self.metrics.push((name.into(), value));
    }

    /// The terms: (name, scalar, weight).
    pub fn terms(&self) -> &[(String, Tensor, f64)] {
        &self.terms
    }

    /// The metrics: (name, value).
    pub fn metrics(&self) -> &[(String, f64)] {
        &self.metrics
    }

    /// The weighted sum, for the backward pass.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if there are no terms.
    pub fn total(&self) -> Result<Tensor> {
        let mut total: Option<Tensor> = None;
        for (_, value, weight) in &self.terms {
            let term = if *weight == 1. {
                value.clone()
            } else {
                (value * *weight)?
            };
            total = Some(match total {
                Some(sum) => (sum + term)?,
                None => term,
            });
        }
        total.ok_or_else(|| {
            Error::shape("loss", "at least one term", 0, "add a branch to the method")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn total_is_the_weighted_sum() {
        let scalar = |v: f32| Tensor::new(v, &Device::Cpu).unwrap();
        let mut terms = LossTerms::single("pixel", scalar(2.)).unwrap();
        terms.extend(LossTerms::single("feature", scalar(3.)).unwrap(), 0.5);
        assert_eq!(terms.total().unwrap().to_scalar::<f32>().unwrap(), 3.5);
        assert!(LossTerms::default().total().is_err());
        assert!(LossTerms::single("row", Tensor::new(&[1f32], &Device::Cpu).unwrap()).is_err());
    }
}
