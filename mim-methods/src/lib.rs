//! Masked image modeling methods, each a thin composition of mim's parts.

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
