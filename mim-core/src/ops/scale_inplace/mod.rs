//! Scaling in place, for gradient clipping.

mod cpu;
mod gpu;
mod reference;

use candle_core::Tensor;

use super::gpu::serves;
use super::host::{change, check_in_place, is_f32_on_cpu};
use super::profile::{Pass, timer};
use crate::Result;

/// `xs ← factor * xs`, any shape.
///
/// # Errors
///
/// [`Error::Unsupported`](crate::Error::Unsupported) if `xs` is not contiguous.
pub fn scale_inplace(xs: &Tensor, factor: f64) -> Result<()> {
    scale_all_inplace(&[(xs, factor)])
}

/// [`scale_inplace`] of many tensors, each by its own factor; on a GPU in one launch.
///
/// # Errors
///
/// As [`scale_inplace`], before anything is scaled.
pub fn scale_all_inplace(all: &[(&Tensor, f64)]) -> Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    let _timer = timer("scale_inplace", Pass::Update, &[], 0.);
    for (xs, _) in all {
        check_in_place("scale_inplace", &[xs], &[])?;
    }
    if all.iter().all(|(xs, _)| serves(&[xs])) {
        return Ok(gpu::scale_all_inplace(all)?);
    }
    // One after the other, since parts of one storage wait for each other; each is on all threads.
    for (xs, factor) in all {
        if !is_f32_on_cpu(&[xs]) {
            reference::scale_inplace(xs, *factor)?;
            continue;
        }
        change(xs, |xs| {
            cpu::scale_inplace(xs, narrow(*factor));
            Ok(())
        })?;
    }
    Ok(())
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernels compute in f32"
)]
fn narrow(factor: f64) -> f32 {
    factor as f32
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
