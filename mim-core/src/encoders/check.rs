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

/// Refuses an order in which patches see each other, of an encoder `name` that has none.
///
/// # Errors
///
/// [`Error::Unsupported`] if there is one.
pub(super) fn no_order(name: &'static str, masking: Masking<'_>) -> Result<()> {
    if matches!(masking, Masking::Causal(_)) {
        return Err(Error::unsupported(
            format!("an order of the patches in {name}"),
            "there, patches cannot be kept from seeing those that come later",
            "use a ViT, or another masking (MaskMode)",
        ));
    }
    Ok(())
}

/// Checks that a mask, if there is one, is on the encoder's own `grid`, and that as many tokens stay in
/// every row, at least one, if the others are dropped.
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
                "at least one in every row",
                0,
                "hide fewer patches, or do not drop hidden ones (MaskMode)",
            )),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}
