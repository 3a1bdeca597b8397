//! The sum of squares of a tensor, for gradient norms.

mod cpu;
mod gpu;
mod reference;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::cpu_slices::{floats, is_f32_on_cpu};
use super::gpu::is_supported;
use super::profile::{Pass, timer};
use crate::Result;

/// `Σ x²` over all values, any shape, without a gradient.
///
/// f32 values on the CPU are summed in f64, so squares do not overflow. The sums of many tensors
/// add up: the norm of all gradients is the root of the total.
///
/// # Errors
///
/// Fails only if the device does.
pub fn sum_squares(xs: &Tensor) -> Result<f64> {
    if is_f32_on_cpu(&[xs]) {
        let xs = xs.contiguous()?;
        return Ok(cpu::sum_squares(&floats(&xs)?));
    }
    reference::sum_squares(xs)
}

/// [`sum_squares`] of many tensors, `[tensors]` f64: in parallel on all threads, or in two launches on a GPU, where the
/// sums stay.
///
/// # Errors
///
/// Fails only if the device does.
pub fn sums_of_squares(all: &[&Tensor]) -> Result<Tensor> {
    let _timer = timer("sum_squares", Pass::Update, &[], 0.);
    if !all.is_empty() && is_supported(all) {
        return Ok(gpu::sums_of_squares(all)?);
    }
    let each = all.par_iter().with_max_len(1);
    let sums: Vec<f64> = each.map(|t| sum_squares(t)).collect::<Result<_>>()?;
    Ok(Tensor::new(sums, &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;
    use candle_core::DType;

    #[test]
    fn known_values() {
        let xs = Tensor::new(&[[3f32, 0.], [-4., 1e30]], &Device::Cpu).unwrap();
        let small = xs.narrow(1, 0, 1).unwrap();
        assert_eq!(sum_squares(&small).unwrap(), 25.0);
        assert_eq!(
            sum_squares(&small.to_dtype(DType::BF16).unwrap()).unwrap(),
            25.0
        );
        let large = f64::from(1e30f32);
        assert_eq!(sum_squares(&xs).unwrap(), large * large + 25.0);
        let none = Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(sum_squares(&none).unwrap(), 0.0);
    }

    #[test]
    fn follows_the_reference_and_repeats() {
        let xs = random(1, &[77, 1001]);
        let want = reference::sum_squares(&xs.to_dtype(DType::F64).unwrap()).unwrap();
        let got = sum_squares(&xs).unwrap();
        assert!((got - want).abs() < 1e-10 * want, "{got} against {want}");
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let again = pool.build().unwrap().install(|| sum_squares(&xs)).unwrap();
            assert_eq!(got.to_bits(), again.to_bits(), "{threads} threads");
        }
    }
}
