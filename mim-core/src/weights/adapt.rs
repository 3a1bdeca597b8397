//! Fits position tables to another image size.

use candle_core::{DType, Tensor};

use crate::nn::bicubic::taps;
use crate::{Error, PatchGrid, Result};

/// Resizes a position table `[1, prefix + from, dim]` to `[1, prefix + to, dim]`.
///
/// Bicubic (a = -0.75) over the patch rows, edges repeated, no antialiasing: PyTorch's
/// `interpolate(mode="bicubic", align_corners=False)`, as used in MAE's `interpolate_pos_embed`. The
/// prefix (class token) is kept. A table for the same grid is returned unchanged.
///
/// # Errors
///
/// [`Error::Shape`] if the table does not hold `prefix + from` rows.
pub fn resize_pos_embed(
    table: &Tensor,
    from: PatchGrid,
    to: PatchGrid,
    prefix: usize,
) -> Result<Tensor> {
    if from == to {
        return Ok(table.clone());
    }
    let (_, rows, dim) = table.dims3()?;
    if rows != prefix + from.len() {
        return Err(Error::shape(
            "position table",
            format!("{prefix} + {} rows for the grid {from}", from.len()),
            rows,
            "give the grid that the table was made for",
        ));
    }
    let device = table.device();
    let values: Vec<f32> = table
        .to_dtype(DType::F32)?
        .narrow(1, prefix, from.len())?
        .flatten_all()?
        .to_vec1()?;
    let along = |from: usize, to: usize| taps(from, to, from as f64 / to as f64);
    let (vertical, horizontal) = (along(from.rows, to.rows), along(from.cols, to.cols));
    let mut resized = Vec::with_capacity(to.len() * dim);
    for row in &vertical {
        for col in &horizontal {
            let start = resized.len();
            resized.resize(start + dim, 0f32);
            for (y, by_row) in row {
                for (x, by_col) in col {
                    let source = &values[(y * from.cols + x) * dim..][..dim];
                    for (sum, value) in resized[start..].iter_mut().zip(source) {
                        *sum += by_row * by_col * value;
                    }
                }
            }
        }
    }
    let patches = Tensor::from_vec(resized, (1, to.len(), dim), device)?;
    Ok(Tensor::cat(
        &[&table.narrow(1, 0, prefix)?.to_dtype(DType::F32)?, &patches],
        1,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_constant_table_stays_constant_and_the_prefix_is_kept() {
        let table = Tensor::cat(
            &[
                Tensor::full(7f32, (1, 1, 2), &Device::Cpu).unwrap(),
                Tensor::full(3f32, (1, 4, 2), &Device::Cpu).unwrap(),
            ],
            1,
        )
        .unwrap();
        let resized =
            resize_pos_embed(&table, PatchGrid::new(2, 2), PatchGrid::new(3, 5), 1).unwrap();
        let rows: Vec<Vec<f32>> = resized.squeeze(0).unwrap().to_vec2().unwrap();
        assert_eq!(rows.len(), 16);
        assert_eq!(rows[0], [7.; 2]);
        assert!(
            rows[1..]
                .iter()
                .flatten()
                .all(|value| (value - 3.).abs() < 1e-5)
        );
        assert!(resize_pos_embed(&table, PatchGrid::new(3, 3), PatchGrid::new(2, 2), 1).is_err());
    }
}
