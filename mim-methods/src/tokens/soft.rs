//! Soft labels of tokenizers as targets.

use mim_core::Result;
use mim_core::augment::ViewPlan;
use mim_core::encoders::EncoderSettings;
use mim_core::objectives::{CrossEntropyConfig, ObjectiveSettings};
use mim_core::parts::Part;
use mim_targets::{BuiltTarget, SoftLabelsConfig, SoftTokenTarget, TargetContext, TargetSettings};
use serde::{Deserialize, Serialize};

use super::{TokensConfig, check};

/// Token probabilities as target; `Default` is mc-BEiT's; the tokenizer must be given.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SoftTokensConfig {
    /// The tokenizer; it must provide logits.
    pub tokens: TokensConfig,
    /// How tokens become soft labels.
    pub labels: SoftLabelsConfig,
}

impl Part for SoftTokensConfig {
    const ABOUT: &'static str =
        "probabilities of a tokenizer's tokens, shared among patches that look alike";
    const PAPER: &'static str = "mc-BEiT: Li et al., ECCV 2022, arXiv 2203.15371";
}

impl TargetSettings for SoftTokensConfig {
    fn build(&self, cx: &TargetContext<'_>) -> Result<BuiltTarget> {
        let tokenizer = self.tokens.open(cx.student.device())?;
        check(&tokenizer, cx.encoder.in_channels(), true)?;
        let values = tokenizer.vocab_size();
        let (image, grid) = (cx.encoder.image_size(), cx.encoder.grid()?);
        let view = self.tokens.view(&tokenizer, image, grid)?;
        let target = SoftTokenTarget::new(tokenizer, view.index, self.labels.clone())?;
        Ok(BuiltTarget {
            note: Some(self.tokens.note()),
            ..BuiltTarget::new(target, values)
        })
    }

    fn objective(&self) -> Box<dyn ObjectiveSettings> {
        Box::new(CrossEntropyConfig::default())
    }

    fn views(&self, encoder: &dyn EncoderSettings) -> Result<ViewPlan> {
        self.tokens.views(encoder)
    }
}
