//! Point clouds with separate coordinate arrays, as the kernels read them.

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result};

/// Points per block: two AVX-512 registers.
pub(super) const BLOCK: usize = 32;

/// Checks that `argument` of `op` is `[batch, points, 3]`; returns (batch, points).
///
/// # Errors
///
/// [`Error::Shape`] for another shape or an empty cloud.
pub(super) fn cloud_size(
    op: &'static str,
    argument: &'static str,
    xs: &Tensor,
) -> Result<(usize, usize)> {
    match *xs.dims() {
        [batch, points, 3] if points > 0 && u32::try_from(points).is_ok() => Ok((batch, points)),
        _ => Err(Error::shape(
            format!("{op} {argument}"),
            "[batch, points, 3] with at least one point",
            xs.dims(),
            "give clouds of equal size, with three coordinates per point",
        )),
    }
}

/// The coordinates of `[batch, points, 3]`, on the host.
///
/// # Errors
///
/// Fails only if the device does.
pub(super) fn coordinates(xs: &Tensor) -> Result<Vec<f32>> {
    let xs = xs.detach().to_dtype(DType::F32)?;
    Ok(xs.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}

/// All x of a cloud, then all y, then all z, each padded to whole blocks with `fill`.
pub(super) fn apart(cloud: &[f32], fill: f32) -> Vec<f32> {
    let points = cloud.len() / 3;
    let padded = points.next_multiple_of(BLOCK);
    let mut axes = vec![fill; 3 * padded];
    for (index, point) in cloud.as_chunks::<3>().0.iter().enumerate() {
        for (axis, value) in point.iter().enumerate() {
            axes[axis * padded + index] = *value;
        }
    }
    axes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_whole_blocks() {
        let axes = apart(&[1., 2., 3., 4., 5., 6.], -1.);
        assert_eq!(axes.len(), 3 * BLOCK);
        assert_eq!(axes[..3], [1., 4., -1.]);
        assert_eq!(axes[BLOCK..][..3], [2., 5., -1.]);
        assert_eq!(axes[2 * BLOCK..][..3], [3., 6., -1.]);
    }
}
