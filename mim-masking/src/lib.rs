//! Maskers of mim: which tokens of an image are hidden.
//!
//! | masker | rule | used by |
//! |---|---|---|
//! | [`RandomMasker`] | uniform noise, the smallest stay | MAE and most that drop patches |
//! | [`CellMasker`] | whole cells of several patches | SimMIM, CMAE, FastMIM |
//! | [`BlockwiseMasker`] | rectangles up to a count | BEiT, EVA, MaskFeat, data2vec, SIM, CAE |
//! | [`RolledBlockMasker`] | rectangles and some more patches, rolled order | BootMAE |
//! | [`IbotBlockMasker`] | rectangles up to a drawn share | iBOT |
//! | [`AttentionMasker`] | what a teacher attends to most, or least | AttMask |
//! | [`DisjointMasker`] | several masks an image that hide nearly all of it | DMJD |
//! | [`WeightedMasker`] | draws by a teacher's attention, the first stay | MILAN |
//! | [`FixedMasker`] | a given mask | parity checks, pictures, tests |

#![forbid(unsafe_code)]

mod attention_guided;
mod blocks;
mod blockwise;
mod cell;
mod config;
mod count;
mod disjoint;
mod draws;
mod fixed;
mod ibot_block;
mod masker;
mod random;
mod rolled;
#[cfg(test)]
mod sampling;
mod weighted;

pub use attention_guided::{AttentionDraws, AttentionMasker, AttentionMaskerConfig, AttentionMode};
pub use blockwise::{BlockwiseMasker, BlockwiseMaskerConfig, WhenStuck};
pub use cell::{CellMasker, CellMaskerConfig, CellRounding};
pub use config::MaskerConfig;
pub use count::HiddenCount;
pub use disjoint::{DisjointDraw, DisjointMasker, DisjointMaskerConfig};
pub use fixed::FixedMasker;
pub use ibot_block::{IbotBlockMasker, IbotBlockMaskerConfig, IbotShape, RatioRange};
pub use masker::{Guide, GuideKind, MaskRequest, Masker};
pub use random::{RandomMasker, RandomMaskerConfig};
pub use rolled::{RolledBlockMasker, RolledBlockMaskerConfig};
pub use weighted::{WeightedMasker, WeightedMaskerConfig};
