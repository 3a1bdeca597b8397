//! Discrete tokens as targets.

use candle_core::Tensor;
use mim_core::{Error, PatchGrid, Result, StepContext, Target, Tokenizer, fits_grid};

use crate::target_generator::view_size;
use crate::{TargetGenerator, TargetRequest};

/// A token per patch from a tokenizer, for a cross-entropy loss (BEiT).
///
/// The tokenizer sees a view with one stride per patch on each axis, in `[0, 1]` without normalisation. For DALL-E's
/// dVAE, with stride 8, and 14x14 patches, this is a second view of 112 pixels of the same region.
pub struct TokenTarget {
    tokenizer: Box<dyn Tokenizer>,
    view: usize,
}

impl TokenTarget {
    /// Tokens of `tokenizer` for view `view` of the batch.
    pub fn new(tokenizer: impl Tokenizer + 'static, view: usize) -> Self {
        Self {
            tokenizer: Box::new(tokenizer),
            view,
        }
    }

    /// Number of distinct tokens.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// Checks that a view has this size.
    pub(crate) fn check_view(
        tokenizer: &dyn Tokenizer,
        grid: PatchGrid,
        (height, width): (usize, usize),
    ) -> Result<()> {
        let wanted = fits_grid(tokenizer, grid)?;
        if (height, width) == (wanted.height, wanted.width) {
            return Ok(());
        }
        let side = tokenizer.stride();
        Err(Error::shape(
            "tokens",
            format!("one per patch of the grid {grid}"),
            format!("{}x{}", height / side, width / side),
            format!(
                "give the tokenizer a view of {}x{} pixels",
                wanted.height, wanted.width
            ),
        ))
    }
}

/// The step for a frozen tokenizer: nothing is dropped or updated, and intermediates are `tokenizer.*`.
pub(crate) fn frozen(step: &StepContext) -> StepContext {
    StepContext {
        training: false,
        ..step.scoped("tokenizer")
    }
}

impl TargetGenerator for TokenTarget {
    fn check(&self, grid: PatchGrid, views: &[(usize, usize)]) -> Result<()> {
        Self::check_view(&self.tokenizer, grid, view_size(views, self.view)?)
    }

    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target> {
        let view = rq.batch.view(self.view)?;
        Self::check_view(&self.tokenizer, rq.grid, view.size())?;
        let tokens: Tensor = self.tokenizer.tokens(&view.unit()?, &frozen(rq.step))?;
        Ok(Target::patches(tokens.flatten_from(1)?.detach()))
    }
}

impl std::fmt::Debug for TokenTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenTarget")
            .field("vocab_size", &self.vocab_size())
            .field("view", &self.view)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dvae::{DvaeConfig, DvaeEncoder};
    use candle_core::{DType, Device};
    use mim_core::{Batch, ParamStore, View};

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
        let check = |views: &[(usize, usize)]| target.check(PatchGrid::new(2, 3), views);
        assert!(check(&[(16, 24)]).is_ok());
        for (views, wanted) in [(&[(16, 16)][..], "16x24 pixels"), (&[], "target.view = 0")] {
            let error = check(views).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
