//! Farthest point sampling, point by point: the oracle of the tests.

use candle_core::Tensor;

use crate::Result;

/// See [`super::farthest_points()`].
pub(super) fn farthest_points(points: &Tensor, count: usize, hollow: f32) -> Result<Tensor> {
    let mut ids = Vec::new();
    for cloud in points.to_vec3::<f32>()? {
        let mut nearest = vec![1e10f32; cloud.len()];
        let mut last = 0;
        for place in 0..count {
            if place > 0 {
                let (mut best, mut found) = (-1f32, 0);
                for (index, point) in cloud.iter().enumerate() {
                    if point[0] * point[0] + point[1] * point[1] + point[2] * point[2] <= hollow {
                        continue;
                    }
                    let d: Vec<f32> = point.iter().zip(&cloud[last]).map(|(a, b)| a - b).collect();
                    let distance = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
                    nearest[index] = nearest[index].min(distance);
                    if nearest[index] > best {
                        (best, found) = (nearest[index], index);
                    }
                }
                last = found;
            }
            ids.push(u32::try_from(last).unwrap_or(u32::MAX));
        }
    }
    Ok(Tensor::from_vec(
        ids,
        (points.dim(0)?, count),
        points.device(),
    )?)
}
