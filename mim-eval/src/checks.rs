//! Checks of features before an evaluation.

use mim_core::{Error, Result};

use crate::Features;

impl Features {
    /// Refuses features of a single class: `what` would always be right.
    pub(crate) fn check_classes(&self, what: &'static str) -> Result<()> {
        let first = self.labels().first();
        if self.labels().iter().any(|label| Some(label) != first) {
            return Ok(());
        }
        let (count, label) = (self.len(), first.copied().unwrap_or_default());
        let why = format!("all {count} training images have label {label}");
        let fix = "use training data of two or more classes";
        Err(Error::unsupported(format!("{what} of one class"), why, fix))
    }

    /// Refuses to choose a setting if the validation split, a fifth of each class, is empty.
    pub(crate) fn check_sweep(&self) -> Result<()> {
        if !self.is_empty() {
            return Ok(());
        }
        let why = "it is chosen on a fifth of each class, but no class has five training images";
        let fix = "remove the sweep, or use more training images";
        Err(Error::unsupported(
            "choosing a setting of the probe",
            why,
            fix,
        ))
    }

    /// Refuses `test` features of another width.
    pub(crate) fn check_pair(&self, test: &Self) -> Result<()> {
        if self.dim() == test.dim() {
            return Ok(());
        }
        Err(Error::shape(
            "features of the test images",
            format!("width {}, like the training images", self.dim()),
            test.dim(),
            "extract both with the same encoder and views",
        ))
    }
}

/// Refuses infinite and NaN values in `[rows, dim]`; `image` names that of a row.
pub(crate) fn check_finite(
    values: &[f32],
    dim: usize,
    image: impl Fn(usize) -> String,
) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Error::unsupported(
            format!("a feature with the value {}", values[at]),
            format!(
                "value {} of image {} is not finite",
                at % dim,
                image(at / dim)
            ),
            "check that the weights belong to this encoder and that its training did not diverge",
        )),
    }
}
