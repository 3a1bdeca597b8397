//! Encoders.

mod check;
mod config;
mod conv_mae;
mod function;
mod projected;
mod swin;
mod vit;

pub use config::EncoderConfig;
pub use conv_mae::{ConvMae, ConvMaeConfig};
pub use function::{FnEncoder, FnOutput};
pub use projected::{Projected, ProjectorConfig};
pub use swin::{Swin, SwinConfig};
pub use vit::{RelPosBiasKind, Vit, VitConfig};
