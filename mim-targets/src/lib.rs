//! Target generators of mim: what the hidden tokens are compared with.
//!
//! | target | values | used by |
//! |---|---|---|
//! | [`PixelTarget`] | pixels of each patch, plain or normalised | MAE, SimMIM, BootMAE, CMAE, ConvMAE, FastMIM, SemMAE, SAIM |
//! | [`FeatureTarget`] | features of a momentum or frozen teacher | BootMAE, SIM, CMAE, MILAN |
//! | [`HogTarget`] | histograms of oriented gradients, in three forms | MaskFeat, FastMIM, DMJD |
//! | [`TokenTarget`] | tokens of DALL-E's discrete VAE | BEiT |

#![forbid(unsafe_code)]

mod blur;
#[cfg(feature = "candle-transformers")]
pub mod candle_models;
mod config;
pub mod dvae;
mod features;
mod hog;
mod pixel;
mod target_generator;
mod token;

pub use blur::Blur;
pub use config::TargetConfig;
pub use features::{FeatureTarget, FeatureTargetConfig};
pub use hog::{HogNorm, HogOrder, HogTarget, HogTargetConfig};
pub use pixel::{PatchNorm, PixelTarget, PixelTargetConfig};
pub use target_generator::{Needs, TargetGenerator, TargetRequest};
pub use token::TokenTarget;
