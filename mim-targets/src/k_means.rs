//! Clusters similar patches.

use candle_core::{D, DType, Tensor};
use mim_core::{Result, ops};

/// Adds this share of a centre to the sum of its cluster, so that an empty cluster stays where it is.
const STAY: f64 = 1e-6;

/// The cluster of each patch, `[batch, tokens]` u32, by the angles of `features` `[batch, tokens, dim]`, separately per
/// image.
///
/// Centres start at patches far from each other, then `iterations` times become the means of their patches. Only
/// patches where `count` `[batch, tokens]` is 1 (not 0) move them. There are no random draws: equal features give equal
/// clusters.
///
/// # Errors
///
/// Fails only if the device does.
pub(crate) fn k_means(
    features: &Tensor,
    count: &Tensor,
    (clusters, iterations): (usize, usize),
) -> Result<Tensor> {
    let xs = of_length_one(&features.to_dtype(DType::F32)?)?;
    let (batch, tokens, dim) = xs.dims3()?;
    let device = xs.device();
    let mean = of_length_one(&xs.broadcast_mul(&count.unsqueeze(2)?)?.sum_keepdim(1)?)?;
    let like = |centre: &Tensor| -> Result<Tensor> {
        Ok(xs
            .matmul(&centre.transpose(1, 2)?.contiguous()?)?
            .squeeze(2)?)
    };
    let starts: Vec<u32> = (0..).step_by(tokens).take(batch).collect();
    let starts = ops::upload(starts, batch, device)?;
    // Excluded patches never count as the least similar.
    let apart = ((1. - count)? * 4.)?;
    let mut nearest = (like(&mean)? + &apart)?;
    let mut centres = Vec::with_capacity(clusters);
    for chosen in 0..clusters {
        let ids = (nearest.argmin(1)?.to_dtype(DType::U32)? + &starts)?;
        let centre = ops::gather_rows(&xs.flatten(0, 1)?, &ids)?.reshape((batch, 1, dim))?;
        let alike = (like(&centre)? + &apart)?;
        nearest = match chosen {
            0 => alike,
            _ => nearest.maximum(&alike)?,
        };
        centres.push(centre);
    }
    let mut centres = Tensor::cat(&centres, 1)?;
    let numbers = Tensor::arange(0u32, u32::try_from(clusters).unwrap_or(u32::MAX), device)?;
    for _ in 0..iterations {
        let own = cluster(&xs, &centres)?
            .unsqueeze(2)?
            .broadcast_eq(&numbers)?;
        let own = own
            .to_dtype(DType::F32)?
            .broadcast_mul(&count.unsqueeze(2)?)?;
        let sums = own.transpose(1, 2)?.contiguous()?.matmul(&xs)?;
        centres = of_length_one(&(sums + (centres * STAY)?)?)?;
    }
    cluster(&xs, &centres)
}

/// The most similar of `centres` `[batch, clusters, dim]` for each patch.
fn cluster(xs: &Tensor, centres: &Tensor) -> Result<Tensor> {
    let alike = xs.matmul(&centres.transpose(1, 2)?.contiguous()?)?;
    Ok(alike.argmax(D::Minus1)?.to_dtype(DType::U32)?)
}

fn of_length_one(xs: &Tensor) -> Result<Tensor> {
    let squares = xs.sqr()?.sum_keepdim(D::Minus1)?;
    Ok(xs.broadcast_div(&squares.maximum(1e-24)?.sqrt()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn directions_are_separated_for_any_length() {
        let features = [[1f32, 0.1], [0.1, 2.], [5., 0.], [0., 0.3], [-1., -1.]];
        let features = Tensor::new(&[features, features], &Device::Cpu).unwrap();
        let count = Tensor::new(&[[1f32, 1., 1., 1., 0.], [1.; 5]], &Device::Cpu).unwrap();
        let ids = |clusters| {
            let ids = k_means(&features, &count, (clusters, 5)).unwrap();
            ids.to_vec2::<u32>().unwrap()
        };
        let two = ids(2);
        // The last patch of the first image is excluded.
        assert!(two[0][0] == two[0][2] && two[0][1] == two[0][3] && two[0][0] != two[0][1]);
        let three = ids(3);
        assert!(three[1][0] == three[1][2] && three[1][1] == three[1][3]);
        let distinct: std::collections::BTreeSet<_> = three[1].iter().collect();
        assert_eq!(distinct.len(), 3);
        // With more clusters than directions, some stay empty.
        assert_eq!(ids(5)[1].len(), 5);
    }
}
