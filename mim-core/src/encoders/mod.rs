//! Encoders.

mod check;
mod config;
mod conv_mae;
mod projected;
mod swin;
mod vit;

pub use config::EncoderConfig;
pub use conv_mae::{ConvMae, ConvMaeConfig, ConvMaeInit};
pub use projected::{Projected, ProjectorConfig};
pub use swin::{Swin, SwinConfig};
pub use vit::{RelPosBiasKind, Vit, VitConfig};
