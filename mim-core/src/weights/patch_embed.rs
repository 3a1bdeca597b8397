//! Fits patch embeddings to other patch sizes and numbers of channels.

use candle_core::{DType, Tensor};

use super::rel_pos_bias::eliminate;
use crate::nn::bicubic::taps;
use crate::{Error, Result};

/// Resizes kernels `[dim, channels, from, from]` to patches of `to` pixels.
///
/// The new kernel `w'` satisfies `B x . w' = x . w` for all patches `x`, where `B` resizes a patch
/// bicubically (a = -0.75, no antialiasing). This is exact if patches grow, and the least-squares solution of least
/// norm if they shrink. `w' = pinv(B^T) w`; FlexiViT (Beyer et al., CVPR 2023), Sec. 3.4.
///
/// # Errors
///
/// [`Error::Shape`] if the kernels are not square, or a size is zero.
pub fn resize_patch_embed(weight: &Tensor, to: usize) -> Result<Tensor> {
    let (dim, channels, from, width) = weight.dims4()?;
    if from != width || from == 0 || to == 0 {
        return Err(Error::shape(
            "patch embedding",
            "square kernels of one pixel or more, before and after",
            (weight.dims(), to),
            "use the weights of a ViT and a positive patch size",
        ));
    }
    if from == to {
        return Ok(weight.clone());
    }
    let along = axis(from, to);
    let values: Vec<f32> = weight.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let mut resized = Vec::with_capacity(dim * channels * to * to);
    for kernel in values.chunks_exact(from * from) {
        // Rows first, then columns.
        let mut rows = vec![0f64; to * from];
        for (y, weights) in along.iter().enumerate() {
            for (source, weight) in weights.iter().enumerate() {
                for x in 0..from {
                    rows[y * from + x] += weight * f64::from(kernel[source * from + x]);
                }
            }
        }
        for y in 0..to {
            for weights in &along {
                let row = rows[y * from..][..from].iter().zip(weights);
                #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
                resized.push(row.map(|(value, weight)| value * weight).sum::<f64>() as f32);
            }
        }
    }
    Ok(Tensor::from_vec(
        resized,
        (dim, channels, to, to),
        weight.device(),
    )?)
}

/// `pinv(B^T)` `[to, from]` for one axis; both axes together have the Kronecker product, as `B` has.
fn axis(from: usize, to: usize) -> Vec<Vec<f64>> {
    let mut resize = vec![vec![0f64; from]; to];
    for (row, taps) in resize
        .iter_mut()
        .zip(taps(from, to, from as f64 / to as f64))
    {
        for (source, weight) in taps {
            row[source] += f64::from(weight);
        }
    }
    let columns: Vec<Vec<f64>> = (0..from)
        .map(|x| resize.iter().map(|row| row[x]).collect())
        .collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    // The smaller Gram matrix is invertible: B^T B if patches grow, B B^T if they shrink.
    let short = if to > from { &columns } else { &resize };
    let size = short.len();
    let mut system: Vec<Vec<f64>> = (0..size)
        .map(|i| {
            let gram = (0..size).map(|j| dot(&short[i], &short[j]));
            gram.chain((0..size).map(|j| f64::from(u8::from(i == j))))
                .collect()
        })
        .collect();
    eliminate(&mut system);
    let inverse: Vec<&[f64]> = system.iter().map(|row| &row[size..]).collect();
    (0..to)
        .map(|y| {
            (0..from)
                .map(|x| match to > from {
                    true => dot(&resize[y], inverse[x]),
                    false => dot(inverse[y], &columns[x]),
                })
                .collect()
        })
        .collect()
}

/// How patch embeddings are fitted to another number of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChannelFit {
    /// For one channel the kernels are summed, so that a grey image gives the result of its RGB copy. For more channels
    /// they are repeated in turn and scaled by `from / to`. timm's rule for three channels.
    #[default]
    Repeat,
    /// Every channel gets the mean of the kernels, scaled by `from / to`: no channel counts as red, green or blue.
    Mean,
    /// The first channels keep their kernels, and additional ones start at zero: at first an image gives the result of
    /// its first channels. It does not support fewer channels.
    Zero,
}

impl ChannelFit {
    /// Names on the command line.
    pub const NAMES: [(&str, Self); 3] = [
        ("repeat", Self::Repeat),
        ("mean", Self::Mean),
        ("zero", Self::Zero),
    ];

