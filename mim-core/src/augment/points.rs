//! Operations on point clouds.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::{ImageOp, Sample, check_range, uniform};
use crate::{Error, Result};

/// Draws points of a cloud without replacement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplePoints {
    /// Number of points. Default 2048.
    pub count: usize,
}

impl Default for SamplePoints {
    fn default() -> Self {
        Self { count: 2048 }
    }
}

impl ImageOp for SamplePoints {
    fn check(&self) -> Result<()> {
        if self.count > 0 {
            return Ok(());
        }
        let (why, fix) = ("a cloud has at least one point", "choose 1 or more");
        Err(Error::config("sample_points", "count", 0, why, fix))
    }

    fn apply(&self, mut sample: Sample, rng: &mut dyn Rng) -> Result<Sample> {
        let (points, count) = (sample.points_mut("sample_points")?, self.count);
        if points.len() < count {
            return Err(Error::shape(
                "sample_points",
                format!("a cloud of at least {count} points"),
                points.len(),
                "ask for fewer (count, with num_points of the encoder), or leave the cloud out",
            ));
        }
        for place in 0..count {
            let other = rng.random_range(place..points.len());
            points.swap(place, other);
        }
        points.truncate(count);
        Ok(sample)
    }
}

/// Subtracts a cloud's mean and scales its farthest point to length 1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnitSphere {}

impl ImageOp for UnitSphere {
    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn apply(&self, mut sample: Sample, _rng: &mut dyn Rng) -> Result<Sample> {
        let points = sample.points_mut("unit_sphere")?;
        let count = points.len() as f64;
        let mean = [0, 1, 2].map(|axis| {
            let sum: f64 = points.iter().map(|point| f64::from(point[axis])).sum();
            #[expect(clippy::cast_possible_truncation, reason = "coordinates are f32")]
            let mean = (sum / count) as f32;
            mean
        });
        let mut largest = 0f32;
        for point in points.iter_mut() {
            *point = [0, 1, 2].map(|axis| point[axis] - mean[axis]);
            largest = largest.max(point.iter().map(|value| value * value).sum());
        }
        let length = largest.sqrt();
        // A cloud whose points are all the same stays at 0.
        if length > 0. {
            for value in points.iter_mut().flatten() {
                *value /= length;
            }
        }
        Ok(sample)
    }
}

/// Scales each axis by its own factor, then shifts the cloud.
///
/// PointNet++'s augmentation; ZrrSkywalker/I2P-MAE @ 7d4e519, `datasets/data_transforms.py`. Its rotation is never
/// applied, so there is none here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScaleAndShift {
    /// Range of the factors. Default `[2/3, 3/2]`.
    pub scale: [f64; 2],
    /// Largest shift along each axis. Default 0.2.
    pub shift: f64,
}

impl Default for ScaleAndShift {
    fn default() -> Self {
        Self {
            scale: [2. / 3., 1.5],
            shift: 0.2,
        }
    }
}

impl ImageOp for ScaleAndShift {
    fn check(&self) -> Result<()> {
        let name = "scale_and_shift";
        check_range(name, "scale", self.scale, f64::MIN_POSITIVE)?;
        check_range(name, "shift", [self.shift, self.shift], 0.)
    }

    fn apply(&self, mut sample: Sample, rng: &mut dyn Rng) -> Result<Sample> {
        let points = sample.points_mut("scale_and_shift")?;
        #[expect(clippy::cast_possible_truncation, reason = "coordinates are f32")]
        let mut draw = |range| uniform(rng, range) as f32;
        let factors = [0; 3].map(|_| draw(self.scale));
        let shifts = [0; 3].map(|_| draw([-self.shift, self.shift]));
        for point in points {
            *point = [0, 1, 2].map(|axis| point[axis] * factors[axis] + shifts[axis]);
        }
        Ok(sample)
    }
}

/// Rotates a cloud by a uniformly drawn rotation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RotatePoints {}

impl ImageOp for RotatePoints {
    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn apply(&self, mut sample: Sample, rng: &mut dyn Rng) -> Result<Sample> {
        let rotation = rotation(rng);
        for point in sample.points_mut("rotate_points")? {
            *point = turned(&rotation, *point);
        }
        Ok(sample)
    }
}

