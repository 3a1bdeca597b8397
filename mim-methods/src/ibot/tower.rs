//! An encoder with its head, of the student or the teacher.

use candle_core::Tensor;
use mim_core::encoders::EncoderConfig;
use mim_core::nn::{DinoHead, DinoHeadConfig};
use mim_core::params::Params;
use mim_core::{Encoded, Encoder, Result};

/// A student or a teacher.
pub(super) struct Tower {
    pub(super) encoder: Box<dyn Encoder>,
    pub(super) head: DinoHead,
}

impl Tower {
    /// The encoder lies under `params`, the head under `head`; `shared` as in [`DinoHeadConfig::build`].
    pub(super) fn new(
        params: &Params,
        encoder: &EncoderConfig,
        head: &DinoHeadConfig,
        shared: bool,
    ) -> Result<Self> {
        let encoder = encoder.build(params)?;
        let head = head.build(&params.pp("head"), encoder.dim(), shared)?;
        Ok(Self { encoder, head })
    }
}

/// One row per image, `[rows, dim]`: the class token, or without one the mean of all tokens.
pub(super) fn image_rows(encoded: &Encoded) -> Result<Tensor> {
    match encoded.cls()? {
        Some(cls) => Ok(cls.contiguous()?),
        None => Ok(encoded.patches()?.mean(1)?),
    }
}

/// All patch tokens of all images, `[rows * tokens, dim]`.
pub(super) fn patch_rows(encoded: &Encoded) -> Result<Tensor> {
    Ok(encoded.patches()?.contiguous()?.flatten(0, 1)?)
}
