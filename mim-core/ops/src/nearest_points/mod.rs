//! Nearest points of a cloud (k-NN).

mod cpu;
#[cfg(test)]
mod reference;

use candle_core::Tensor;
use rayon::prelude::*;

use super::device_copy::upload;
use super::point_axes::{apart, cloud_size, coordinates};
use super::profile::{Pass, timer};
use crate::{Error, Result};

/// Queries per task: enough to be worth a task, few enough to split a single cloud.
const QUERIES: usize = 64;

/// Indices of the `count` points nearest to each query, nearest first: `[batch, queries, 3]` and `[batch, points, 3]`
/// give `[batch, queries, count]` u32.
///
/// The distance is the squared distance `(x - x')^2 + (y - y')^2 + (z - z')^2` in f32; ties go to the lower index.
/// A query that is a point of the cloud finds itself first. No gradient flows.
///
/// # Errors
///
/// [`Error::Shape`] if the clouds have another shape or there is not one cloud per batch of queries;
/// [`Error::InvalidArgument`] if `count` is 0 or exceeds the points of a cloud.
pub fn nearest_points(queries: &Tensor, points: &Tensor, count: usize) -> Result<Tensor> {
    let _timer = timer("nearest_points", Pass::Forward, points.dims(), 0.);
    let (batch, asked) = cloud_size("nearest_points", "queries", queries)?;
    let (clouds, size) = cloud_size("nearest_points", "points", points)?;
    if clouds != batch {
        return Err(Error::shape(
            "nearest_points points",
            format!("{batch} clouds, one for each batch of queries"),
            points.dims(),
            "give one cloud for each batch of queries",
        ));
    }
    if count == 0 || count > size {
        return Err(Error::argument(
            "nearest_points",
            "count",
            count,
            format!("a cloud has {size} points"),
            "use a count between 1 and that, or sample more points per cloud",
        ));
    }
    let (queries, values) = (coordinates(queries)?, coordinates(points)?);
    let axes: Vec<Vec<f32>> = values
        .par_chunks_exact(3 * size)
        .map(|cloud| apart(cloud, f32::INFINITY))
        .collect();
    let mut ids = vec![0u32; batch * asked * count];
    ids.par_chunks_mut(asked * count)
        .zip(queries.par_chunks_exact(3 * asked))
        .zip(&axes)
        .for_each(|((ids, queries), axes)| {
            ids.par_chunks_mut(QUERIES * count)
                .zip(queries.par_chunks(3 * QUERIES))
                .for_each(|(ids, queries)| cpu::nearest(axes, queries, count, ids));
        });
    upload(ids, (batch, asked, count), points.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;
    use candle_core::Device;

    #[test]
    fn follows_the_reference() {
        for (batch, queries, points, count) in [
            (1, 1, 1, 1),
            (2, 3, 7, 7),
            (2, 130, 100, 9),
            (1, 40, 1000, 16),
            (1, 3, 200, 70),
            (2, 5, 33, 1),
        ] {
            let xs = random(1, &[batch, queries, 3]);
            let ys = random(2, &[batch, points, 3]);
            let ids = nearest_points(&xs, &ys, count).unwrap();
            let wanted = reference::nearest_points(&xs, &ys, count).unwrap();
            let values = |t: &Tensor| t.to_vec3::<u32>().unwrap();
            assert_eq!(values(&ids), values(&wanted), "{queries} {points} {count}");
        }
    }

    #[test]
    fn ties_go_by_index_and_a_point_finds_itself_first() {
        let cloud = [[1f32, 0., 0.], [0., 0., 0.], [-1., 0., 0.], [0., 1., 0.]];
        let xs = Tensor::new(&[cloud], &Device::Cpu).unwrap();
        let ids = nearest_points(&xs, &xs, 4).unwrap();
        let ids = ids.to_vec3::<u32>().unwrap().remove(0);
        assert_eq!(ids[1], [1, 0, 2, 3]);
        assert_eq!([ids[0][0], ids[2][0], ids[3][0]], [0, 2, 3]);
    }

    #[test]
    fn many_ties_go_by_index() {
        // Points on a coarse lattice: each distance occurs many times.
        let lattice = (0..600u32).map(|at| [at % 3, at / 3 % 4, at / 12 % 5].map(|x| x as f32));
        let cloud: Vec<f32> = lattice.flatten().collect();
        let xs = Tensor::from_vec(cloud, (1, 600, 3), &Device::Cpu).unwrap();
        for count in [1, 16, 40, 600] {
            let ids = nearest_points(&xs, &xs, count).unwrap();
            let wanted = reference::nearest_points(&xs, &xs, count).unwrap();
            let values = |t: &Tensor| t.to_vec3::<u32>().unwrap();
            assert_eq!(values(&ids), values(&wanted), "{count}");
        }
    }

    #[test]
    fn refuses_a_count_above_the_number_of_points() {
        let (one, two) = (random(1, &[1, 4, 3]), random(1, &[2, 4, 3]));
        let error = nearest_points(&one, &one, 5).unwrap_err().to_string();
        assert!(error.contains("a cloud has 4 points"), "{error}");
        let error = nearest_points(&one, &two, 2).unwrap_err().to_string();
        assert!(error.contains("1 clouds"), "{error}");
    }
}
