//! Encoders.

mod config;
mod projected;
mod swin;
mod vit;

pub use config::EncoderConfig;
pub use projected::{Projected, ProjectorConfig};
pub use swin::{Swin, SwinConfig};
pub use vit::{RelPosBiasKind, Vit, VitConfig};
