//! Target generators of mim: they compute what predictions are compared with.
//!
//! [`targets`] lists those that a config can name, each with a description and its paper. [`FeatureTarget`] gives the
//! features of a teacher that the method builds itself.

#![forbid(unsafe_code)]

mod blur;
#[cfg(feature = "candle-transformers")]
pub mod candle_models;
pub mod dvae;
mod features;
mod k_means;
mod part_tokens;
pub mod peco;
mod recorded_parts;
mod settings;
mod soft_tokens;
mod target_generator;
mod teacher_parts;
mod tokens;
pub mod vqgan;
pub mod vqkd;

pub use blur::Blur;
pub use features::{FeatureTarget, FeatureTargetConfig, standardize};
pub use part_tokens::{PartTokens, overlap};
pub use recorded_parts::RecordedParts;
pub use settings::{BuiltTarget, TargetContext, TargetSettings};
pub use soft_tokens::{SoftLabelsConfig, SoftTokenTarget};
pub use target_generator::{TargetGenerator, TargetRequest, TargetStage};
pub use teacher_parts::{PartRule, TeacherParts};
pub use tokens::TokenTarget;

mim_core::parts! {
    /// Targets that a config can name; `mim-methods` adds the features of a frozen network and the tokens of a
    /// tokenizer.
    pub fn targets() -> dyn TargetSettings as "target";
    pixel => PixelTargetConfig, PatchNorm, PixelTarget;
    hog => HogTargetConfig, HogNorm, HogOrder, HogTarget;
    momentum => MomentumConfig;
    complement => ComplementConfig, ComplementTarget;
    folds => FoldsConfig, FoldTarget, folds;
}
