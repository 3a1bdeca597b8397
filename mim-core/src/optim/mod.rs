//! Optimizers with parameter groups and a serialisable state.

mod adamw;
mod buckets;
mod clip;
mod freeze;
mod gradients;
mod groups;
mod lars;
mod layer_decay;
mod optimizer;
mod reducer;
#[cfg(test)]
mod testing;

pub use adamw::{AdamW, AdamWConfig};
pub use clip::Clip;
pub use freeze::Freeze;
pub use gradients::Gradients;
pub use groups::{NoDecay, ParamGroup};
pub use lars::{Lars, LarsConfig};
pub use layer_decay::LayerDecay;
pub use optimizer::{Optimizer, OptimizerConfig};
