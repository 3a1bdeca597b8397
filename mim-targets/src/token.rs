//! Discrete tokens as targets.

use mim_core::{Error, Result, Target};

use crate::dvae::{DvaeConfig, DvaeEncoder};
use crate::{TargetGenerator, TargetRequest};

/// The dVAE's token of each patch, for a cross-entropy (BEiT).
///
/// The tokenizer sees a view of its own, whose side is 8 pixels for each patch: of 14x14 patches a
/// second, 112-pixel crop of the same region, in `[0, 1]` without normalisation.
#[derive(Debug, Clone)]
pub struct TokenTarget {
    encoder: DvaeEncoder,
    view: usize,
}

impl TokenTarget {
    /// Tokens by `encoder` of the batch's view `view`.
    pub fn new(encoder: DvaeEncoder, view: usize) -> Self {
        Self { encoder, view }
    }
}

impl TargetGenerator for TokenTarget {
    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target> {
        let images = rq.batch.view(self.view)?.unit()?;
        let tokens = self.encoder.tokens(&images, &rq.step.scoped("tokenizer"))?;
        let (_, rows, cols) = tokens.dims3()?;
        if (rows, cols) != (rq.grid.rows, rq.grid.cols) {
            let side = DvaeConfig::STRIDE;
            return Err(Error::shape(
                "tokens of the dVAE",
                format!("one for each patch of the grid {}", rq.grid),
                format!("{rows}x{cols}"),
                format!(
                    "give the tokenizer a view of {}x{} pixels",
                    rq.grid.rows * side,
                    rq.grid.cols * side
                ),
            ));
        }
        Ok(Target::patches(tokens.flatten_from(1)?.detach()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};
    use mim_core::{Batch, ParamStore, PatchGrid, StepContext, View};

    #[test]
    fn every_patch_has_a_token_or_the_view_is_refused() {
        let config = DvaeConfig {
            n_hid: 4,
            n_blk_per_group: 1,
            vocab_size: 7,
            ..DvaeConfig::default()
        };
        let encoder = DvaeEncoder::new(&ParamStore::cpu(0).root(), &config).unwrap();
        let pixels = Tensor::rand(0f32, 255f32, (2, 3, 16, 24), &Device::Cpu).unwrap();
        let view = View::new(pixels.to_dtype(DType::U8).unwrap(), vec![]).unwrap();
        let batch = Batch::single(view);
        let step = StepContext::new(0);
        let target = TokenTarget::new(encoder, 0);
        let generate = |grid| {
            target.generate(&TargetRequest {
                batch: &batch,
                grid,
                mask: None,
                student: None,
                step: &step,
            })
        };
        let tokens = generate(PatchGrid::new(2, 3)).unwrap().patches;
        assert_eq!((tokens.dims(), tokens.dtype()), (&[2, 6][..], DType::U32));
        let error = generate(PatchGrid::new(4, 4)).unwrap_err().to_string();
        assert!(error.contains("32x32 pixels"), "{error}");
    }
}
