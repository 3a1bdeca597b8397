//! Masked image modeling methods, each a thin composition of mim's parts.

#![forbid(unsafe_code)]

mod beit;
mod bootmae;
mod cmae;
mod composite;
mod convmae;
mod custom;
mod data2vec;
mod dmjd;
mod eva;
mod fastmim;
mod frozen;
mod ibot;
mod mae;
mod maskfeat;
mod method_config;
mod milan;
pub mod parity;
pub mod registry;
mod sim;
mod simmim;

pub use beit::BeitConfig;
pub use bootmae::BootMaeConfig;
pub use cmae::CmaeConfig;
pub use composite::{Composite, CompositeBuilder};
pub use convmae::ConvMaeConfig;
pub use data2vec::Data2VecConfig;
pub use dmjd::{DmjdConfig, VisibleOrder};
pub use eva::{EvaBeitStyle, EvaConfig, EvaMaeStyle, EvaStyle};
pub use fastmim::{FastMimConfig, FastMimTarget, ResolutionStage};
pub use frozen::FrozenConfig;
pub use ibot::{AttMaskConfig, CropsConfig, DistillationConfig, Ibot, IbotConfig, NamingMasker};
pub use mae::MaeConfig;
pub use maskfeat::MaskFeatConfig;
pub use method_config::MethodConfig;
pub use milan::{MilanConfig, MilanTarget};
pub use sim::SimConfig;
pub use simmim::SimMimConfig;

pub use mim_core::MaskMode;
