//! The nearest points by sorting all: the oracle of the tests.

use candle_core::Tensor;

use crate::Result;

/// See [`super::nearest_points()`].
pub(super) fn nearest_points(queries: &Tensor, points: &Tensor, count: usize) -> Result<Tensor> {
    let mut ids = Vec::new();
    let clouds = queries.to_vec3::<f32>()?.into_iter();
    for (queries, points) in clouds.zip(points.to_vec3::<f32>()?) {
        for query in &queries {
            let distance = |point: &Vec<f32>| {
                let d: Vec<f32> = query.iter().zip(point).map(|(a, b)| a - b).collect();
                d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
            };
            let mut all: Vec<(f32, u32)> = points.iter().map(distance).zip(0u32..).collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            ids.extend(all.into_iter().take(count).map(|(_, id)| id));
        }
    }
    let (batch, asked, _) = queries.dims3()?;
    Ok(Tensor::from_vec(
        ids,
        (batch, asked, count),
        points.device(),
    )?)
}
