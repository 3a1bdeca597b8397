//! Masked image modeling methods, each a thin composition of mim's parts.

#![forbid(unsafe_code)]

mod bootmae;
mod cmae;
mod composite;
mod ibot;
mod mae;
mod method_config;
pub mod parity;
pub mod registry;
mod sim;
mod simmim;

pub use bootmae::BootMaeConfig;
pub use cmae::CmaeConfig;
pub use composite::{Composite, MaskMode};
pub use ibot::{AttMaskConfig, CropsConfig, DistillationConfig, Ibot, IbotConfig, NamingMasker};
pub use mae::MaeConfig;
pub use method_config::MethodConfig;
pub use sim::SimConfig;
pub use simmim::SimMimConfig;
