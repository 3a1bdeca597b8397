//! Tokenizers as targets: published weights, a finished run, or random weights.

mod network;
mod run;
mod soft;
mod training;

use std::path::Path;

use candle_core::{Device, Tensor};
use mim_core::augment::{Augment, Interpolation, Resize, ViewPlan};
use mim_core::encoders::EncoderSettings;
use mim_core::objectives::{CrossEntropyConfig, ObjectiveSettings};
use mim_core::params::{Init, ParamStore};
use mim_core::parts::Part;
use mim_core::weights::{Source, WeightMap};
use mim_core::{Error, ImageSize, PatchGrid, Result, Tokenizer, fits_grid, needs_logits};
use mim_targets::{BuiltTarget, TargetContext, TargetSettings, TokenTarget};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

pub use network::TokenizerConfig;
use run::RunTokenizer;
pub use soft::SoftTokensConfig;
pub(crate) use training::{draws_no_masks, log_usage, redrawn, untrained};

/// Value of `checkpoint` for a network with random weights.
const RANDOM: &str = "random";

/// The view of a batch that becomes tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenView {
    /// Its index.
    pub(crate) index: usize,
    /// The size (height, width) in pixels that gives one token per patch.
    pub(crate) size: (usize, usize),
}

/// Tokens as target; `Default` is DALL-E's discrete VAE; its weights must be given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokensConfig {
    /// A weights file, optionally on the Hugging Face Hub (`hf:owner/name[@revision][/file]`), the folder of a run of
    /// `mim pretrain --method vqkd`, `peco_tokenizer` or `dvae`, or `random`. There is no default.
    pub checkpoint: String,
    /// The naming scheme of the weights file. Default `flava_codebook`.
    pub source: String,
    /// Index of the view that becomes tokens. If not set: the first if a token is as large as a patch, otherwise the
    /// second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub view: Option<usize>,
    /// The network of the weights file; a run folder has its own settings. Default DALL-E's, also if no `type` is
    /// given.
    #[serde(deserialize_with = "dvae_unless_named")]
    pub network: TokenizerConfig,
}

/// Settings of mim 0.1.0 have no type: there was only one.
fn dvae_unless_named<'de, D: Deserializer<'de>>(
    input: D,
) -> std::result::Result<TokenizerConfig, D::Error> {
    let mut table = toml::Table::deserialize(input)?;
    let kind = table.entry("type");
    kind.or_insert_with(|| "dvae".into());
    TokenizerConfig::deserialize(table).map_err(D::Error::custom)
}

impl Default for TokensConfig {
    fn default() -> Self {
        Self {
            checkpoint: String::new(),
            source: "flava_codebook".to_owned(),
            view: None,
            network: TokenizerConfig::default(),
        }
    }
}

impl TokensConfig {
    /// The tokenizer with its weights, which are not trainable.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if no weights are given (the message says where to find some); [`Error::Unsupported`]
    /// for a run that trained no tokenizer; otherwise if weights cannot be read or do not fit.
    pub fn open(&self, device: &Device) -> Result<Box<dyn Tokenizer>> {
        let path = Path::new(&self.checkpoint);
        if self.checkpoint.is_empty() {
            return Err(missing());
        }
        if path.is_dir() {
            return Ok(Box::new(RunTokenizer::open(path, device)?));
        }
        let store = ParamStore::with_frozen(device, 0, Init::Mae.build(3), |_| true);
        let tokenizer = self.network.build(&store)?;
        if self.checkpoint != RANDOM {
            let weights = Source::named(&self.source)?.import(&WeightMap::read(path)?)?;
            self.network.check_weights(&weights)?;
            // Other parts of the file (decoders, discriminators) are not needed for tokens.
            let wanted = |(name, _): &(&str, &Tensor)| store.var(name).is_some();
            let weights: WeightMap = weights
                .iter()
                .filter(wanted)
                .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
                .collect();
            store.load(&weights)?;
        }
        Ok(tokenizer)
    }

