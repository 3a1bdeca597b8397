//! Target generators of mim: what the hidden tokens are compared with.
//!
//! [`targets`] lists those that a config can name, each with what it does and its paper. [`FeatureTarget`] is the
//! features of a teacher that the method builds itself.

#![forbid(unsafe_code)]

mod blur;
#[cfg(feature = "candle-transformers")]
pub mod candle_models;
pub mod dvae;
mod features;
mod settings;
mod target_generator;

pub use blur::Blur;
pub use features::{FeatureTarget, FeatureTargetConfig};
pub use settings::{BuiltTarget, TargetContext, TargetSettings};
pub use target_generator::{Needs, TargetGenerator, TargetRequest};

mim_core::parts! {
    /// The targets that a config can name; `mim-methods` adds the features of a frozen network.
    pub fn targets() -> dyn TargetSettings as "target";
    pixel => PixelTargetConfig, PatchNorm, PixelTarget;
    hog => HogTargetConfig, HogNorm, HogOrder, HogTarget;
    momentum => MomentumConfig;
    complement => ComplementConfig, ComplementTarget;
    tokens => TokensConfig, TokenTarget;
}
