//! Encoders.

mod check;
mod config;
mod conv_mae;
mod function;
mod pixel_masked;
mod projected;
mod pvt_v2;
mod swin;
mod vit;

pub use config::EncoderConfig;
pub use conv_mae::{ConvMae, ConvMaeConfig, ConvMaeInit};
pub use function::{FnEncoder, FnOutput};
pub use pixel_masked::PixelMasked;
pub use projected::{Projected, ProjectorConfig};
pub use pvt_v2::{PvtV2, PvtV2Config};
pub use swin::{Swin, SwinConfig};
pub use vit::{RelPosBiasKind, Vit, VitConfig};
