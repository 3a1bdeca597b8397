//! The training engine.

mod checkpoint;
mod config;
mod engine;
mod failed_step;
mod log;
mod observer;
mod pending_step;
mod step;
mod tensorboard;

pub use checkpoint::{Checkpoint, TrainState};
pub use config::TrainConfig;
pub use engine::{Origin, Outcome, Replay, ReplayedBatch, Trainer};
pub use failed_step::{BatchImage, FailedStep};
pub use log::{EpochLog, EpochRecord};
pub use observer::{Observer, StepReport};
pub use pending_step::PendingStep;
pub use step::Stepper;
pub use tensorboard::EventWriter;
