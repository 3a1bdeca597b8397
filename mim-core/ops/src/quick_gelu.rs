//! The sigmoid approximation of the Gaussian error linear unit.

use candle_core::Tensor;

use super::gelu::gpu::Unit;
use super::gpu::is_supported;
use crate::Result;

/// `x σ(1.702 x)`, any shape (Hendrycks and Gimpel, arXiv:1606.08415, section 2).
///
/// # Errors
///
/// Fails only if the device does.
pub fn quick_gelu(xs: &Tensor) -> Result<Tensor> {
    if is_supported(&[xs]) {
        return Ok(Unit::QuickGelu.apply(xs)?);
    }
    Ok((xs * candle_nn::ops::sigmoid(&(xs * 1.702)?)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn known_values_and_slopes() {
        let xs = Var::new(&[-1f32, 0., 1., 3.], &Device::Cpu).unwrap();
        let ys = quick_gelu(&xs).unwrap();
        let wanted = [-0.154_204_2, 0., 0.845_795_8, 2.981_928_7];
        for (y, want) in ys.to_vec1::<f32>().unwrap().iter().zip(wanted) {
            assert!((y - want).abs() < 1e-6, "{y} against {want}");
        }
        let grads = ys.sum_all().unwrap().backward().unwrap();
        let slopes = grads.get(&xs).unwrap().to_vec1::<f32>().unwrap();
        // s + 1.702 x s (1 - s) with s = σ(1.702 x)
        for (slope, want) in slopes.iter().zip([-0.067_779_6, 0.5, 1.067_779_6]) {
            assert!((slope - want).abs() < 1e-4, "{slope} against {want}");
        }
    }
}
