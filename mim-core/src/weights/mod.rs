//! Foreign weights: reading, renaming, reporting.

mod adapt;
mod locate;
mod map;
mod rel_pos_bias;
mod report;
mod rules;
mod sources;

pub use adapt::resize_pos_embed;
pub use locate::locate;
pub use map::WeightMap;
pub use rel_pos_bias::resize_rel_pos_bias;
pub use report::LoadReport;
pub use rules::Rule;
pub use sources::Source;
