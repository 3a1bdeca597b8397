//! Masked image modeling methods: MAE, SimMIM, BEiT, iBOT, I-JEPA and many more, and the tools to make your own.
//!
//! Most methods are a [`Composite`]: an encoder, a masker, targets, and branches, each with a decoder and an objective.
//! Where a paper needs more, its type implements [`Method`](mim_core::Method) itself. The settings of a method are a serde
//! struct such as [`MaeConfig`], whose `Default` is the recipe of the paper. [`registry`] finds methods by name, and
//! [`parity`] compares them with recorded values of the authors' code.
//!
//! | what is predicted | methods |
//! |---|---|
//! | pixels | MAE ([`MaeConfig`]), SimMIM ([`SimMimConfig`]), ConvMAE ([`ConvMaeConfig`]), Pixio ([`PixioConfig`]), CrossMAE ([`CrossMaeConfig`]), SAIM ([`SaimConfig`]), SemMAE ([`SemMaeConfig`]) |
//! | histograms of oriented gradients | MaskFeat ([`MaskFeatConfig`]), FastMIM ([`FastMimConfig`]), DMJD ([`DmjdConfig`]) |
//! | features of a momentum teacher | BootMAE ([`BootMaeConfig`]), SIM ([`SimConfig`]), CMAE ([`CmaeConfig`]), data2vec ([`Data2VecConfig`]), iBOT ([`IbotConfig`]), AttMask ([`AttMaskConfig`]), I-JEPA ([`IJepaConfig`]), CAPI ([`CapiConfig`]), SdAE ([`SdaeConfig`]), dBOT ([`DBotConfig`]) |
//! | features of a frozen network | MILAN ([`MilanConfig`]), EVA ([`EvaConfig`]), MimCo ([`MimCoConfig`]), I2P-MAE for point clouds ([`I2pMaeConfig`]) |
//! | tokens | BEiT ([`BeitConfig`]), BEiT v2 ([`BeitV2Config`]), mc-BEiT ([`McBeitConfig`]), PeCo ([`PecoConfig`]), CAE ([`CaeConfig`]) |
//! | nothing is hidden | tokenizers ([`VqKdConfig`], [`PecoTokenizerConfig`], [`DvaeTrainingConfig`]), MIM-Refiner ([`MimRefinerConfig`]), fine-tuning ([`FinetuneConfig`]) |
//!
//! # From settings
//!
//! ```
//! use candle_core::Device;
//! use mim_core::Method;
//! use mim_core::decoders::MaeDecoderConfig;
//! use mim_core::encoders::VitConfig;
//! use mim_methods::{MaeConfig, MethodConfig};
//!
//! let config = MaeConfig {
//!     encoder: VitConfig::small(),
//!     decoder: MaeDecoderConfig::small(),
//!     ..MaeConfig::default()
//! };
//! let student = config.store(&Device::Cpu, 0); // weights drawn from seed 0
//! let method = config.build(&student)?;
//! assert_eq!(method.name(), "mae");
//! assert_eq!(method.encoder().expect("MAE has one").dim(), 128);
//! # Ok::<(), mim_core::Error>(())
//! ```
//!
//! # From a name
//!
//! A table of settings is completed first: missing ones get their defaults, and unknown ones are refused with the nearest
//! name.
//!
//! ```
//! use candle_core::Device;
//! use mim_methods::registry::{method, methods};
//!
//! let simmim = method("simmim")?;
//! let settings = r#"
//!     mask_patch_size = 8
//!     encoder = { image_size = 16, patch_size = 4, embed_dim = 16, depth = 1, num_heads = 2 }
//! "#;
//! let settings = simmim.resolve(settings.parse()?)?;
//! let built = simmim.build(settings, &Device::Cpu, 0)?;
//! assert_eq!(built.input().size.height, 16);
//!
//! let wrong = simmim.resolve("mask_ration = 0.5".parse()?).unwrap_err();
//! assert!(wrong.to_string().contains("did you mean"));
//! assert!(methods().iter().any(|entry| entry.name == "ibot"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Train it
//!
//! ```
//! use candle_core::Device;
//! use mim_core::StepContext;
//! use mim_core::data::{DataSource, Loader, LoaderConfig, Split};
//! use mim_core::optim::{AdamWConfig, Clip};
//! use mim_core::train::Stepper;
//! use mim_methods::registry::method;
//!
//! let mae = method("mae")?;
//! let settings = r#"
//!     encoder = { image_size = 16, patch_size = 4, embed_dim = 16, depth = 1, num_heads = 2 }
//!     decoder = { embed_dim = 8, depth = 1, num_heads = 2 }
//! "#;
//! let method = mae.build(mae.resolve(settings.parse()?)?, &Device::Cpu, 0)?;
//!
//! let images = DataSource::Embedded.open(Split::Train)?;
//! let loading = LoaderConfig { batch_size: 4, workers: 0, ..LoaderConfig::default() };
//! let loader = Loader::new(images, method.views(0), loading, 0)?;
//! let mut stepper = Stepper::new(&*method, AdamWConfig::default(), Clip::None)?;
//! for (iter, batch) in loader.epoch(0, 0)?.take(2).enumerate() {
//!     let step = StepContext { iter, iters_per_epoch: 2, ..StepContext::new(0) };
//!     let report = stepper.step(&*method, &[batch?], &step, 1e-3)?;
//!     assert!(report.loss.is_finite());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Trainer`](mim_core::train::Trainer) runs whole epochs and writes checkpoints.
//!
//! # Combine parts
//!
//! - In code, [`Composite::builder`] joins an encoder, a masker, targets and branches. Its page composes a method in
//!   twenty lines.
//! - In a config, the method `custom` takes any masker, target, encoder, decoder and objective by name. The parts are
//!   tried on a batch of noise when the method is built.
//!
//! ```
//! use candle_core::Device;
//! use mim_methods::registry::method;
//!
//! let custom = method("custom")?;
//! let settings = r#"
//!     scale = "32px"
//!     masker = { type = "blockwise" }
//!     target = { type = "hog" }
//!     encoder = { type = "vit", embed_dim = 16, depth = 1, num_heads = 2 }
//!     decoder = { type = "linear" }
//! "#;
//! let method = custom.build(custom.resolve(settings.parse()?)?, &Device::Cpu, 0)?;
//! assert!(method.encoder().is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Add your own
//!
//! [`registry::Registry`] takes parts and methods of your own. Configs and the program `mim` then know them:
//! `examples/own_tool.rs`.
//!
//! # Features
//!
//! All are off by default.
//!
//! | feature | what it adds |
//! |---|---|
//! | `candle-transformers` | vision models of that crate as frozen teachers (`target.type = "features"`) |
//! | `cuda`, `cudnn`, `nccl`, `mpi` | passed on to `mim-core` |
//!
//! With a clone next to your program:
//!
//! ```toml
//! [dependencies]
//! mim-methods = { path = "../mim/mim-methods", features = ["candle-transformers"] }
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

