//! The base of mim: the vocabulary of masked image modeling, layers and networks, data, weights, and the training engine.
//!
//! A program usually depends on `mim-zoo`, which has this crate as `mim::core`. Use it alone for its encoders, its data
//! loader, its reader of weights, or its engine.
//!
//! | to do this | look at |
//! |---|---|
//! | say which patches are hidden | [`Mask`], [`PatchGrid`], [`Masking`] |
//! | turn images into tokens | [`Encoder`], [`encoders`], [`Pooling`] |
//! | predict from tokens, and measure the error | [`Decoder`], [`decoders`], [`Objective`], [`objectives`], [`Target`] |
//! | build layers on named parameters | [`nn`], [`ops`], [`ParamStore`], [`params`] |
//! | read and augment images or point clouds | [`data`], [`augment`], [`points`] |
//! | read weights of other projects | [`weights`], [`hub`] |
//! | train | [`Method`], [`train::Trainer`], [`train::Stepper`], [`optim`], [`Schedule`] |
//! | train with many processes | [`comm`] |
//!
//! # Encode an image, with and without a mask
//!
//! In a mask, 1 is hidden. A [`Mask`] also keeps the order of the tokens, which MAE's decoder needs.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use mim_core::encoders::{Vit, VitConfig};
//! use mim_core::params::{Init, ParamStore};
//! use mim_core::{EncodeOptions, Encoder, Mask, Masking, Pooling, StepContext};
//!
//! let config = VitConfig::small(); // 32 pixels, patches of 4
//! let store = ParamStore::new(&Device::Cpu, 0, Init::Mae.build(config.patch_values()));
//! let vit = Vit::new(&store.root(), &config)?;
//! let images = Tensor::zeros((2, 3, 32, 32), candle_core::DType::F32, &Device::Cpu)?;
//! let (options, step) = (EncodeOptions::default(), StepContext::inference());
//!
//! // One feature per image.
//! let encoded = vit.encode(&images, Masking::None, &options, &step)?;
//! assert_eq!(Pooling::Mean.apply(&encoded)?.dims(), [2, vit.dim()]);
//!
//! // The upper half hidden: its patches do not enter.
//! let bits: Vec<u8> = (0..64).map(|patch| u8::from(patch < 32)).collect();
//! let mask = Mask::from_bits(vit.grid((32, 32))?, &bits.repeat(2))?;
//! let encoded = vit.encode(&images, Masking::Drop(&mask), &options, &step)?;
//! assert_eq!(encoded.patches()?.dims(), [2, 32, vit.dim()]);
//! # Ok::<(), mim_core::Error>(())
//! ```
//!
//! # Read images
//!
//! [`data::DataSource`] parses what `--data` takes: folders, tables, tar and parquet files, data sets of the Hub, point
//! clouds. A [`data::Loader`] augments on several threads. The batches do not depend on their number.
//!
//! ```
//! use mim_core::augment::ViewPlan;
//! use mim_core::data::{DataSource, Loader, LoaderConfig, Split};
//!
//! let images = "embedded".parse::<DataSource>()?.open(Split::Train)?;
//! let config = LoaderConfig { batch_size: 8, workers: 1, ..LoaderConfig::default() };
//! let loader = Loader::new(images, ViewPlan::mae(32), config, 0)?;
//! let batch = loader.epoch(0, 0)?.next().expect("there are images")?;
//! assert_eq!(batch.view(0)?.unit()?.dims(), [8, 1, 32, 32]); // grey, in [0, 1]
//! # Ok::<(), mim_core::Error>(())
//! ```
//!
//! # Build a network on named parameters
//!
//! Modules take a path in a store. Names are those of checkpoints, and initial values depend on seed and name alone.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use mim_core::nn::{LayerNorm, Linear};
//! use mim_core::params::{Init, ParamStore};
//!
//! let store = ParamStore::new(&Device::Cpu, 7, Init::Mae.build(48));
//! let head = store.root().pp("head");
//! let norm = LayerNorm::new(&head.pp("norm"), 16, 1e-6)?;
//! let fc = Linear::new(&head.pp("fc"), 16, 10)?;
//! let xs = Tensor::zeros((2, 16), DType::F32, &Device::Cpu)?;
//! let logits = fc.forward(&norm.forward(&xs)?)?;
//! assert_eq!(logits.dims(), [2, 10]);
//! assert!(store.var("head.fc.weight").is_some());
//! # Ok::<(), mim_core::Error>(())
//! ```
//!
//! # Load weights of another project
//!
//! Every project names the same weights differently. [`weights::Source`] translates names in both directions. Loading
//! is strict: an error lists everything that is missing, unexpected or of another shape.
//!
//! ```
//! use candle_core::Device;
//! use mim_core::encoders::{Vit, VitConfig};
//! use mim_core::params::{Init, ParamStore};
//! use mim_core::weights::{Source, WeightMap};
//!
//! let config = VitConfig::small();
//! let network = |seed| {
//!     let store = ParamStore::new(&Device::Cpu, seed, Init::Mae.build(config.patch_values()));
//!     Vit::new(&store.root(), &config)?;
//!     Ok::<_, mim_core::Error>(store)
//! };
//!
//! // Weights with the names of Hugging Face's ViT-MAE. `WeightMap::read` reads a file.
//! let trained = network(0)?;
//! let tensors = trained.vars().into_iter();
//! let ours: WeightMap = tensors.map(|(name, var)| (name, var.as_detached_tensor())).collect();
//! let source = Source::named("hf_vit_mae")?;
//! let theirs = source.export(&ours)?;
//! assert!(theirs.names().any(|name| name.ends_with("attention.query.weight")));
//!
//! let report = network(1)?.load(&source.import(&theirs)?)?;
//! assert!(report.missing.is_empty());
//! # Ok::<(), mim_core::Error>(())
//! ```
//!
//! # Train
//!
//! [`train::Trainer`] runs epochs, writes checkpoints and resumes bit-exactly. Its page trains the small method of the
//! page of [`Method`]. [`train::Stepper`] makes single steps, for a loop of your own.
//!
//! # Features
//!
//! All are off by default.
//!
//! | feature | what it adds |
//! |---|---|
//! | `hub` | downloads from the Hugging Face Hub ([`hub`]) |
//! | `hf-hub` | `hub`, with downloads by the crate hf-hub: Xet and SOCKS proxies |
//! | `parquet` | images in parquet files; with `hub`, data sets of the Hub |
//! | `mpi` | training by many processes on CPUs; needs MPI and libclang |
//! | `cuda` | NVIDIA GPUs, with the kernels of `mim-ops`; the build needs `nvcc` |
//! | `cudnn` | `cuda`, with cuDNN for candle's own convolutions |
//! | `nccl` | `cuda`, and training on several GPUs |
//! | `mkl`, `accelerate`, `metal` | candle's own features, passed on |
//!
//! With a clone next to your program:
//!
//! ```toml
//! [dependencies]
//! mim-core = { path = "../mim/mim-core", features = ["hub", "parquet"] }
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub mod augment;
mod batch;
mod classifier;
pub mod comm;
pub mod data;
mod decoder;
pub mod decoders;
mod encoder;
pub mod encoders;
mod error;
pub mod files;
mod grid;
pub mod hub;
mod image_size;
mod loss_terms;
mod mask;
pub mod memory;
mod method;
pub mod nn;
mod norm;
mod objective;
pub mod objectives;
pub mod ops;
pub mod optim;
pub mod params;
pub mod parts;
pub mod points;
mod pooling;
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
pub use classifier::Classifier;
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
pub use pooling::Pooling;
pub use rng::Purpose;
pub use rows::{Prediction, Rows, Target};
pub use schedule::{Per, Point, Schedule, Warmup};
pub use step::{StepContext, TraceSink};
pub use tokenizer::{Tokenizer, fits_grid, needs_logits};
pub use view::{Crop, View};
