//! Windows of feature maps in candle operations.

use candle_core::Tensor;

use super::Window;
use crate::{Error, Result};

/// See [`super::unfold`]: every offset in the window, sliced from the padded map.
pub(super) fn unfold(xs: &Tensor, window: Window) -> Result<Tensor> {
    let (_, height, width, _) = xs.dims4()?;
    let Window {
        kernel,
        stride,
        padding,
    } = window;
    let padded = xs
        .pad_with_zeros(1, padding, padding)?
        .pad_with_zeros(2, padding, padding)?;
    let places = |offset: usize, length: usize| -> Result<Tensor> {
        let count = window.count(length).ok_or_else(|| {
            Error::shape("unfold", "room for a window", length, "give larger images")
        })?;
        #[expect(clippy::cast_possible_truncation, reason = "sides of images")]
        let places: Vec<u32> = (0..count).map(|i| (offset + i * stride) as u32).collect();
        Ok(Tensor::new(places, xs.device())?)
    };
    let mut parts = Vec::with_capacity(kernel * kernel);
    for row in 0..kernel {
        let rows = padded.index_select(&places(row, height)?, 1)?;
        for col in 0..kernel {
            parts.push(rows.index_select(&places(col, width)?, 2)?);
        }
    }
    Ok(Tensor::cat(&parts, 3)?)
}
