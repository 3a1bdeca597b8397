//! Code shared by methods that train tokenizers.

use candle_core::Tensor;
use mim_core::nn::CodeUsage;
use mim_core::{Error, LossTerms, Norm, Reconstruction, Result};

/// Logs the use of a codebook by a batch, in addition to the losses.
pub(crate) fn log_usage(terms: &mut LossTerms, usage: CodeUsage) -> Result<()> {
    // Zero-weight terms stay on the device; metrics would synchronise.
    terms.push("codes.live", usage.live, 0.)?;
    terms.push("codes.perplexity", usage.perplexity, 0.)
}

/// A reconstruction of a tokenizer's images, where nothing is hidden: the images, and the images decoded from tokens.
pub(crate) fn redrawn(norm: &Norm, images: &Tensor, drawn: &Tensor) -> Result<Reconstruction> {
    let original = norm.invert(images)?;
    Ok(Reconstruction {
        masked: original.clone(),
        reconstruction: norm.invert(drawn)?.clamp(0f32, 1f32)?,
        original,
    })
}

/// The error if a tokenizer is given a mask.
pub(crate) fn draws_no_masks(method: &'static str) -> Error {
    Error::unsupported(
        format!("a mask for {method}"),
        "a tokenizer sees whole images",
        "remove the mask",
    )
}

/// The error if a tokenizer was opened without its training parts.
pub(crate) fn untrained(method: &'static str) -> Error {
    Error::unsupported(
        format!("training {method}"),
        "it was opened only to compute tokens, without decoder and teacher",
        "build it on a student's store",
    )
}