    /// Converts kernels `[dim, from, height, width]` to `[dim, to, height, width]` for images of `to` channels.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if a number of channels is zero, or [`ChannelFit::Zero`] is to give fewer.
    pub fn apply(self, weight: &Tensor, to: usize) -> Result<Tensor> {
        let (dim, from, height, width) = weight.dims4()?;
        let wrong = |expected: &'static str, fix: &'static str| {
            Err(Error::shape("patch embedding", expected, [from, to], fix))
        };
        if from == 0 || to == 0 {
            let expected = "one channel or more, before and after";
            return wrong(expected, "use at least one channel");
        }
        if from == to {
            return Ok(weight.clone());
        }
        let scale = from as f64 / to as f64;
        match self {
            Self::Repeat if to == 1 => Ok(weight.sum_keepdim(1)?),
            Self::Repeat => {
                let repeated = Tensor::cat(&vec![weight; to.div_ceil(from)], 1)?;
                Ok((repeated.narrow(1, 0, to)?.contiguous()? * scale)?)
            }
            Self::Mean => {
                let mean = (weight.mean_keepdim(1)? * scale)?;
                Ok(mean.broadcast_as((dim, to, height, width))?.contiguous()?)
            }
            Self::Zero if to < from => {
                let expected = "more channels than before, if further ones start at zero";
                wrong(expected, "choose repeat or mean (--init-channels)")
            }
            Self::Zero => {
                let more = (dim, to - from, height, width);
                let zeros = Tensor::zeros(more, weight.dtype(), weight.device())?;
                Ok(Tensor::cat(&[weight, &zeros], 1)?)
            }
        }
    }
}

/// Converts kernels to `[dim, to, height, width]` for images of `to` channels by [`ChannelFit::Repeat`].
///
/// # Errors
///
/// [`Error::Shape`] if a number of channels is zero.
pub fn with_channels(weight: &Tensor, to: usize) -> Result<Tensor> {
    ChannelFit::Repeat.apply(weight, to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use proptest::prelude::*;

    /// A patch resized by the same rule.
    fn grown(patch: &[f64], from: usize, to: usize) -> Vec<f64> {
        let taps = taps(from, to, from as f64 / to as f64);
        let mut resized = Vec::new();
        for rows in &taps {
            for cols in &taps {
                let mut sum = 0.;
                for (y, a) in rows {
                    for (x, b) in cols {
                        sum += f64::from(*a) * f64::from(*b) * patch[y * from + x];
                    }
                }
                resized.push(sum);
            }
        }
        resized
    }

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 37 + seed * 11) % 19) as f32 / 9. - 1.)
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn grown_patches_give_the_same_tokens(from in 1usize..9, more in 1usize..9, seed in 0usize..50) {
            let to = from + more;
            let kernel = values(from * from, seed);
            let weight = Tensor::from_vec(kernel.clone(), (1, 1, from, from), &Device::Cpu).unwrap();
            let resized = resize_patch_embed(&weight, to).unwrap();
            let resized: Vec<f32> = resized.flatten_all().unwrap().to_vec1().unwrap();
            let patch: Vec<f64> = values(from * from, seed + 1).into_iter().map(f64::from).collect();
            let dot = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum::<f64>();
            let (before, after) = (dot(&patch, &kernel), dot(&grown(&patch, from, to), &resized));
            prop_assert!((before - after).abs() < 1e-4, "{before} {after}");
        }
    }

    #[test]
    fn shrunk_kernels_have_the_shape_and_a_constant_patch_keeps_its_token() {
        let weight = Tensor::from_vec(values(2 * 3 * 64, 1), (2, 3, 8, 8), &Device::Cpu).unwrap();
        let resized = resize_patch_embed(&weight, 4).unwrap();
        assert_eq!(resized.dims(), [2, 3, 4, 4]);
        // Resizing there and back changes nothing.
        let small = Tensor::from_vec(values(16, 2), (1, 1, 4, 4), &Device::Cpu).unwrap();
        let back = resize_patch_embed(&resize_patch_embed(&small, 8).unwrap(), 8).unwrap();
        assert_eq!(back.dims(), [1, 1, 8, 8]);
        assert!(resize_patch_embed(&weight, 0).is_err());
    }

    #[test]
    fn a_grey_image_gives_the_result_of_its_rgb_copy() {
        let weight = Tensor::from_vec(values(12, 3), (1, 3, 2, 2), &Device::Cpu).unwrap();
        let sum = |weight: &Tensor| weight.sum_all().unwrap().to_scalar::<f32>().unwrap();
        for channels in [1, 3, 6] {
            let changed = with_channels(&weight, channels).unwrap();
            assert_eq!(changed.dims(), [1, channels, 2, 2]);
            assert!((sum(&changed) - sum(&weight)).abs() < 1e-5, "{channels}");
        }
        assert!(with_channels(&weight, 0).is_err());
    }

    #[test]
    fn further_channels_are_means_or_zeros() {
        let weight = Tensor::new(&[[[[1f32]], [[2.]], [[6.]]]], &Device::Cpu).unwrap();
        let fitted = |how: ChannelFit, to: usize| {
            let fitted = how.apply(&weight, to)?;
            assert_eq!(fitted.dims(), [1, to, 1, 1]);
            Ok::<Vec<f32>, Error>(fitted.flatten_all()?.to_vec1()?)
        };
        assert_eq!(fitted(ChannelFit::Mean, 6).unwrap(), [1.5; 6]);
        assert_eq!(fitted(ChannelFit::Mean, 1).unwrap(), [9.]);
        assert_eq!(fitted(ChannelFit::Zero, 5).unwrap(), [1., 2., 6., 0., 0.]);
        let error = fitted(ChannelFit::Zero, 2).unwrap_err().to_string();
        assert!(error.contains("repeat or mean"), "{error}");
        let twice = fitted(ChannelFit::Repeat, 6).unwrap();
        assert_eq!(twice, [0.5, 1., 3., 0.5, 1., 3.]);
    }
}
