//! The tokenizer trait: images to discrete tokens.

use candle_core::Tensor;

use crate::{Error, ImageSize, PatchGrid, Result, StepContext};

/// Maps images to discrete tokens: the dVAE of BEiT, the codebooks of BEiT v2 and PeCo.
pub trait Tokenizer: Send + Sync {
    /// Number of distinct tokens.
    fn vocab_size(&self) -> usize;

    /// Side in pixels covered by one token.
    fn stride(&self) -> usize;

    /// Channels of the images.
    fn channels(&self) -> usize;

    /// The only supported image size, if positions are learned. Default: any size.
    fn image_size(&self) -> Option<ImageSize> {
        None
    }

    /// The tokens `[batch, rows, cols]`, u32, of images `[batch, channels, height, width]` in `[0, 1]`.
    ///
    /// # Errors
    ///
    /// If the images do not match the tokenizer.
    fn tokens(&self, images: &Tensor, step: &StepContext) -> Result<Tensor>;

    /// Whether it provides logits of all tokens.
    fn has_logits(&self) -> bool {
        false
    }

    /// The logits `[batch, rows, cols, vocab_size]`; [`Tokenizer::tokens`] takes the largest.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if it has no logits, or if the images do not match.
    fn logits(&self, _images: &Tensor, _step: &StepContext) -> Result<Tensor> {
        Err(no_logits())
    }
}

/// The error of a tokenizer without logits.
fn no_logits() -> Error {
    Error::unsupported(
        "probabilities of tokens",
        "this tokenizer selects the nearest code and has no logits",
        "use a dVAE or a VQGAN with Gumbel softmax, or a method that needs only tokens",
    )
}

/// Checks that a tokenizer gives one token for each cell of `grid`; returns the size of its images.
///
/// # Errors
///
/// [`Error::InvalidConfig`] with the sizes that would work.
pub fn fits_grid(tokenizer: &dyn Tokenizer, grid: PatchGrid) -> Result<ImageSize> {
    let side = tokenizer.stride();
    let wanted = ImageSize {
        height: grid.rows * side,
        width: grid.cols * side,
    };
    match tokenizer.image_size() {
        Some(own) if own != wanted => {
            let (rows, cols) = (own.height / side, own.width / side);
            Err(Error::config(
                "target",
                "checkpoint",
                format!("a tokenizer of {rows}x{cols} tokens"),
                format!(
                    "it takes images of {}x{} pixels, but the encoder has {grid} patches",
                    own.height, own.width
                ),
                format!(
                    "set encoder.image_size and encoder.patch_size to {rows}x{cols} patches, or train a tokenizer \
                     on images of {}x{} pixels",
                    wanted.height, wanted.width
                ),
            ))
        }
        _ => Ok(wanted),
    }
}

/// Checks that a tokenizer has logits.
///
/// # Errors
///
/// [`Error::Unsupported`] if it has none.
pub fn needs_logits(tokenizer: &dyn Tokenizer) -> Result<()> {
    match tokenizer.has_logits() {
        true => Ok(()),
        false => Err(no_logits()),
    }
}

impl<T: Tokenizer + ?Sized> Tokenizer for Box<T> {
    fn vocab_size(&self) -> usize {
        (**self).vocab_size()
    }

    fn stride(&self) -> usize {
        (**self).stride()
    }

    fn channels(&self) -> usize {
        (**self).channels()
    }

    fn image_size(&self) -> Option<ImageSize> {
        (**self).image_size()
    }

    fn tokens(&self, images: &Tensor, step: &StepContext) -> Result<Tensor> {
        (**self).tokens(images, step)
    }

    fn has_logits(&self) -> bool {
        (**self).has_logits()
    }

    fn logits(&self, images: &Tensor, step: &StepContext) -> Result<Tensor> {
        (**self).logits(images, step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Option<usize>);

    impl Tokenizer for Fixed {
        fn vocab_size(&self) -> usize {
            5
        }

        fn stride(&self) -> usize {
            4
        }

        fn channels(&self) -> usize {
            3
        }

        fn image_size(&self) -> Option<ImageSize> {
            self.0.map(ImageSize::from)
        }

        fn tokens(&self, images: &Tensor, _step: &StepContext) -> Result<Tensor> {
            Ok(images.clone())
        }
    }

    #[test]
    fn mismatched_grids_get_suggestions() {
        let grid = PatchGrid::new(8, 8);
        assert_eq!(fits_grid(&Fixed(None), grid).unwrap(), 32.into());
        assert_eq!(fits_grid(&Fixed(Some(32)), grid).unwrap(), 32.into());
        let error = fits_grid(&Fixed(Some(16)), grid).unwrap_err().to_string();
        assert!(
            error.contains("4x4 patches") && error.contains("32x32 pixels"),
            "{error}"
        );
    }

    #[test]
    fn nearest_codes_have_no_probabilities() {
        let error = needs_logits(&Fixed(None)).unwrap_err().to_string();
        assert!(error.contains("dVAE"), "{error}");
    }
}
