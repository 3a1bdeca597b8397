//! Evaluation of vision encoders: accuracy of their frozen features, signals without labels, segmentation, pictures.
//!
//! The crate sees an [`Encoder`](mim_core::Encoder) and a data set, never a method. Protocols without training of the
//! encoder are here; fine-tuning is a method of `mim-methods`.
//!
//! | question | look at |
//! |---|---|
//! | how well do the features separate classes? | [`probe`], [`LinearConfig`], [`KnnConfig`] |
//! | with few labels? | [`LowshotConfig`] |
//! | do similar images come first? | [`RetrievalConfig`] |
//! | has training collapsed? | [`Signals`] |
//! | are the features of single patches useful? | [`SegmentConfig`] |
//! | what does it attend to, what is reconstructed? | [`attention_maps`], [`pca_maps`], [`reconstruction_grid`] |
//!
//! # Probe an encoder
//!
//! [`extract`] computes one feature per image, [`probe`] measures a linear classifier and the nearest neighbours.
//!
//! ```
//! use candle_core::Device;
//! use mim_core::data::{DataSource, Split, Subset};
//! use mim_core::encoders::{Vit, VitConfig};
//! use mim_core::params::{Init, ParamStore};
//! use mim_core::{ImageSize, Norm};
//! use mim_eval::{EvalConfig, extract, probe};
//! # use std::sync::Arc;
//!
//! // Random weights; `Pretrained` and `Backbone` in mim-zoo open trained ones.
//! let vit = VitConfig {
//!     image_size: 28.into(),
//!     in_channels: 1,
//!     embed_dim: 16,
//!     depth: 1,
//!     ..VitConfig::small()
//! };
//! let store = ParamStore::new(&Device::Cpu, 0, Init::Mae.build(vit.patch_values()));
//! let encoder = Vit::new(&store.root(), &vit)?;
//!
//! let (config, norm) = (EvalConfig::default(), Norm::uniform(0.286, 0.353, 1));
//! let features = |split| {
//!     let images = DataSource::Embedded.open(split)?;
//! #   let every = images.len() / 100;
//! #   let images = Arc::new(Subset::new(images, (0..100).map(|at| at * every).collect())?);
//!     extract(&encoder, images, ImageSize::from(28), &norm, &Device::Cpu, &config)
//! };
//! let result = probe(&features(Split::Train)?, &features(Split::Test)?, &config)?;
//! assert!(result.linear_top1 > 20. && result.knn_top1 > 20.); // chance is 10 %
//! # Ok::<(), mim_core::Error>(())
//! ```
//!
//! # The baseline: raw pixels
//!
//! A useful encoder beats the pixels themselves.
//!
//! ```
//! use mim_core::augment::ViewPlan;
//! use mim_core::data::{DataSource, Split};
//! use mim_eval::{EvalConfig, KnnConfig, raw_pixels};
//!
//! let config = EvalConfig::default();
//! let pixels = |split| {
//!     let images = DataSource::Embedded.open(split)?;
//!     raw_pixels(images, ViewPlan::default(), &config)
//! };
//! let (train, test) = (pixels(Split::Train)?, pixels(Split::Test)?);
//! let accuracy = KnnConfig::default().accuracy(&train, &test)?;
//! assert!(accuracy.top1 > 70. && accuracy.top5 > 95.);
//! # Ok::<(), mim_core::Error>(())
//! ```
//!
//! # Without labels
//!
//! ```
//! use mim_eval::{Features, Signals};
//!
//! // Three images with nearly the same feature: the encoder has collapsed.
//! let features = Features::new(vec![1., 0., 1., 0.01, 1., 0.], 2, vec![0, 0, 0])?;
//! let signals = Signals::of(&features)?;
//! assert!(signals.rankme < 1.1 && signals.feature_std < 0.1);
//! # Ok::<(), mim_core::Error>(())
//! ```
//!
//! # Choose a protocol by name
//!
//! [`protocols`] lists what `mim eval` can name. Every protocol gives an [`Outcome`]: figures by name, and the scores of
//! each image.
//!
//! ```
//! use mim_eval::{Features, protocols};
//!
//! let train = Features::new(vec![1., 0., 0.9, 0.1, 0., 1., 0.1, 0.9], 2, vec![0, 0, 1, 1])?;
//! let test = Features::new(vec![0.8, 0.2, 0.2, 0.8], 2, vec![0, 1])?;
//! let knn = protocols().read("type = \"knn\"\nk = 2".parse()?)?;
//! let outcome = knn.measure(&train, &test)?;
//! assert_eq!(outcome.figures[0], ("top1".to_owned(), 100.));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Pictures
//!
//! [`reconstruction_grid`] draws original, masked and reconstructed images side by side, and [`save_png`] writes a file:
//! see `examples/08_reconstruct.rs`.
//!
//! # Features
//!
//! All are off by default and are passed on to `mim-core`: `cuda`, `cudnn` and `nccl` for GPUs, `mpi` for many
//! processes on CPUs. A program that depends on `mim-zoo` sets them there.
//!
//! With a clone next to your program:
//!
//! ```toml
//! [dependencies]
//! mim-eval = { path = "../mim/mim-eval" }
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod checks;
mod classify;
mod config;
mod features;
mod glyphs;
mod lbfgs;
mod logistic;
mod maps;
mod pass;
mod picture;
mod probe;
mod protocol;
mod scores;
mod sheet;
mod split;
#[cfg(test)]
mod testing;

mim_core::parts! {
    /// Protocols on frozen features that `mim eval` can name.
    pub fn protocols() -> dyn ProtocolSettings as "protocol";
    linear => LinearConfig, LinearProbe;
    knn => KnnConfig;
    lowshot => LowshotConfig;
    retrieval => RetrievalConfig;
    signals => SignalsConfig, Signals;
    segment => SegmentConfig, MaskFolder, MaskedDataset, MaskedImage, PastedObjects, SegmentHead, SegmentScores, SegmentSummary;
}

pub use classify::classify;
pub use config::EvalConfig;
pub use features::{Features, extract, raw_pixels};
pub use glyphs::hog_glyphs;
pub use logistic::{Logistic, LogisticRegression};
pub use maps::{attention_maps, pca_maps};
#[doc(no_inline)]
pub use mim_core::Pooling;
pub use pass::{FeaturePass, FeatureRows};
pub use picture::{reconstruction_grid, save_png};
pub use probe::{Accuracy, ProbeResult, probe};
pub use protocol::{Outcome, ProtocolSettings};
pub use scores::{Scores, Summary};
pub use sheet::sheet;
