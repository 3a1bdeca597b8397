//! Decoders: they predict from the tokens of an encoder.

mod aggregation;
mod image_order;
mod inject;
mod latent_decoder;
mod points;
mod pooled;
mod query_stream;
mod relative;
mod rope_predictor;
mod settings;
mod style;
mod visible_mlp;

pub use aggregation::{AggregationDecoder, AggregationDecoderConfig};
pub use inject::{InjectDecoder, InjectDecoderConfig, InjectOutput};
pub use latent_decoder::{LatentDecoder, Latents};
pub use points::{PointDecoder, PointDecoderConfig, PointPropagation};
pub use pooled::PooledDecoder;
pub use query_stream::{QueryHead, QueryStream, QueryStreamConfig};
pub use relative::{RelativePredictor, RelativePredictorConfig};
pub use rope_predictor::{RopePredictor, RopePredictorConfig};
pub use settings::{DecoderSettings, DecoderShape, TokensNeeded};
pub use style::{StyleDecoder, StyleDecoderConfig, StyleShape};
pub use visible_mlp::{VisibleMlp, VisibleMlpConfig};

crate::parts! {
    /// Decoders that a config can name: those that need only the output of an encoder.
    pub fn decoders() -> dyn DecoderSettings as "decoder";
    linear => LinearDecoderConfig, LinearDecoder;
    mae => MaeDecoderConfig, MaeDecoder;
    light => LightDecoderConfig, LightDecoder;
    latent_regressor => LatentRegressorConfig, LatentRegressor;
    cross => CrossDecoderConfig, CrossDecoder;
    predictor => PredictorConfig, Predictor;
    prompt => PromptDecoderConfig, PromptDecoder, PromptOutput;
    mean_mlp => MeanMlpConfig, MeanMlp;
}
