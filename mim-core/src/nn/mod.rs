//! Layers that train: each exists once and is shared by all encoders and decoders.

mod attention;
mod batch_norm;
mod block;
mod cross_attention;
mod cross_block;
mod drop_path;
mod layer_norm;
mod linear;
mod mask_token;
mod mlp;
mod patch_embed;
mod patch_unembed;
mod pos_embed;
mod projection_head;
mod rel_pos_bias;
mod relative_grid;
mod token_norm;
mod windows;

pub use attention::{Attention, QkvBias};
pub use batch_norm::BatchNorm;
pub use block::{Block, BlockConfig};
pub use cross_attention::CrossAttention;
pub use cross_block::{CrossBlock, CrossBlockConfig};
pub use drop_path::DropPath;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use mask_token::MaskToken;
pub use mlp::Mlp;
pub use patch_embed::PatchEmbed;
pub use patch_unembed::PatchUnembed;
pub use pos_embed::{PosEmbed, PosEmbedKind, sincos_table};
pub use projection_head::{ProjectionHead, ProjectionHeadConfig};
pub use rel_pos_bias::{RelPosBias, relative_position_index, window_position_index};
pub use relative_grid::RelativeGrid;
pub use token_norm::{NormKind, TokenNorm};
pub use windows::Windows;
