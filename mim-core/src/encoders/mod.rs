//! Encoders.

mod vit;

pub use vit::{RelPosBiasKind, Vit, VitConfig};
