//! Decoders.

mod config;
mod image_order;
mod inject;
mod light;
mod linear;
mod mae;
mod pooled;
mod prompt;
mod relative;
mod visible_mlp;

pub use config::{DecoderConfig, DecoderShape};
pub use inject::{InjectDecoder, InjectDecoderConfig, InjectOutput};
pub use light::{LightDecoder, LightDecoderConfig};
pub use linear::LinearDecoder;
pub use mae::{MaeDecoder, MaeDecoderConfig};
pub use pooled::PooledDecoder;
pub use prompt::{PromptDecoder, PromptOutput};
pub use relative::{RelativePredictor, RelativePredictorConfig};
pub use visible_mlp::{VisibleMlp, VisibleMlpConfig};
