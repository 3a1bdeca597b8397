//! Discrete tokens as targets.

use candle_core::Device;
use mim_core::augment::{Augment, Interpolation, Resize, ViewPlan};
use mim_core::encoders::EncoderSettings;
use mim_core::objectives::{CrossEntropyConfig, ObjectiveSettings};
use mim_core::params::{Init, ParamStore};
use mim_core::parts::Part;
use mim_core::weights::{Source, WeightMap};
use mim_core::{Error, PatchGrid, Result, Target};
use serde::{Deserialize, Serialize};

use crate::dvae::{DvaeConfig, DvaeEncoder};
use crate::target_generator::view_size;
use crate::{BuiltTarget, TargetContext, TargetGenerator, TargetRequest, TargetSettings};

/// Settings of tokens as target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokensConfig {
    /// A weights file of the encoder, perhaps on the Hugging Face Hub (`hf:owner/name[@revision][/file]`), or
    /// `random`. There is no default.
    pub checkpoint: String,
    /// Whose names the file has: `dvae` or `flava_codebook`. Default `flava_codebook`.
    pub source: String,
    /// Which view of the batch becomes tokens, 8 pixels each. Default 1.
    pub view: usize,
    /// The network. Default as released.
    pub network: DvaeConfig,
}

impl Default for TokensConfig {
    fn default() -> Self {
        Self {
            checkpoint: String::new(),
            source: "flava_codebook".to_owned(),
            view: 1,
            network: DvaeConfig::default(),
        }
    }
}

impl TokensConfig {
    fn open(&self, device: &Device) -> Result<TokenTarget> {
        let random = self.checkpoint == "random";
        if self.checkpoint.is_empty() {
            return Err(Error::config(
                "target",
                "checkpoint",
                "not set",
                "tokens come from a discrete VAE trained elsewhere: facebook/flava-image-codebook on the \
                 Hugging Face Hub (BSD-3 licence) has the encoder of DALL-E",
                "set target.checkpoint to its weights as .safetensors or hf:owner/name, or to \"random\" \
                 for tokens without meaning",
            ));
        }
        let init = Init::Mae.build(3);
        let store = ParamStore::with_frozen(device, 0, init, |_| true);
        let encoder = DvaeEncoder::new(&store.root().pp("encoder"), &self.network)?;
        if !random {
            let weights = WeightMap::read(&self.checkpoint)?;
            let weights = Source::named(&self.source)?.import(&weights)?;
            self.network.check_weights(&weights)?;
            store.load(&weights)?;
        }
        Ok(TokenTarget::new(encoder, self.view))
    }
}

impl Part for TokensConfig {
    const ABOUT: &'static str = "tokens of DALL-E's discrete VAE";
    const PAPER: &'static str = "BEiT: Bao et al., ICLR 2022, arXiv 2106.08254";
}

impl TargetSettings for TokensConfig {
    fn build(&self, cx: &TargetContext<'_>) -> Result<BuiltTarget> {
        let target = self.open(cx.student.device())?;
        let note = format!("tokens by the discrete VAE `{}`", self.checkpoint);
        Ok(BuiltTarget {
            note: Some(note),
            ..BuiltTarget::new(target, self.network.vocab_size)
        })
    }

    fn objective(&self) -> Box<dyn ObjectiveSettings> {
        Box::new(CrossEntropyConfig::default())
    }

    /// MAE's, and a second, resized view of the same crop for the tokenizer.
    fn views(&self, encoder: &dyn EncoderSettings) -> Result<ViewPlan> {
        let size = <(usize, usize)>::from(encoder.image_size());
        let grid = encoder.grid()?;
        let tokens = (
            grid.rows * DvaeConfig::STRIDE,
            grid.cols * DvaeConfig::STRIDE,
        );
        let tokenizer = Augment::Resize(Resize {
            size: tokens.into(),
            interpolation: Interpolation::Lanczos,
        });
        Ok(ViewPlan {
            views: vec![vec![], vec![tokenizer]],
            ..ViewPlan::mae(size)
        })
    }
}

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

impl TokenTarget {
    /// Refuses `tokens` of a view that are not those of `grid`.
    fn check_grid(grid: PatchGrid, tokens: (usize, usize)) -> Result<()> {
        if tokens == (grid.rows, grid.cols) {
            return Ok(());
        }
        let side = DvaeConfig::STRIDE;
        Err(Error::shape(
            "tokens of the dVAE",
            format!("one for each patch of the grid {grid}"),
            format!("{}x{}", tokens.0, tokens.1),
            format!(
                "give the tokenizer a view of {}x{} pixels",
                grid.rows * side,
                grid.cols * side
            ),
        ))
    }
}

impl TargetGenerator for TokenTarget {
    fn check(&self, grid: PatchGrid, views: &[(usize, usize)]) -> Result<()> {
        let (height, width) = view_size(views, self.view)?;
        let side = DvaeConfig::STRIDE;
        Self::check_grid(grid, (height / side, width / side))
    }

    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target> {
        let images = rq.batch.view(self.view)?.unit()?;
        let tokens = self.encoder.tokens(&images, &rq.step.scoped("tokenizer"))?;
        let (_, rows, cols) = tokens.dims3()?;
        Self::check_grid(rq.grid, (rows, cols))?;
        Ok(Target::patches(tokens.flatten_from(1)?.detach()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};
    use mim_core::{Batch, ParamStore, StepContext, View};

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
