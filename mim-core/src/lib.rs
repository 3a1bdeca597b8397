//! Vocabulary, layers, encoders, decoders, data and training engine of mim.

#![forbid(unsafe_code)]

pub mod augment;
mod batch;
pub mod comm;
pub mod data;
mod decoder;
pub mod decoders;
mod encoder;
pub mod encoders;
mod error;
mod grid;
pub mod hub;
mod image_size;
mod loss_terms;
mod mask;
mod method;
pub mod nn;
mod norm;
mod objective;
pub mod objectives;
pub mod ops;
pub mod optim;
pub mod params;
pub mod parts;
pub mod rng;
mod rows;
pub mod schedule;
pub mod settings;
mod simd;
mod step;
mod tokenizer;
pub mod train;
mod view;
pub mod weights;

pub use batch::{Batch, NO_PART};
pub use decoder::{DecodeContext, Decoder};
pub use encoder::{EncodeOptions, Encoded, Encoder, MaskMode, Masking};
pub use error::{Error, Result, Text};
pub use grid::PatchGrid;
pub use image_size::ImageSize;
pub use loss_terms::LossTerms;
pub use mask::Mask;
pub use method::{Input, Method, Reconstruction};
pub use norm::Norm;
pub use objective::Objective;
pub use params::ParamStore;
pub use rng::Purpose;
pub use rows::{Prediction, Rows, Target};
pub use schedule::{Per, Point, Schedule, Warmup};
pub use step::{StepContext, TraceSink};
pub use tokenizer::{Tokenizer, fits_grid, needs_logits};
pub use view::{Crop, View};
