//! Wraps any function as a frozen encoder.

use candle_core::Tensor;

use crate::{EncodeOptions, Encoded, Encoder, Error, Masking, PatchGrid, Result, StepContext};

/// Maps images `[batch, channels, height, width]` to tokens.
type Forward = dyn Fn(&Tensor) -> candle_core::Result<Tensor> + Send + Sync;

/// Output of the function of a [`FnEncoder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FnOutput {
    /// `[batch, prefix + tokens, dim]`: one token per patch, row by row.
    Tokens {
        /// Number of tokens before the patches. The first one is the class token; the others
        /// (registers) are dropped.
        prefix: usize,
        /// Side of a patch in pixels.
        patch_size: usize,
    },
    /// `[batch, dim]`: one row per image.
    Pooled,
}

/// A function from images to tokens, used as a teacher: for networks of other crates.
///
/// It needs whole images and gives only its output, no intermediate values.
///
/// ```
/// use candle_core::Tensor;
/// use mim_core::encoders::{FnEncoder, FnOutput};
///
/// // The mean colour of each 8x8 patch, from some other crate's model.
/// let model = |images: &Tensor| images.avg_pool2d(8)?.flatten_from(2)?.transpose(1, 2);
/// let output = FnOutput::Tokens { prefix: 0, patch_size: 8 };
/// let teacher = FnEncoder::new(model, output, 3);
/// ```
pub struct FnEncoder {
    forward: Box<Forward>,
    output: FnOutput,
    dim: usize,
}

impl FnEncoder {
    /// An encoder from a function whose tokens are `dim` wide.
    pub fn new(
        forward: impl Fn(&Tensor) -> candle_core::Result<Tensor> + Send + Sync + 'static,
        output: FnOutput,
        dim: usize,
    ) -> Self {
        Self {
            forward: Box::new(forward),
            output,
            dim,
        }
    }

    fn check(&self, masking: Masking<'_>, want: &EncodeOptions) -> Result<()> {
        let asked = match masking {
            Masking::None if want.cls_attention => "its attention",
            Masking::None if !want.layers.is_empty() => "the outputs of its blocks",
            Masking::None if want.skip_norm => "its output before the final norm",
            Masking::None => return Ok(()),
            Masking::Drop(_) | Masking::Replace(_) | Masking::Causal(_) => "masked images",
        };
        Err(Error::unsupported(
            format!("{asked} of a network from another crate"),
            "it takes whole images and returns only its output",
            "use one of mim's encoders for this",
        ))
    }

    /// Splits the function's output: class token, if any, and patches.
    fn tokens(&self, output: Tensor, grid: PatchGrid) -> Result<(Tensor, usize)> {
        let bad = |output: &Tensor, expected: String| {
            let fix = "choose the FnOutput that describes the function's output";
            Err(Error::shape(
                "output of a foreign network",
                expected,
                output.dims(),
                fix,
            ))
        };
        match self.output {
            FnOutput::Pooled => match output.rank() {
                2 => Ok((output.unsqueeze(1)?, 0)),
                _ => bad(&output, "[batch, dim]".to_owned()),
            },
            FnOutput::Tokens { prefix, .. } => {
                let count = prefix + grid.len();
                if output.rank() != 3 || output.dim(1)? != count || output.dim(2)? != self.dim {
                    return bad(&output, format!("[batch, {count}, {}]", self.dim));
                }
                if prefix < 2 {
                    return Ok((output, prefix));
                }
                let class = output.narrow(1, 0, 1)?;
                let patches = output.narrow(1, prefix, grid.len())?;
                Ok((Tensor::cat(&[class, patches], 1)?, 1))
            }
        }
    }
}

impl Encoder for FnEncoder {
    fn dim(&self) -> usize {
        self.dim
    }

    fn trunk(&self) -> &dyn Encoder {
        self
    }

    fn grid(&self, image: (usize, usize)) -> Result<PatchGrid> {
        match self.output {
            FnOutput::Tokens { patch_size, .. } => PatchGrid::of_image(image, patch_size),
            FnOutput::Pooled => Ok(PatchGrid::new(1, 1)),
        }
    }

    fn encode(
        &self,
        image: &Tensor,
        masking: Masking<'_>,
        want: &EncodeOptions,
        step: &StepContext,
    ) -> Result<Encoded> {
        self.check(masking, want)?;
        let (_, _, height, width) = image.dims4()?;
        let grid = self.grid((height, width))?;
        let (tokens, prefix) = self.tokens((self.forward)(image)?, grid)?;
        step.trace("latent", || Ok(tokens.clone()))?;
        Ok(Encoded {
            tokens,
            prefix,
            layers: vec![],
            cls_attention: None,
            grid,
        })
    }
}

impl std::fmt::Debug for FnEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FnEncoder")
            .field("output", &self.output)
            .field("dim", &self.dim)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mask;
    use candle_core::{DType, Device};

    fn encode(output: FnOutput, shape: &'static [usize], masking: Masking<'_>) -> Result<Encoded> {
        let forward = move |_: &Tensor| Tensor::zeros(shape, DType::F32, &Device::Cpu);
        let image = Tensor::zeros((2, 3, 8, 16), DType::F32, &Device::Cpu)?;
        let encoder = FnEncoder::new(forward, output, 5);
        encoder.encode(
            &image,
            masking,
            &EncodeOptions::default(),
            &StepContext::inference(),
        )
    }

    fn tokens(prefix: usize) -> FnOutput {
        FnOutput::Tokens {
            prefix,
            patch_size: 8,
        }
    }

    #[test]
    fn prefix_tokens_are_separated_from_patches() {
        let registers = encode(tokens(4), &[2, 6, 5], Masking::None).unwrap();
        assert_eq!(
            (registers.prefix, registers.tokens.dims()),
            (1, &[2, 3, 5][..])
        );
        let plain = encode(tokens(0), &[2, 2, 5], Masking::None).unwrap();
        assert_eq!((plain.prefix, plain.grid), (0, PatchGrid::new(1, 2)));
        let pooled = encode(FnOutput::Pooled, &[2, 5], Masking::None).unwrap();
        assert_eq!(pooled.tokens.dims(), [2, 1, 5]);
    }

    #[test]
    fn refuses_other_shapes_and_masks() {
        let error = encode(tokens(1), &[2, 2, 5], Masking::None).unwrap_err();
        assert!(error.to_string().contains("[batch, 3, 5]"), "{error}");
        assert!(encode(FnOutput::Pooled, &[2, 2, 5], Masking::None).is_err());
        let mask = Mask::from_bits(PatchGrid::new(1, 2), &[0, 1, 0, 1]).unwrap();
        assert!(encode(tokens(0), &[2, 2, 5], Masking::Drop(&mask)).is_err());
    }
}
