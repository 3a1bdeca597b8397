//! Masked image modeling methods, each a thin composition of mim's parts.

#![forbid(unsafe_code)]

mod bootmae;
mod cmae;
mod composite;
mod convmae;
mod dmjd;
mod mae;
mod maskfeat;
mod method_config;
pub mod parity;
pub mod registry;
mod sim;
mod simmim;

pub use bootmae::BootMaeConfig;
pub use cmae::CmaeConfig;
pub use composite::{Composite, MaskMode};
pub use convmae::ConvMaeConfig;
pub use dmjd::{DmjdConfig, VisibleOrder};
pub use mae::MaeConfig;
pub use maskfeat::MaskFeatConfig;
pub use method_config::MethodConfig;
pub use sim::SimConfig;
pub use simmim::SimMimConfig;
