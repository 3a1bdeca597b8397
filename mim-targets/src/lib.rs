//! Target generators: they compute what is to be predicted for hidden patches.
//!
//! A target generator is a [`TargetGenerator`]. From a batch it computes a [`Target`](mim_core::Target): values or token
//! ids for each patch, for each image, or both. No gradient flows through it, except where its page says so.
//!
//! | what is predicted | generators |
//! |---|---|
//! | pixels | [`PixelTarget`] (MAE, SimMIM, BootMAE, SAIM) |
//! | histograms of oriented gradients | [`HogTarget`] (MaskFeat, FastMIM, DMJD) |
//! | features of a teacher, frozen or momentum | [`FeatureTarget`] (data2vec, MILAN, dBOT) |
//! | features of a teacher that sees only hidden patches | [`ComplementTarget`] (CAE), [`FoldTarget`] (SdAE) |
//! | discrete tokens | [`TokenTarget`] (BEiT), [`SoftTokenTarget`] (mc-BEiT) |
//!
//! Tokenizers: [`dvae`], [`vqgan`], [`vqkd`], [`peco`]. Guides of maskers that hide parts: [`RecordedParts`],
//! [`TeacherParts`].
//!
//! # Pixels
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use mim_core::{Batch, PatchGrid, StepContext, View};
//! use mim_targets::{PixelTargetConfig, TargetGenerator, TargetRequest};
//!
//! let pixels = Tensor::zeros((2, 3, 8, 8), DType::U8, &Device::Cpu)?;
//! let batch = Batch::single(View::new(pixels, vec![])?);
//! let step = StepContext::new(0);
//! let grid = PatchGrid::new(2, 2);
//! let request = TargetRequest { batch: &batch, grid, mask: None, student: None, step: &step };
//!
//! // Each patch normalised by its own mean and deviation, as in MAE.
//! let target = PixelTargetConfig::default().build()?.generate(&request)?;
//! assert_eq!(target.patches.dims(), [2, 4, 4 * 4 * 3]);
//! # Ok::<(), mim_core::Error>(())
//! ```
//!
//! # Features of a teacher
//!
//! Any [`Encoder`](mim_core::Encoder) can be a teacher. On a store made by
//! [`ParamStore::teacher`](mim_core::ParamStore::teacher) it gets no gradient, and an [`Ema`](mim_core::params::Ema) can
//! update it.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use mim_core::encoders::{Vit, VitConfig};
//! use mim_core::params::ParamStore;
//! use mim_core::{Batch, PatchGrid, StepContext, View};
//! use mim_targets::{FeatureTarget, FeatureTargetConfig, TargetGenerator, TargetRequest};
//!
//! let store = ParamStore::teacher(&Device::Cpu);
//! let vit = Vit::new(&store.root(), &VitConfig::small())?;
//! let config = FeatureTargetConfig {
//!     layers: vec![2, 3],
//!     layer_norm_eps: Some(1e-6),
//!     ..FeatureTargetConfig::default()
//! };
//! let target = FeatureTarget::new(vit, config)?;
//!
//! let pixels = Tensor::zeros((1, 3, 32, 32), DType::U8, &Device::Cpu)?;
//! let batch = Batch::single(View::new(pixels, vec![])?);
//! let step = StepContext::new(0);
//! let grid = PatchGrid::new(8, 8);
//! let request = TargetRequest { batch: &batch, grid, mask: None, student: None, step: &step };
//! assert_eq!(target.generate(&request)?.patches.dims(), [1, 64, 128]);
//! # Ok::<(), mim_core::Error>(())
//! ```
//!
//! # Choose a target by name
//!
//! [`targets`] lists what a config can name, with descriptions and papers. [`TargetSettings::build`] makes the generator
//! for a method. `mim-methods` adds `features` (a frozen network) and `tokens` (a tokenizer), which open files and runs.
//!
//! ```
//! use mim_targets::targets;
//!
//! let hog = targets().read("type = \"hog\"\nbins = 12".parse()?)?;
//! assert_eq!(hog.to_table()?["bins"].as_integer(), Some(12));
//! let names: Vec<_> = targets().infos().map(|info| info.name.clone()).collect();
//! assert_eq!(names, ["pixel", "hog", "momentum", "complement", "folds"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Write your own
//!
//! [`TargetGenerator`] has one method to write; its page computes the mean colour of each patch.
//! `examples/05_own_target.rs` trains on it.
//!
//! # Features
//!
//! All are off by default.
//!
//! | feature | what it adds |
//! |---|---|
//! | `candle-transformers` | vision models of that crate as teachers (module `candle_models`) |
//! | `cuda`, `cudnn`, `nccl`, `mpi` | passed on to `mim-core` |
//!
//! With a clone next to your program:
//!
//! ```toml
//! [dependencies]
//! mim-targets = { path = "../mim/mim-targets", features = ["candle-transformers"] }
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod blur;
#[cfg(feature = "candle-transformers")]
pub mod candle_models;
pub mod dvae;
mod features;
mod k_means;
mod part_tokens;
pub mod peco;
mod recorded_parts;
mod settings;
mod soft_tokens;
mod target_generator;
mod teacher_parts;
mod tokens;
pub mod vqgan;
pub mod vqkd;

pub use blur::Blur;
pub use features::{FeatureTarget, FeatureTargetConfig, standardize};
pub use part_tokens::{PartTokens, overlap};
pub use recorded_parts::RecordedParts;
pub use settings::{BuiltTarget, TargetContext, TargetSettings};
pub use soft_tokens::{SoftLabelsConfig, SoftTokenTarget};
pub use target_generator::{TargetGenerator, TargetRequest, TargetStage};
pub use teacher_parts::{PartRule, TeacherParts};
pub use tokens::TokenTarget;

mim_core::parts! {
    /// Targets that a config can name; `mim-methods` adds the features of a frozen network and the tokens of a
    /// tokenizer.
    pub fn targets() -> dyn TargetSettings as "target";
    pixel => PixelTargetConfig, PatchNorm, PixelTarget;
    hog => HogTargetConfig, HogNorm, HogOrder, HogTarget;
    momentum => MomentumConfig;
    complement => ComplementConfig, ComplementTarget;
    folds => FoldsConfig, FoldTarget, folds;
}
