//! Optimizers, with parameter groups and a state that can be saved.

mod adamw;
mod buckets;
mod clip;
mod exchange;
mod gradients;
mod groups;
mod hold;
mod lars;
mod optimizer;
#[cfg(test)]
mod testing;

pub use adamw::{AdamW, AdamWConfig};
pub use clip::Clip;
pub use gradients::Gradients;
pub use groups::NoDecay;
pub use hold::Hold;
pub use lars::{Lars, LarsConfig};
pub use optimizer::{Optimizer, OptimizerConfig};
