//! Foreign weights: reading, renaming, reporting.

mod adapt;
mod map;
mod report;
mod rules;
mod sources;

pub use adapt::resize_pos_embed;
pub use map::WeightMap;
pub use report::LoadReport;
pub use rules::Rule;
pub use sources::Source;
