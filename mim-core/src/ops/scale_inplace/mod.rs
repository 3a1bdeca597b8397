//! Scaling in place, for gradient clipping.

mod cpu;
mod reference;

use candle_core::Tensor;

use super::host::{change, check_in_place, is_f32_on_cpu};
use crate::Result;

/// `xs ← factor * xs`, any shape.
///
/// # Errors
///
/// [`Error::Unsupported`](crate::Error::Unsupported) if `xs` is not contiguous.
pub fn scale_inplace(xs: &Tensor, factor: f64) -> Result<()> {
    check_in_place("scale_inplace", &[xs], &[])?;
    if !is_f32_on_cpu(&[xs]) {
        return reference::scale_inplace(xs, factor);
    }
    change(xs, |xs| {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the kernel computes in f32"
        )]
        cpu::scale_inplace(xs, factor as f32);
        Ok(())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::random;
    use candle_core::{DType, Device};

    #[test]
    fn known_values_also_in_half_precision() {
        for dtype in [DType::F32, DType::BF16] {
            let xs = Tensor::new(&[[1f32, -3.]], &Device::Cpu).unwrap();
            let xs = xs.to_dtype(dtype).unwrap();
            scale_inplace(&xs, 0.5).unwrap();
            let xs = xs.to_dtype(DType::F32).unwrap();
            assert_eq!(xs.to_vec2::<f32>().unwrap(), [[0.5, -1.5]]);
        }
    }

    #[test]
    fn follows_the_reference_and_refuses_views() {
        let (fast, slow) = (random(1, &[33, 1000]), random(1, &[33, 1000]));
        scale_inplace(&fast, 0.3).unwrap();
        reference::scale_inplace(&slow, 0.3).unwrap();
        assert_eq!(
            fast.to_vec2::<f32>().unwrap(),
            slow.to_vec2::<f32>().unwrap()
        );
        assert!(scale_inplace(&fast.t().unwrap(), 2.0).is_err());
    }
}
