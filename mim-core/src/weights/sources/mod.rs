//! Sources of weights: a list of rename rules for each project.

mod beit;
mod bootmae;
mod cae;
mod capi;
mod clip;
mod cmae;
mod convmae;
mod dbot;
mod dino;
mod dmjd;
mod dvae;
mod fastmim;
mod hf_vit_mae;
mod i2pmae;
mod ibot;
mod ijepa;
mod mae;
mod mimco;
mod mimrefiner;
mod mmengine;
mod saim;
mod short_vit;
mod sim;
mod simmim;
mod swin;
#[cfg(test)]
mod tests;
mod timm;
mod vqgan;
mod vqkd;

use super::{Rule, WeightMap, rules};
use crate::{Error, Result};

/// A naming scheme for weights other than ours. The user selects it; nothing is guessed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    name: &'static str,
    rules: Vec<Rule>,
}

/// A source's name, and the function that builds its rules.
pub(super) type Known = (&'static str, fn() -> Vec<Rule>);

/// All sources.
const SOURCES: &[Known] = &[
    ("mae", mae::rules),
    ("timm", timm::rules),
    ("hf_vit_mae", hf_vit_mae::rules),
    ("sim", sim::rules),
    ("simmim", simmim::rules),
    ("bootmae", bootmae::rules),
    ("cae", cae::rules),
    ("capi", capi::rules),
    ("cmae", cmae::rules),
    ("convmae", convmae::rules),
    ("openai_clip", clip::openai),
    ("hf_clip", clip::transformers),
    ("dvae", dvae::openai),
    ("flava_codebook", dvae::flava),
    ("fastmim", fastmim::rules),
    ("dbot", dbot::rules),
    ("dmjd", dmjd::rules),
    ("mimco", mimco::rules),
    ("mmengine", mmengine::rules),
    ("saim", saim::rules),
    ("short_vit", short_vit::rules),
    ("i2pmae", i2pmae::rules),
    ("ibot", ibot::rules),
    ("ijepa", ijepa::rules),
    ("milan", mae::rules),
    ("mimrefiner", mimrefiner::rules),
    ("hf_vit", hf_vit_mae::plain),
    ("beit", beit::authors),
    ("hf_beit", beit::transformers),
    ("timm_beit", beit::timm),
    ("hf_data2vec", beit::data2vec),
    ("hf_swin", swin::transformers),
    ("timm_swin", swin::timm),
    ("dino", dino::dino),
    ("dinov2", dino::dinov2),
    ("hf_dinov2", dino::transformers),
    ("moco_v3", dino::moco_v3),
    ("vqkd", vqkd::rules),
    ("vqgan", vqgan::rules),
];

/// All sources.
pub(super) fn all() -> impl Iterator<Item = Known> {
    SOURCES.iter().copied()
}

impl Source {
    /// The source called `name`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] listing the known sources.
    pub fn named(name: &str) -> Result<Self> {
        let found = SOURCES.iter().find(|(known, _)| *known == name);
        let (name, rules) = found.ok_or_else(|| {
            Error::config(
                "weights",
                "source",
                name,
                "it is not a known source",
                crate::settings::choices(name, Self::names()),
            )
        })?;
        Ok(Self {
            name,
            rules: rules(),
        })
    }

    /// The names of all sources.
    pub fn names() -> Vec<&'static str> {
        SOURCES.iter().map(|(name, _)| *name).collect()
    }

    /// This source's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its rules.
    pub(super) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What wrappers of PyTorch put before all names, which [`Self::import`] takes off: `module.` (DDP), `_orig_mod.`
    /// (`torch.compile`) and `model.` (Lightning), in any order; empty if there is nothing.
    pub fn wrapper(&self, theirs: &WeightMap) -> String {
        rules::wrapper(&self.rules, theirs.names())
    }

    /// Translates weights (or gradients) to our names; unknown names are kept, to be reported.
    ///
    /// # Errors
    ///
    /// If a part of a stacked tensor is missing or a shape does not match its rule.
    pub fn import(&self, theirs: &WeightMap) -> Result<WeightMap> {
        match self.wrapper(theirs).as_str() {
            "" => rules::import(&self.rules, theirs),
            wrapper => rules::import(&self.rules, &theirs.strip_prefix(wrapper)),
        }
    }

    /// Translates our weights (or gradients) to this source's names.
    ///
    /// # Errors
    ///
    /// If a shape does not match its rule.
    pub fn export(&self, ours: &WeightMap) -> Result<WeightMap> {
        rules::export(&self.rules, ours)
    }
}
