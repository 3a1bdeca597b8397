//! Masked image modeling in Rust, on [candle](candle_core): pre-train vision encoders, evaluate them, and make methods of
//! your own.
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
//! | [`eval`] | linear probe, nearest neighbours, segmentation, pictures |
//! | [`backbone`], [`Pretrained`] | trained encoders and methods, from runs, files and [published weights](zoo) |
//! | [`export`](mod@export) | folders for timm and transformers |
//! | [`RunConfig`] | a whole run as one TOML file |
//! | `cli` | the program `mim`, with your own parts if you like |
//! | [`prelude`] | the items that most programs need |
//!
//! The program `mim` does all of this from the command line. The book in `docs` explains it.
//!
//! # Train a method
//!
//! ```
//! use mim::prelude::*;
//!
//! // A small MAE with random weights, and its losses in four steps on the embedded images.
//! let config = MaeConfig {
//!     encoder: VitConfig { embed_dim: 32, depth: 1, num_heads: 2, ..VitConfig::small() },
//!     decoder: MaeDecoderConfig { embed_dim: 16, depth: 1, ..MaeDecoderConfig::small() },
//!     ..MaeConfig::default()
//! };
//! let student = config.store(&Device::Cpu, 0);
//! let method = config.build(&student)?;
//! let losses = first_losses(&method, 4)?;
//! assert!(losses[3] < losses[0]);
//! # Ok::<(), Error>(())
//! ```
//!
//! [`Trainer`](prelude::Trainer) runs epochs, writes checkpoints and resumes bit-exactly:
//! `examples/02_train_mae_tiny.rs`.
//!
//! # Change a part
//!
//! ```
//! use mim::prelude::*;
//!
//! /// Hides the right half of every image.
//! struct RightHalf;
//!
//! impl Masker for RightHalf {
//!     fn sample(&self, rq: &MaskRequest<'_>, _rng: &mut dyn Rng) -> Result<Mask> {
//!         let right = |id: usize| id % rq.grid.cols >= rq.grid.cols / 2;
//!         let row: Vec<u8> = (0..rq.grid.len()).map(|id| u8::from(right(id))).collect();
//!         Mask::from_bits(rq.grid, &row.repeat(rq.images))
//!     }
//! }
//!
//! # let encoder = VitConfig { embed_dim: 32, depth: 1, num_heads: 2, ..VitConfig::small() };
//! # let decoder = MaeDecoderConfig { embed_dim: 16, depth: 1, num_heads: 2, ..MaeDecoderConfig::small() };
//! # let config = MaeConfig { encoder, decoder, ..MaeConfig::default() };
//! // `config` is the one above.
//! let student = config.store(&Device::Cpu, 0);
//! let method = config.build(&student)?.with_masker(RightHalf)?;
//! assert!(first_losses(&method, 1)?[0].is_finite());
//! # Ok::<(), Error>(())
//! ```
//!
//! The pages of [`targets::TargetGenerator`], [`core::Decoder`] and [`core::Objective`] show the same for the other
//! parts; that of [`methods::Composite`] joins parts into a new method.
//!
//! # A whole run from its settings
//!
//! A run is a TOML file. The program writes it to `config.toml` of the run's folder.
//!
//! ```
//! use mim::prelude::*;
//!
//! let text = r#"
//!     method = "simmim"
//!     mask_patch_size = 8
//!     encoder = { image_size = 32, patch_size = 4, embed_dim = 16, depth = 1, num_heads = 2 }
//!     [train]
//!     epochs = 10
//! "#;
//! let config = RunConfig::from_table(text.parse()?)?;
//! let method = config.build(&Device::Cpu)?;
//! assert_eq!((method.name(), config.train.epochs), ("simmim", 10));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Use a trained encoder
//!
//! [`Pretrained::open`] opens a run, and [`backbone::Backbone::open`] also published weights. [`export::export`] writes a
//! folder for timm or transformers.
//!
//! ```no_run
//! use mim::export::{ExportFormat, export};
//! use mim::prelude::*;
//!
//! let model = Pretrained::open("runs/mae-1", &Device::Cpu)?;
//! let encoder = model.method.encoder().expect("MAE has an encoder");
//! let images = Tensor::zeros((1, 3, 32, 32), DType::F32, &Device::Cpu)?;
//! let (options, step) = (EncodeOptions::default(), StepContext::inference());
//! let encoded = encoder.encode(&images, Masking::None, &options, &step)?;
//! println!("{:?}", encoded.tokens.dims());
//!
//! let written = export(&model, None, ExportFormat::Timm, "vit-mine".as_ref())?;
//! println!("{}", written.loads);
//! # Ok::<(), Error>(())
//! ```
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `cli` (default) | the program, and the modules `cli`, `compare` and `report` |
//! | `hub` (default) | files of the Hugging Face Hub |
//! | `parquet` | images in parquet files; with `hub`, data sets of the Hub |
//! | `candle-transformers` | vision models of that crate as teachers |
//! | `mpi` | training by many processes on CPUs; needs MPI and libclang |
//! | `cuda` | NVIDIA GPUs; the build needs `nvcc` |
//! | `cudnn` | `cuda`, with cuDNN for candle's own convolutions |
//! | `nccl` | `cuda`, and training on several GPUs |
//! | `mkl`, `accelerate`, `metal` | candle's own features, passed on |
//!
//! The package is called `mim-zoo`, the library `mim`. With a clone next to your program:
//!
//! ```toml
//! [dependencies]
//! mim-zoo = { path = "../mim", features = ["parquet"] }
//! ```
//!
//! A library that only trains needs neither the program nor the Hub: add `default-features = false`.

#![cfg_attr(docsrs, feature(doc_cfg))]
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
