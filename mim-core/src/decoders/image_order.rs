//! From a mask's order to image order.

use candle_core::Tensor;

use crate::{Mask, Result};

/// Puts `[rows, tokens, C]` in the mask's order, all tokens of the grid, in image order.
///
/// # Errors
///
/// [`crate::Error::Shape`] if the mask does not list every token.
pub(super) fn in_image_order(xs: &Tensor, mask: &Mask) -> Result<Tensor> {
    let place = mask
        .ids_restore(xs.device())?
        .unsqueeze(2)?
        .broadcast_as(xs.shape())?
        .contiguous()?;
    Ok(xs.contiguous()?.gather(&place, 1)?)
}
