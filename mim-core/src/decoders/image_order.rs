//! From a mask's order to image order.

use candle_core::Tensor;

use crate::{Mask, Result, ops};

/// Puts `[rows, tokens, C]` in the mask's order, all tokens of the grid, in image order.
///
/// # Errors
///
/// [`crate::Error::Shape`] if the mask does not list every token.
pub(super) fn in_image_order(xs: &Tensor, mask: &Mask) -> Result<Tensor> {
    let (rows, tokens, _) = xs.dims3()?;
    let starts: Vec<u32> = (0..).step_by(tokens.max(1)).take(rows).collect();
    let starts = ops::upload(starts, (rows, 1), xs.device())?;
    let places = mask.ids_restore(xs.device())?.broadcast_add(&starts)?;
    let ordered = ops::gather_rows(&xs.flatten(0, 1)?, &places.flatten_all()?)?;
    Ok(ordered.reshape(xs.shape())?)
}
