//! Group normalisation of feature maps.

use candle_core::Tensor;

use crate::params::Params;
use crate::{Error, Result};

/// `(x - mean) / sqrt(var + eps) * weight + bias`, with statistics over all pixels of each of `groups` channel groups
/// (Wu and He, 2018), for maps `[batch, height, width, channels]`.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// Parameters `weight`, `bias`, `[channels]`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the groups do not divide the channels.
    pub fn new(params: &Params, channels: usize, groups: usize, eps: f64) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            let why = format!("they are normalised in {groups} groups");
            let fix = "use widths that are multiples of the number of groups";
            return Err(Error::config("group norm", "channels", channels, why, fix));
        }
        Ok(Self {
            weight: params.weight(&[channels], "weight")?,
            bias: params.weight(&[channels], "bias")?,
            groups,
            eps,
        })
    }

    /// Normalises `[batch, height, width, channels]`.
    ///
    /// # Errors
    ///
    /// If the number of channels differs.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let normed = standardized(xs, self.groups, self.eps)?;
        Ok(normed
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)?)
    }
}

/// `(x - mean) / sqrt(var + eps)` per channel group over all pixels, for maps `[batch, height, width, channels]`.
pub(super) fn standardized(xs: &Tensor, groups: usize, eps: f64) -> Result<Tensor> {
    let (batch, height, width, channels) = xs.dims4()?;
    let grouped = xs.reshape((batch, height * width, groups, ()))?;
    let values = (height * width * channels / groups) as f64;
    let mean = |xs: &Tensor| xs.sum_keepdim(1)?.sum_keepdim(3)? / values;
    let centred = grouped.broadcast_sub(&mean(&grouped)?)?;
    let deviation = (mean(&centred.sqr()?)? + eps)?.sqrt()?;
    Ok(centred.broadcast_div(&deviation)?.reshape(xs.shape())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use crate::objectives::testing::noise;

    #[test]
    fn each_group_of_an_image_has_mean_zero_and_deviation_one() {
        let norm = GroupNorm::new(&ParamStore::cpu(0).root(), 6, 2, 1e-6).unwrap();
        let xs = ((noise(&[2, 3, 4, 6], 1) * 5.).unwrap() + 7.).unwrap();
        let ys = norm.forward(&xs).unwrap();
        for image in 0..2 {
            for group in 0..2 {
                let part = ys.get(image).unwrap().narrow(2, 3 * group, 3).unwrap();
                let values: Vec<f32> = part.flatten_all().unwrap().to_vec1().unwrap();
                let mean = |f: fn(f32) -> f32| values.iter().map(|v| f(*v)).sum::<f32>() / 36.;
                assert!(mean(|v| v).abs() < 1e-5 && (mean(|v| v * v) - 1.).abs() < 1e-4);
            }
        }
        assert!(GroupNorm::new(&ParamStore::cpu(0).root(), 6, 4, 1e-6).is_err());
    }
}
