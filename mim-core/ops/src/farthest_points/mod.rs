//! Farthest point sampling.

mod cpu;
#[cfg(test)]
mod reference;

use candle_core::Tensor;
use rayon::prelude::*;

use super::device_copy::upload;
use super::point_axes::{apart, cloud_size, coordinates};
use super::profile::{Pass, timer};
use crate::{Error, Result};

/// Indices of `count` points of each cloud that are far apart: `[batch, points, 3]` gives `[batch, count]` u32.
///
/// The first is point 0. Each further point has the largest squared distance to its nearest predecessor; ties go to
/// the lowest index. Points whose squared length is at most `hollow` are chosen only as the first point: 1e-3 is
/// the rule of pointnet2's kernel, and a negative number allows all points. If no point may be chosen, point 0 is
/// chosen again. No gradient flows.
///
/// Qi et al., PointNet++, NeurIPS 2017, Sec. 3.2; sshaoshuai/Pointnet2.PyTorch, `sampling_gpu.cu`.
///
/// # Errors
///
/// [`Error::Shape`] if the clouds have another shape; [`Error::InvalidArgument`] if `count` is 0 or exceeds the
/// points of a cloud.
pub fn farthest_points(points: &Tensor, count: usize, hollow: f32) -> Result<Tensor> {
    let _timer = timer("farthest_points", Pass::Forward, points.dims(), 0.);
    let (batch, size) = cloud_size("farthest_points", "points", points)?;
    if count == 0 || count > size {
        return Err(Error::argument(
            "farthest_points",
            "count",
            count,
            format!("a cloud has {size} points"),
            "use a count between 1 and that, or sample more points per cloud",
        ));
    }
    let values = coordinates(points)?;
    let mut ids = vec![0u32; batch * count];
    ids.par_chunks_exact_mut(count)
        .zip(values.par_chunks_exact(3 * size))
        .for_each(|(ids, cloud)| cpu::farthest(&apart(cloud, 0.), size, hollow, ids));
    upload(ids, (batch, count), points.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;
    use candle_core::Device;

    #[test]
    fn follows_the_reference() {
        for (batch, points, count) in [(1, 1, 1), (2, 5, 5), (3, 100, 17), (2, 1000, 64)] {
            let xs = random(points as u64, &[batch, points, 3]);
            for hollow in [-1., 1e-3, 0.5] {
                let ids = farthest_points(&xs, count, hollow).unwrap();
                let wanted = reference::farthest_points(&xs, count, hollow).unwrap();
                let values = |t: &Tensor| t.to_vec2::<u32>().unwrap();
                assert_eq!(values(&ids), values(&wanted), "{points} {count} {hollow}");
            }
        }
    }

    #[test]
    fn ties_take_the_lowest_index_and_hollow_points_are_skipped() {
        let cloud = [
            [0f32, 0., 0.],
            [1., 0., 0.],
            [0.01, 0., 0.],
            [-1., 0., 0.],
            [0., 1., 0.],
        ];
        let xs = Tensor::new(&[cloud], &Device::Cpu).unwrap();
        let ids = |count, hollow| {
            let ids = farthest_points(&xs, count, hollow).unwrap();
            ids.squeeze(0).unwrap().to_vec1::<u32>().unwrap()
        };
        assert_eq!(ids(5, 1e-3), [0, 1, 3, 4, 1]);
        assert_eq!(ids(5, -1.), [0, 1, 3, 4, 2]);
        assert_eq!(ids(2, 9.), [0, 0]);
    }

    #[test]
    fn refuses_a_count_above_the_number_of_points() {
        let xs = random(1, &[1, 4, 3]);
        let error = farthest_points(&xs, 5, 0.).unwrap_err().to_string();
        assert!(error.contains("a cloud has 4 points"), "{error}");
        assert!(farthest_points(&random(1, &[4, 3]), 1, 0.).is_err());
        assert!(farthest_points(&xs, 0, 0.).is_err());
    }
}
