//! Encoders.

mod projected;
mod vit;

pub use projected::{Projected, ProjectorConfig};
pub use vit::{RelPosBiasKind, Vit, VitConfig};
