//! Masked image modeling in Rust, on [candle].
//!
//! A pre-training method is an encoder, a masker, targets, and branches, each with a decoder and an objective: a
//! [`methods::Composite`]. Each part is a trait, with an implementation for every rule that the papers use. So your own
//! method can reuse existing parts and add only what is new.
//!
//! | module | holds |
//! |---|---|
//! | [`core`] | vocabulary ([`core::Mask`], [`core::Target`], ...), parameters, layers, encoders, decoders, objectives, data, training engine |
//! | [`masking`] | [`masking::Masker`] and the maskers |
//! | [`targets`] | [`targets::TargetGenerator`] and the generators |
//! | [`methods`] | [`methods::Composite`], one module per paper, the registry, parity with the authors' code |
//! | [`eval`] | linear probe, nearest neighbours, pictures of reconstructions |
//! | [`prelude`] | the items that most programs need |
//!
//! [`RunConfig`] holds a whole run as one TOML file, [`Pretrained`] a checkpoint as a model. The program `mim` (feature
//! `cli`, on by default) does the same from the command line.
//!
//! ```
//! use mim::prelude::*;
//!
//! # fn main() -> Result<()> {
//! // A small MAE with random weights, and its loss on 8 of the embedded images.
//! let config = MaeConfig {
//!     encoder: VitConfig { image_size: 32.into(), patch_size: 4, embed_dim: 32, depth: 2, num_heads: 2, ..VitConfig::default() },
//!     decoder: MaeDecoderConfig { embed_dim: 16, depth: 1, num_heads: 2, ..MaeDecoderConfig::default() },
//!     ..MaeConfig::default()
//! };
//! let student = ParamStore::new(&Device::Cpu, 0, config.init());
//! let method = config.build(&student)?;
//! let loading = LoaderConfig { batch_size: 8, workers: 0, ..LoaderConfig::default() };
//! let loader = Loader::new(DataSource::Embedded.open(Split::Train)?, method.views(0), loading, 0)?;
//! let batch = loader.sequential()?.next().expect("there are images")?;
//! let loss = method.forward(&batch, &StepContext::new(0))?.total()?;
//! assert!(loss.to_scalar::<f32>()? > 0.);
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! `cli` (default) builds the program. `hub` (default) downloads weights from the Hugging Face Hub. `parquet` reads
//! images in parquet files, and with `hub` data sets of the Hub. `candle-transformers` adds vision models as teachers.
//! `cuda`, `cudnn`, `nccl`, `mkl`, `accelerate` and `metal` are candle's features.

#![forbid(unsafe_code)]

pub mod backbone;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod compare;
pub mod export;
mod first_losses;
pub mod init;
mod pretrained;
#[cfg(feature = "cli")]
pub mod report;
pub mod run_config;
pub mod zoo;

#[doc(inline)]
pub use first_losses::first_losses;
#[doc(inline)]
pub use mim_core as core;
#[doc(inline)]
pub use mim_eval as eval;
#[doc(inline)]
pub use mim_masking as masking;
#[doc(inline)]
pub use mim_methods as methods;
#[doc(inline)]
pub use mim_targets as targets;
#[doc(inline)]
pub use pretrained::Pretrained;
#[doc(inline)]
pub use run_config::{DataConfig, RunConfig};

// The versions used in mim's public API.
#[doc(no_inline)]
pub use candle_core as candle;
#[doc(no_inline)]
pub use rand;
#[doc(no_inline)]
pub use serde_json;
#[doc(no_inline)]
pub use toml;

/// The items that most programs need.
pub mod prelude {
    pub use crate::export::ExportFormat;
    pub use crate::{Pretrained, RunConfig, first_losses};
    pub use candle_core::{DType, Device, Tensor};
    pub use mim_core::augment::{Augment, HorizontalFlip, Pad, RandomResizedCrop, ViewPlan};
    pub use mim_core::data::{DataSource, Dataset, Loader, LoaderConfig, Split};
    pub use mim_core::decoders::{DecoderShape, LinearDecoder, MaeDecoder, MaeDecoderConfig};
    pub use mim_core::encoders::{
        EncoderConfig, PvtV2, PvtV2Config, Swin, SwinConfig, Vit, VitConfig,
    };
    pub use mim_core::objectives::{
        CosineConfig, CrossEntropyConfig, Regression, RegressionConfig,
    };
    pub use mim_core::optim::{AdamWConfig, Clip};
    pub use mim_core::params::{Ema, EmaStart, EmaTiming, Init, Params};
    pub use mim_core::train::{
        Checkpoint, EpochRecord, Observer, Outcome, StepReport, Stepper, TrainConfig, Trainer,
    };
    pub use mim_core::weights::{Source, WeightMap};
    pub use mim_core::{
        Batch, DecodeContext, Decoder, EncodeOptions, Encoded, Encoder, Error, ImageSize,
        LossTerms, Mask, Masking, Method, Norm, Objective, ParamStore, PatchGrid, Prediction,
        Purpose, Reconstruction, Result, Rows, Schedule, StepContext, Target, View,
    };
    pub use mim_eval::{EvalConfig, Features, extract, probe, reconstruction_grid, save_png};
    pub use mim_masking::{
        BlockwiseMaskerConfig, CellMaskerConfig, Guide, HiddenCount, MaskRequest, Masker, OnStuck,
        RandomMaskerConfig,
    };
    pub use mim_methods::{
        AttMaskConfig, BootMaeConfig, CmaeConfig, Composite, ConvMaeConfig, DmjdConfig,
        FastMimConfig, IbotConfig, MaeConfig, MaskFeatConfig, MaskMode, MethodConfig, MilanConfig,
        SimConfig, SimMimConfig,
    };
    pub use mim_targets::{
        FeatureTarget, FeatureTargetConfig, HogTargetConfig, PixelTargetConfig, TargetGenerator,
        TargetRequest, TargetStage,
    };
    pub use rand::{Rng, RngExt};
}

/// The Rust code of README and book, compiled and run with the tests.
#[cfg(doctest)]
mod book {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/src/adding.md")]
    mod adding {}
    #[doc = include_str!("../docs/src/composing.md")]
    mod composing {}
    #[doc = include_str!("../docs/src/weights.md")]
    mod weights {}
}
