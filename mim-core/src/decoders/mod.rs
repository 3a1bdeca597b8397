//! Decoders.

mod image_order;
mod inject;
mod linear;
mod mae;
mod pooled;
mod relative;
mod visible_mlp;

pub use inject::{InjectDecoder, InjectDecoderConfig, InjectOutput};
pub use linear::LinearDecoder;
pub use mae::{MaeDecoder, MaeDecoderConfig};
pub use pooled::PooledDecoder;
pub use relative::{RelativePredictor, RelativePredictorConfig};
pub use visible_mlp::{VisibleMlp, VisibleMlpConfig};
