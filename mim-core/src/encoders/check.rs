//! Checks of images and masks shared by all encoders.

use candle_core::Tensor;

use crate::{Error, Masking, PatchGrid, Result};

/// Height and width of `image` `[batch, channels, height, width]`.
///
/// # Errors
///
/// [`Error::Shape`] if the number of channels differs.
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

/// Refuses a causal patch order for the encoder `name`, which does not support one.
///
/// # Errors
///
/// [`Error::Unsupported`] if there is one.
pub(super) fn no_order(name: &'static str, masking: Masking<'_>) -> Result<()> {
    if matches!(masking, Masking::Causal(_)) {
        return Err(Error::unsupported(
            format!("a causal patch order in {name}"),
            "it cannot hide later patches from earlier ones",
            "use a ViT, or another masking (MaskMode)",
        ));
    }
    Ok(())
}

/// Checks that a mask, if any, is on the encoder's `grid`. If hidden tokens are dropped, also checks that every row
/// keeps the same number of tokens, at least one.
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
        Some(mask) if matches!(masking, Masking::Drop(_)) => match mask.exact_keep()? {
            0 => Err(Error::shape(
                "visible patches",
                "at least one in every row, the same number in each",
                0,
                "hide fewer patches, or do not drop hidden ones (MaskMode)",
            )),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}
