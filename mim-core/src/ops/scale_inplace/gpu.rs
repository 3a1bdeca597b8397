//! Scaling on a GPU: one launch for all tensors.

#![expect(unsafe_code, reason = "kernels are launched")]

use candle_core::{Result, Tensor};

use crate::ops::gpu::Kernel;
use crate::ops::gpu::table::{Table, address, pair};

/// See [`super::scale_all_inplace`]; all tensors have been checked, and there is at least one.
pub(super) fn scale_all_inplace(all: &[(&Tensor, f64)]) -> Result<()> {
    let mut table = Table::default();
    for (xs, factor) in all {
        let values = xs.elem_count();
        let factor = pair(super::narrow(*factor), 0.);
        table.push(&[address(xs)?, values as i64, factor], values);
    }
    let kernel = Kernel::new("scale_inplace", "scale_inplace_tensors");
    // SAFETY: the words are those of `scale_inplace::Tensor`, of tensors that live until here.
    unsafe { table.launch(all[0].0.device(), &kernel, Vec::new()) }
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use super::super::{scale_all_inplace, scale_inplace};
    use crate::ops::testing::{gpu, random};
    use candle_core::Tensor;

    #[test]
    fn all_at_once_is_one_by_one_on_the_cpu() {
        let shapes: [&[usize]; 4] = [&[1], &[3, 5], &[8192], &[90, 200]];
        let tensors = || (0..).zip(&shapes).map(|(seed, shape)| random(seed, shape));
        let factor = |place: usize| 0.3 + place as f64;
        let want: Vec<Tensor> = tensors().collect();
        for (place, xs) in want.iter().enumerate() {
            scale_inplace(xs, factor(place)).unwrap();
        }
        let device = gpu();
        // A part of a longer tensor, which is not aligned and whose other values stay.
        let whole = random(9, &[60]).to_device(device).unwrap();
        let part = whole.narrow(0, 3, 50).unwrap();
        let got: Vec<Tensor> = tensors().map(|t| t.to_device(device).unwrap()).collect();
        let mut all: Vec<(&Tensor, f64)> = (0..).zip(&got).map(|(i, t)| (t, factor(i))).collect();
        all.push((&part, -1.));
        let before = crate::ops::launches();
        scale_all_inplace(&all).unwrap();
        assert_eq!(crate::ops::launches(), before + 1);
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (got, want) in got.iter().zip(&want) {
            assert_eq!(flat(got), flat(want));
        }
        let mut values = flat(&random(9, &[60]));
        values[3..53].iter_mut().for_each(|x| *x = -*x);
        assert_eq!(flat(&whole), values);
    }
}
