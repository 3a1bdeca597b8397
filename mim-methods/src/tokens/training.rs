//! What methods that train tokenizers share.

use candle_core::Tensor;
use mim_core::nn::CodeUsage;
use mim_core::{Error, LossTerms, Norm, Reconstruction, Result};

/// Logs how a batch uses a codebook, beside the losses.
pub(crate) fn log_usage(terms: &mut LossTerms, usage: CodeUsage) -> Result<()> {
    // Terms that cost nothing stay on the device, where metrics would be waited for.
    terms.push("codes.live", usage.live, 0.)?;
    terms.push("codes.perplexity", usage.perplexity, 0.)
}

/// A picture of a tokenizer's images, which hides nothing: before, and drawn from tokens.
pub(crate) fn redrawn(norm: &Norm, images: &Tensor, drawn: &Tensor) -> Result<Reconstruction> {
    let original = norm.invert(images)?;
    Ok(Reconstruction {
        masked: original.clone(),
        reconstruction: norm.invert(drawn)?.clamp(0f32, 1f32)?,
        original,
    })
}

/// The error of a tokenizer that is given a mask.
pub(crate) fn draws_no_masks(method: &'static str) -> Error {
    Error::unsupported(
        format!("a mask for {method}"),
        "a tokenizer sees whole images",
        "leave the mask out",
    )
}

/// The error of a tokenizer that was opened without what trains it.
pub(crate) fn untrained(method: &'static str) -> Error {
    Error::unsupported(
        format!("training {method}"),
        "it was opened to make tokens, without decoder and teacher",
        "build it on a student's store",
    )
}
