//! The tokenizer trait: images to discrete tokens.

use candle_core::Tensor;

use crate::{Error, ImageSize, PatchGrid, Result, StepContext};

/// Maps images to discrete tokens: the dVAE of BEiT, the codebooks of BEiT v2 and PeCo.
pub trait Tokenizer: Send + Sync {
    /// Number of different tokens.
    fn vocab_size(&self) -> usize;

    /// Side in pixels of what a token stands for.
    fn stride(&self) -> usize;

    /// Channels of its images.
    fn channels(&self) -> usize;

    /// The only size of images that it takes, if its positions are learned. Default: any.
    fn image_size(&self) -> Option<ImageSize> {
        None
    }

    /// The tokens `[batch, rows, cols]`, u32, of images `[batch, channels, height, width]` in `[0, 1]`.
    ///
    /// # Errors
    ///
    /// If the images do not fit the tokenizer.
    fn tokens(&self, images: &Tensor, step: &StepContext) -> Result<Tensor>;

    /// Whether it gives a logit to every token.
    fn has_logits(&self) -> bool {
        false
    }

    /// The logits `[batch, rows, cols, vocab_size]` of which [`Tokenizer::tokens`] takes the largest.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if it gives none, or if the images do not fit.
    fn logits(&self, _images: &Tensor, _step: &StepContext) -> Result<Tensor> {
        Err(no_logits())
    }
}

/// The error of a tokenizer that gives no logits.
fn no_logits() -> Error {
    Error::unsupported(
        "probabilities of tokens",
        "this tokenizer chooses the nearest code and gives no logits",
        "use a dVAE or a VQGAN with Gumbel softmax, or a method that needs tokens alone",
    )
}

/// Checks that a tokenizer gives one token for each cell of `grid`; gives the size of its images.
///
/// # Errors
///
/// [`Error::InvalidConfig`] that says which sizes fit.
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
                    "it takes images of {}x{} pixels, and the encoder has {grid} patches",
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

/// Checks that a tokenizer gives logits.
///
/// # Errors
///
/// [`Error::Unsupported`] if it does not.
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
    fn a_grid_that_does_not_fit_is_answered_with_those_that_do() {
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
    fn the_nearest_code_has_no_probabilities() {
        let error = needs_logits(&Fixed(None)).unwrap_err().to_string();
        assert!(error.contains("dVAE"), "{error}");
    }
}
