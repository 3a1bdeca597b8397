//! Masked image modeling methods, each a thin composition of mim's parts.

#![forbid(unsafe_code)]

mod beitv2;
mod bootmae;
mod cmae;
mod composite;
mod convmae;
mod custom;
mod dmjd;
mod dvae;
mod fastmim;
mod frozen;
mod ibot;
mod mae;
mod maskfeat;
mod mcbeit;
mod method_config;
mod milan;
pub mod parity;
mod peco_tokenizer;
pub mod registry;
mod sim;
mod simmim;
mod tokens;
mod vqkd;

pub use beitv2::BeitV2Config;
pub use bootmae::BootMaeConfig;
pub use cmae::CmaeConfig;
pub use composite::{Composite, CompositeBuilder};
pub use convmae::ConvMaeConfig;
pub use dmjd::{DmjdConfig, VisibleOrder};
pub use dvae::{Annealed, DvaeTraining, DvaeTrainingConfig};
pub use fastmim::{FastMimConfig, FastMimTarget, ResolutionStage};
pub use frozen::FrozenConfig;
pub use ibot::{AttMaskConfig, CropsConfig, DistillationConfig, Ibot, IbotConfig, NamingMasker};
pub use mae::MaeConfig;
pub use maskfeat::MaskFeatConfig;
pub use mcbeit::{McBeitConfig, McBeitMasker};
pub use method_config::MethodConfig;
pub use milan::{MilanConfig, MilanTarget};
pub use peco_tokenizer::{PecoTokenizerConfig, PecoTraining, PixelLoss};
pub use sim::SimConfig;
pub use simmim::SimMimConfig;
pub use tokens::{SoftTokensConfig, TokenizerConfig, TokensConfig};
pub use vqkd::{VqKd, VqKdConfig, VqKdDecoderConfig};

pub use mim_core::MaskMode;