#[macro_use]
mod declare;

mod composite;
mod frozen;
mod method_config;
pub mod parity;
pub mod registry;
mod tokens;

pub use composite::{Composite, CompositeBuilder};
pub use frozen::FrozenConfig;
pub use method_config::MethodConfig;
pub use mim_core::MaskMode;
pub use tokens::{SoftTokensConfig, TokenizerConfig, TokensConfig};

methods! {
    mae => MaeConfig;
    simmim => SimMimConfig;
    bootmae => BootMaeConfig;
    sim => SimConfig;
    cmae => CmaeConfig;
    fastmim => FastMimConfig, FastMimTarget, ResolutionStage;
    maskfeat => MaskFeatConfig;
    convmae => ConvMaeConfig;
    pixio => PixioConfig;
    crossmae => CrossMaeConfig;
    ijepa => IJepaConfig;
    dmjd => DmjdConfig, VisibleOrder;
    ibot => IbotConfig, CropsConfig, DistillationConfig, Ibot, NamingMasker;
    attmask => AttMaskConfig;
    i2pmae => I2pMaeConfig, I2pMae, I2pMaeTarget;
    milan => MilanConfig, MilanTarget;
    beit => BeitConfig;
    vqkd => VqKdConfig, VqKd, VqKdDecoderConfig;
    beitv2 => BeitV2Config;
    mcbeit => McBeitConfig, McBeitMasker;
    peco_tokenizer => PecoTokenizerConfig, PecoTraining, PixelLoss;
    peco => PecoConfig;
    dvae => DvaeTrainingConfig, Annealed, DvaeTraining;
    data2vec => Data2VecConfig;
    cae => CaeConfig;
    capi => CapiConfig, Capi;
    mimrefiner => MimRefinerConfig, MimRefiner;
    eva => EvaConfig, EvaBeitStyle, EvaMaeStyle, EvaStyle;
    sdae => SdaeConfig, TeacherView;
    mimco => MimCoConfig, ImageFeature, PatchNegatives;
    saim => SaimConfig;
    semmae_parts => SemMaePartsConfig, SemMaeParts;
    semmae => SemMaeConfig, PartsConfig;
    dbot => DBotConfig;
    custom;
    finetune => FinetuneConfig, CutBox, Finetune, Mix, MixConfig, erase, mixed_targets;
}
