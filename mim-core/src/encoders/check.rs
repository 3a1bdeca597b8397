//! What every encoder asks of images and masks.

use candle_core::Tensor;

use crate::{Error, Masking, PatchGrid, Result};

/// Height and width of `image` `[batch, channels, height, width]`.
///
/// # Errors
///
/// [`Error::Shape`] if it has other channels.
pub(super) fn image_size(image: &Tensor, in_channels: usize) -> Result<(usize, usize)> {
    let (_, channels, height, width) = image.dims4()?;
    if channels == in_channels {
        return Ok((height, width));
    }
    Err(Error::shape(
        "encoder input",
        format!("{in_channels} channels, the encoder's in_channels"),
        channels,
        "convert the images or change in_channels",
    ))
}

/// Checks that a mask, if there is one, is on the encoder's own `grid`, and that as many tokens stay in
/// every row if the others are dropped.
///
/// # Errors
///
/// [`Error::Shape`] if it is not.
pub(super) fn mask_on(grid: PatchGrid, masking: Masking<'_>) -> Result<()> {
    match masking.mask() {
        Some(mask) if mask.grid() != grid => Err(Error::shape(
            "encoder mask",
            format!("the grid {grid} of these images"),
            format!("{}", mask.grid()),
            "sample the mask on the encoder's grid",
        )),
        Some(mask) if matches!(masking, Masking::Drop(_)) => mask.exact_keep().map(|_| ()),
        _ => Ok(()),
    }
}