    /// Names the tokenizer in the reports of a run.
    pub(crate) fn note(&self) -> String {
        match self.checkpoint.as_str() {
            RANDOM => "tokens of a random network, which carry no meaning".to_owned(),
            path if Path::new(path).is_dir() => format!("tokens of the run {path}"),
            path => format!("tokens of the network in {path}"),
        }
    }

    /// The view that becomes tokens, and the size for which the tokenizer gives one token per patch.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] with the sizes that fit.
    pub(crate) fn view(
        &self,
        tokenizer: &dyn Tokenizer,
        image: ImageSize,
        grid: PatchGrid,
    ) -> Result<TokenView> {
        let size = fits_grid(tokenizer, grid)?;
        Ok(TokenView {
            index: self.view.unwrap_or(usize::from(size != image)),
            size: size.into(),
        })
    }
}

fn missing() -> Error {
    Error::config(
        "target",
        "checkpoint",
        "not set",
        "tokens need a trained tokenizer: facebook/flava-image-codebook on the Hugging Face Hub \
         (BSD-3 licence) has the encoder of DALL-E's discrete VAE",
        "set target.checkpoint to the folder of a run of `mim pretrain --method vqkd`, `peco_tokenizer` or `dvae`, to \
         weights as .safetensors or hf:owner/name, or to \"random\" for tokens without meaning",
    )
}

impl Part for TokensConfig {
    const ABOUT: &'static str = "tokens of a trained tokenizer, such as DALL-E's discrete VAE";
    const PAPER: &'static str = "BEiT: Bao et al., ICLR 2022, arXiv 2106.08254";
}

impl TargetSettings for TokensConfig {
    fn build(&self, cx: &TargetContext<'_>) -> Result<BuiltTarget> {
        let tokenizer = self.open(cx.student.device())?;
        check(&tokenizer, cx.encoder.in_channels(), false)?;
        let values = tokenizer.vocab_size();
        let view = self.view(&tokenizer, cx.encoder.image_size(), cx.encoder.grid()?)?;
        Ok(BuiltTarget {
            note: Some(self.note()),
            ..BuiltTarget::new(TokenTarget::new(tokenizer, view.index), values)
        })
    }

    fn objective(&self) -> Box<dyn ObjectiveSettings> {
        Box::new(CrossEntropyConfig::default())
    }

    /// MAE's views, plus a second view of the same crop if the tokenizer needs another size.
    fn views(&self, encoder: &dyn EncoderSettings) -> Result<ViewPlan> {
        let (image, grid) = (encoder.image_size(), encoder.grid()?);
        let tokenizer = self.open(&Device::Cpu)?;
        let view = self.view(&tokenizer, image, grid)?;
        let plan = ViewPlan::mae(<(usize, usize)>::from(image));
        Ok(with_view(plan, view))
    }
}

/// The plan with a resized view number `view.index` for a tokenizer, unless that is the first.
pub(crate) fn with_view(plan: ViewPlan, view: TokenView) -> ViewPlan {
    if view.index == 0 {
        return plan;
    }
    let resize = Augment::Resize(Resize {
        size: view.size.into(),
        interpolation: Interpolation::Lanczos,
    });
    let mut views = vec![vec![]; view.index];
    views.push(vec![resize]);
    ViewPlan { views, ..plan }
}

/// Checks that a tokenizer accepts the encoder's images, and has logits if they are needed.
///
/// # Errors
///
/// [`Error::InvalidConfig`] naming the mismatch.
pub(crate) fn check(tokenizer: &dyn Tokenizer, channels: usize, logits: bool) -> Result<()> {
    if tokenizer.channels() != channels {
        return Err(Error::config(
            "target",
            "checkpoint",
            format!("a tokenizer of {} channels", tokenizer.channels()),
            format!("the encoder's images have {channels}"),
            format!("set encoder.in_channels to {}", tokenizer.channels()),
        ));
    }
    match logits {
        true => needs_logits(tokenizer),
        false => Ok(()),
    }
}
