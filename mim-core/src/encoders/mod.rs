//! Encoders: they turn images or point clouds into tokens.

mod check;
mod config;
mod function;
mod pixel_masked;
mod points;
mod projected;
mod regressed;
mod settings;

pub use function::{FnEncoder, FnOutput};
pub use pixel_masked::PixelMasked;
pub use points::{LevelTokens, PointEncoder, PointEncoderConfig, PointPositions};
pub(crate) use points::{nearest, run_with_positions};
pub use projected::{Projected, ProjectorConfig};
pub use regressed::Regressed;
pub use settings::EncoderSettings;

config::encoders! {
    vit => Vit: VitConfig, Vit, RelPosBiasKind;
    swin => Swin: SwinConfig, Swin;
    pvt_v2 => PvtV2: PvtV2Config, PvtV2;
    rope_vit => RopeVit: RopeVitConfig, RopeVit, RegisterCoordinates;
    conv_mae => ConvMae: ConvMaeConfig, ConvMae, ConvMaeInit;
}
