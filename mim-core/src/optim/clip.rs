//! Gradient clipping.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::Gradients;
use crate::ops::MaxNorm;
use crate::{Error, Result};

/// Clips gradients before the optimizer step: factor `min(1, max_norm / (norm + 1e-6))`, as in PyTorch.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Clip {
    /// No clipping.
    #[default]
    None,
    /// One factor, from the norm over all parameters.
    Global {
        /// Maximum norm.
        max_norm: f64,
    },
    /// One factor per parameter, from its own norm (DINO, iBOT).
    PerTensor {
        /// Maximum norm.
        max_norm: f64,
    },
}

impl Clip {
    /// Checks that the maximum norm is positive.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if it is not.
    pub fn validate(&self) -> Result<()> {
        match *self {
            Self::Global { max_norm } | Self::PerTensor { max_norm }
                if max_norm.is_nan() || max_norm <= 0. =>
            {
                let (why, fix) = (
                    "a maximum norm must be positive",
                    "use type = \"none\" for no clipping",
                );
                Err(Error::config("clip", "max_norm", max_norm, why, fix))
            }
            _ => Ok(()),
        }
    }

    /// Clips in place and returns the sum of squares of each gradient before clipping, `[gradients]` f64. On a GPU,
    /// nothing is copied to the host.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn apply(&self, gradients: &mut Gradients) -> Result<Tensor> {
        let squares = gradients.squares()?;
        match *self {
            Self::None => {}
            Self::Global { max_norm } => {
                gradients.clip_norm(&squares, MaxNorm::Joint(max_norm))?;
            }
            Self::PerTensor { max_norm } => {
                gradients.clip_norm(&squares, MaxNorm::Each(max_norm))?;
            }
        }
        Ok(squares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn clipped(clip: Clip) -> (f64, Vec<f32>) {
        let vars =
            ["a", "b"].map(|name| (name.to_owned(), Var::new(&[0f32], &Device::Cpu).unwrap()));
        let mut gradients = Gradients::new(vars.to_vec());
        for (name, value) in [("a", 3f32), ("b", 4.)] {
            assert!(gradients.set(name, Tensor::new(&[value], &Device::Cpu).unwrap()));
        }
        let squares = clip.apply(&mut gradients).unwrap();
        let norm = squares.to_vec1::<f64>().unwrap().iter().sum::<f64>().sqrt();
        let value = |name| gradients.get(name).unwrap().to_vec1::<f32>().unwrap()[0];
        (norm, vec![value("a"), value("b")])
    }

    fn close(found: &[f32], want: &[f32]) -> bool {
        found.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5)
    }

    #[test]
    fn clips_by_the_global_norm_or_per_tensor() {
        let (norm, none) = clipped(Clip::None);
        assert!((norm - 5.).abs() < 1e-9 && none == [3., 4.]);
        assert!(close(
            &clipped(Clip::Global { max_norm: 1. }).1,
            &[0.6, 0.8]
        ));
        assert!(close(&clipped(Clip::Global { max_norm: 9. }).1, &[3., 4.]));
        assert!(close(
            &clipped(Clip::PerTensor { max_norm: 3.5 }).1,
            &[3., 3.5]
        ));
        assert!(Clip::Global { max_norm: 0. }.validate().is_err());
    }

    #[test]
    fn clipping_a_view_leaves_the_rest_of_its_storage() {
        let var = Var::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let mut gradients = Gradients::new(vec![("a".to_owned(), var)]);
        let row = Tensor::new(&[[0f32, 3., 4.]], &Device::Cpu).unwrap();
        gradients.set("a", row.broadcast_as((2, 3)).unwrap());
        let max_norm = 50f64.sqrt() / 2.;
        Clip::Global { max_norm }.apply(&mut gradients).unwrap();
        let clipped = gradients.get("a").unwrap().to_vec2::<f32>().unwrap();
        assert!(close(&clipped.concat(), &[0., 1.5, 2., 0., 1.5, 2.]));
        assert_eq!(row.to_vec2::<f32>().unwrap(), [[0., 3., 4.]]);
    }
}
