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

/// Indices of `count` points of each cloud, far from one another: `[batch, points, 3]` gives `[batch, count]` u32.
///
/// The first is point 0; each further one has the largest squared distance to the nearest of those before it, the
/// lowest index where several have it. Points whose squared length is at most `hollow` are never taken after the
/// first: 1e-3 is the rule of pointnet2's kernel, and a negative number takes all. Where no point may be taken, it is
/// point 0 again. No gradient flows.
///
/// Qi et al., PointNet++, NeurIPS 2017, Sec. 3.2; sshaoshuai/Pointnet2.PyTorch, `sampling_gpu.cu`.
///
/// # Errors
///
/// [`Error::Shape`] if the clouds have another shape; [`Error::InvalidArgument`] if `count` is 0 or more than the
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
            "ask for at least one and at most all of them, or sample more points of a cloud",
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
    fn takes_the_lowest_index_of_equals_and_nothing_of_the_hollow() {
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
    fn refuses_more_than_there_are() {
        let xs = random(1, &[1, 4, 3]);
        let error = farthest_points(&xs, 5, 0.).unwrap_err().to_string();
        assert!(error.contains("a cloud has 4 points"), "{error}");
        assert!(farthest_points(&random(1, &[4, 3]), 1, 0.).is_err());
        assert!(farthest_points(&xs, 0, 0.).is_err());
    }
}