/// A rotation drawn uniformly from all rotations (Shoemake, 1992).
#[expect(clippy::cast_possible_truncation, reason = "coordinates are f32")]
pub(crate) fn rotation(rng: &mut dyn Rng) -> [[f32; 3]; 3] {
    let turn = std::f64::consts::TAU;
    let [share, first, second] = [1., turn, turn].map(|most| uniform(rng, [0., most]));
    let (low, high) = ((1. - share).sqrt(), share.sqrt());
    let (x, y) = (low * first.sin(), low * first.cos());
    let (z, w) = (high * second.sin(), high * second.cos());
    let rows = [
        [
            1. - 2. * (y * y + z * z),
            2. * (x * y - z * w),
            2. * (x * z + y * w),
        ],
        [
            2. * (x * y + z * w),
            1. - 2. * (x * x + z * z),
            2. * (y * z - x * w),
        ],
        [
            2. * (x * z - y * w),
            2. * (y * z + x * w),
            1. - 2. * (x * x + y * y),
        ],
    ];
    rows.map(|row| row.map(|value| value as f32))
}

/// A point after a rotation.
pub(crate) fn turned(rotation: &[[f32; 3]; 3], point: [f32; 3]) -> [f32; 3] {
    rotation.map(|row| row[0] * point[0] + row[1] * point[1] + row[2] * point[2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::{Augment, Resize, ViewPlan};
    use crate::rng::{Purpose, stream};

    fn cloud() -> Sample {
        let point = |i: u8| [f32::from(i), f32::from(i * 7 % 11), f32::from(i * 5 % 13)];
        Sample::of_points((0..20).map(point).collect()).unwrap()
    }

    fn apply(ops: Vec<Augment>, sample: Sample) -> Result<Vec<[f32; 3]>> {
        let mut rng = stream(1, Purpose::Augment, [0, 0]);
        let mut views = ViewPlan::single(ops).apply(sample, &mut rng)?;
        Ok(views.remove(0).points()?.to_vec())
    }

    fn length(point: &[f32; 3]) -> f32 {
        point.iter().map(|value| value * value).sum::<f32>().sqrt()
    }

    #[test]
    fn samples_differ_and_lie_in_the_unit_sphere() {
        let ops = vec![
            Augment::SamplePoints(SamplePoints { count: 8 }),
            Augment::UnitSphere(UnitSphere {}),
        ];
        let points = apply(ops, cloud()).unwrap();
        assert_eq!(points.len(), 8);
        let largest = points.iter().map(length).fold(0f32, f32::max);
        assert!((largest - 1.).abs() < 1e-6);
        let sum = points.iter().fold(0f32, |sum, point| sum + point[0]);
        assert!(sum.abs() < 1e-5);
        let distinct: std::collections::BTreeSet<String> =
            points.iter().map(|point| format!("{point:?}")).collect();
        assert_eq!(distinct.len(), 8);
    }

    #[test]
    fn rotations_keep_lengths_and_scales_are_in_their_range() {
        let before = cloud().points().unwrap().to_vec();
        let turned = apply(vec![Augment::RotatePoints(RotatePoints {})], cloud()).unwrap();
        for (before, after) in before.iter().zip(&turned) {
            assert!((length(before) - length(after)).abs() < 1e-4);
        }
        assert_ne!(before, turned);
        let op = ScaleAndShift {
            shift: 0.,
            ..ScaleAndShift::default()
        };
        let scaled = apply(vec![Augment::ScaleAndShift(op)], cloud()).unwrap();
        let factor = scaled[1][0] / before[1][0];
        assert!((0.66..1.51).contains(&factor) && factor != 1., "{factor}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let ops = |count| vec![Augment::SamplePoints(SamplePoints { count })];
        let error = apply(ops(21), cloud()).unwrap_err().to_string();
        assert!(
            error.contains("at least 21 points, got 20") || error.contains("got 20"),
            "{error}"
        );
        let error = apply(vec![Augment::Resize(Resize::default())], cloud()).unwrap_err();
        assert!(error.to_string().contains("cloud"), "{error}");
        let image = Sample::new(vec![0; 4], (2, 2), 1).unwrap();
        let error = apply(ops(1), image).unwrap_err().to_string();
        assert!(error.contains("images"), "{error}");
        assert!(Sample::of_points(vec![]).is_err());
        assert!(Sample::of_points(vec![[0., f32::NAN, 0.]]).is_err());
    }
}
