//! Decoders.

mod linear;
mod mae;

pub use linear::LinearDecoder;
pub use mae::{MaeDecoder, MaeDecoderConfig};
