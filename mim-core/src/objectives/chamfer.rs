//! The Chamfer distance between point sets.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::ObjectiveSettings;
use super::pairing::{Region, pair_values};
use crate::parts::Part;
use crate::{Error, LossTerms, Mask, Objective, Prediction, Result, StepContext, Target, ops};

/// Distance of two points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChamferKind {
    /// Euclidean distance.
    L1,
    /// Squared Euclidean distance.
    #[default]
    L2,
}

/// Squared distance of each point to the nearest point of the other set, with its index.
#[derive(Debug, Clone)]
pub struct Chamfer {
    /// Squared distances `[sets, n]` of the first points, with gradients to both sets.
    pub first: Tensor,
    /// Index of the nearest second point, `[sets, n]` u32.
    pub first_ids: Tensor,
    /// Squared distances `[sets, m]` of the second points.
    pub second: Tensor,
    /// Index of the nearest first point, `[sets, m]` u32.
    pub second_ids: Tensor,
}

impl Chamfer {
    /// Compares point sets `[sets, n, 3]` and `[sets, m, 3]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for other shapes.
    pub fn new(first: &Tensor, second: &Tensor) -> Result<Self> {
        let (first_distances, first_ids) = to_nearest(first, second)?;
        let (second_distances, second_ids) = to_nearest(second, first)?;
        Ok(Self {
            first: first_distances,
            first_ids,
            second: second_distances,
            second_ids,
        })
    }

    /// The Chamfer distance, a scalar: the mean over the points of the first sets plus the mean over those of the second;
    /// half of it for L1.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn distance(&self, kind: ChamferKind) -> Result<Tensor> {
        let sum = |first: &Tensor, second: &Tensor| first.mean_all()? + second.mean_all()?;
        Ok(match kind {
            ChamferKind::L2 => sum(&self.first, &self.second)?,
            // The square root has no slope at 0.
            ChamferKind::L1 => {
                let root = |xs: &Tensor| (xs + 1e-12)?.sqrt();
                (sum(&root(&self.first)?, &root(&self.second)?)? / 2.)?
            }
        })
    }
}

fn to_nearest(from: &Tensor, to: &Tensor) -> Result<(Tensor, Tensor)> {
    let ids = ops::nearest_points(from, to, 1)?;
    let (sets, count, _) = from.dims3()?;
    let size = u32::try_from(to.dim(1)?).unwrap_or(u32::MAX);
    let ids = ids.reshape((sets, count))?;
    let each = ids.flatten_all()?.to_vec1::<u32>()?;
    let rows: Vec<u32> = (0u32..)
        .zip(each.chunks(count))
        .flat_map(|(set, ids)| ids.iter().map(move |id| set * size + id))
        .collect();
    let rows = ops::upload(rows, sets * count, to.device())?;
    let nearest = ops::gather_rows(&to.flatten_to(1)?, &rows)?;
    let distances = (from.flatten_to(1)? - nearest)?.sqr()?.sum(1)?;
    Ok((distances.reshape((sets, count))?, ids))
}

/// Settings of [`ChamferObjective`]; `Default` is Point-M2AE's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChamferConfig {
    /// Distance of two points. Default `l2`.
    pub kind: ChamferKind,
    /// The tokens included in the loss.
    pub region: Region,
}

impl Default for ChamferConfig {
    fn default() -> Self {
        Self {
            kind: ChamferKind::L2,
            region: Region::Masked,
        }
    }
}

impl Part for ChamferConfig {
    const ABOUT: &'static str =
        "distance between sets of points: three values of a token are a point, in any order";
    const PAPER: &'static str = "Fan et al., CVPR 2017, arXiv 1612.00603; Point-M2AE: Zhang et al., NeurIPS 2022, arXiv 2205.14401";
}

impl ObjectiveSettings for ChamferConfig {
    fn build(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(ChamferObjective {
            config: self.clone(),
        }))
    }
}

/// The Chamfer distance between tokens that are point sets: the mean over all tokens and points of the distance to the
/// nearest target, plus the same in the other direction.
#[derive(Debug, Clone)]
pub struct ChamferObjective {
    config: ChamferConfig,
}

impl Objective for ChamferObjective {
    fn loss(
        &self,
        prediction: &Prediction,
        target: &Target,
        mask: &Mask,
        _step: &StepContext,
    ) -> Result<LossTerms> {
        let pairs = pair_values(prediction, target, mask, self.config.region)?;
        let (rows, values) = pairs.prediction.dims2()?;
        if !values.is_multiple_of(3) {
            return Err(Error::unsupported(
                format!("points of {values} values"),
                "a point has three values",
                "use another objective, or a target whose tokens have a multiple of 3 values",
            ));
        }
        let points = |xs: &Tensor| xs.reshape((rows, values / 3, 3));
        let chamfer = Chamfer::new(&points(&pairs.prediction)?, &points(&pairs.target)?)?;
        LossTerms::single("chamfer", chamfer.distance(self.config.kind)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::testing::{gradient_is_the_slope, noise, same_from_all_and_from_hidden};
    use candle_core::Device;

    fn objective(kind: ChamferKind) -> ChamferObjective {
        let region = Region::Masked;
        ChamferObjective {
            config: ChamferConfig { kind, region },
        }
    }

    #[test]
    fn distances_of_known_sets_in_any_order() {
        let first = Tensor::new(&[[[0f32, 0., 0.], [2., 0., 0.]]], &Device::Cpu).unwrap();
        let second = Tensor::new(
            &[[[2f32, 0., 0.], [0., 0., 1.], [5., 0., 0.]]],
            &Device::Cpu,
        )
        .unwrap();
        let chamfer = Chamfer::new(&first, &second).unwrap();
        assert_eq!(chamfer.first.to_vec2::<f32>().unwrap(), [[1., 0.]]);
        assert_eq!(chamfer.second.to_vec2::<f32>().unwrap(), [[0., 1., 9.]]);
        assert_eq!(chamfer.second_ids.to_vec2::<u32>().unwrap(), [[1, 0, 1]]);
        let of = |kind| -> f32 { chamfer.distance(kind).unwrap().to_scalar().unwrap() };
        assert!((of(ChamferKind::L2) - (0.5 + 10. / 3.)).abs() < 1e-6);
        assert!((of(ChamferKind::L1) - (0.5 + 4. / 3.) / 2.).abs() < 1e-5);
    }

    #[test]
    fn the_gradient_is_the_slope() {
        let target = Target::patches(noise(&[2, 6, 6], 2));
        let values = noise(&[2, 6, 6], 1);
        for kind in [ChamferKind::L1, ChamferKind::L2] {
            same_from_all_and_from_hidden(&objective(kind), &values, &target);
        }
        gradient_is_the_slope(&objective(ChamferKind::L2), &values, &target);
    }

    #[test]
    fn four_values_are_refused() {
        let mask = crate::objectives::testing::mask();
        let (values, target) = (noise(&[2, 6, 4], 1), Target::patches(noise(&[2, 6, 4], 2)));
        let prediction =
            crate::objectives::testing::predicted(&values, crate::Rows::Patches, &mask);
        let loss =
            objective(ChamferKind::L2).loss(&prediction, &target, &mask, &StepContext::new(0));
        assert!(loss.unwrap_err().to_string().contains("three values"));
    }
}
