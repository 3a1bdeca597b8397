//! Weights of other projects: reading, renaming, fitting, reporting.

mod adapt;
mod detect;
mod file;
mod fit;
mod locate;
mod map;
mod patch_embed;
mod pattern;
mod rel_pos_bias;
mod report;
mod rules;
mod shards;
mod sources;

pub use adapt::resize_pos_embed;
pub use detect::{Guess, describe, is_encoder, look};
pub use file::{TensorHeader, WeightFile, WeightFormat};
pub(crate) use file::{read_npy, read_npy_bytes, read_npz_entry};
pub use fit::{Fitted, Grids, fit, fit_with};
pub use locate::locate;
pub use map::WeightMap;
pub use patch_embed::{ChannelFit, resize_patch_embed, with_channels};
pub use pattern::Pattern;
pub use rel_pos_bias::resize_rel_pos_bias;
pub use report::LoadReport;
pub use rules::Rule;
pub use sources::Source;
