//! Frozen networks as teachers: published weights, a finished run, or random weights.

use std::path::Path;

use candle_core::{Device, Tensor};
use mim_core::encoders::{EncoderConfig, VitConfig};
use mim_core::objectives::{CosineConfig, ObjectiveSettings};
use mim_core::params::{Init, ParamStore};
use mim_core::parts::Part;
use mim_core::train::Checkpoint;
use mim_core::weights::{Source, WeightMap};
use mim_core::{
    EncodeOptions, Encoded, Encoder, Error, Masking, Method, Norm, PatchGrid, Result, StepContext,
};
use mim_targets::{BuiltTarget, FeatureTarget, FeatureTargetConfig, TargetContext, TargetSettings};
use serde::{Deserialize, Serialize};

use crate::registry;

const NAME: &str = "target";
/// Value of `checkpoint` for a network with random weights.
const RANDOM: &str = "random";

/// A frozen network; `Default` is CLIP's ViT-B/16, whose weights must be given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FrozenConfig {
    /// A weights file, optionally on the Hugging Face Hub (`hf:owner/name[@revision][/file]`), a run folder of `mim
    /// pretrain`, or `random`. There is no default.
    pub checkpoint: String,
    /// The naming scheme of the weights file. Default `hf_clip`.
    pub source: String,
    /// The network of the weights file; a run folder has its own settings. Default CLIP's ViT-B/16.
    pub encoder: EncoderConfig,
    /// A vision model of candle-transformers instead of `encoder`, such as `siglip_base_patch16_224`; needs the feature
    /// `candle-transformers`. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candle_model: Option<String>,
    /// The view of the batch that it sees. Default 0.
    pub view: usize,
    /// Normalisation of its images. If not set: the student's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm: Option<Norm>,
}

impl Default for FrozenConfig {
    fn default() -> Self {
        Self {
            checkpoint: String::new(),
            source: "hf_clip".to_owned(),
            encoder: EncoderConfig::Vit(VitConfig::clip_base()),
            candle_model: None,
            view: 0,
            norm: None,
        }
    }
}

impl FrozenConfig {
    /// The network with its weights, which are not trainable.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if no weights are given (the message says where to find some); otherwise if they cannot
    /// be read or do not fit.
    pub fn open(&self, device: &Device) -> Result<Box<dyn Encoder>> {
        let path = Path::new(&self.checkpoint);
        if let (Some(name), false) = (&self.candle_model, self.checkpoint.is_empty()) {
            return candle_model(name, path, device);
        }
        match self.checkpoint.as_str() {
            "" => Err(missing()),
            RANDOM => self.encoder.build(&self.store(device).root()),
            _ if path.is_dir() => Ok(Box::new(RunEncoder::open(path, device)?)),
            _ => {
                let weights = Source::named(&self.source)?.import(&WeightMap::read(path)?)?;
                if let EncoderConfig::Vit(vit) = &self.encoder {
                    vit.check_weights(&weights)?;
                }
                let store = self.store(device);
                let encoder = self.encoder.build(&store.root())?;
                // A teacher does not use other parts of the file (decoders, heads).
                let wanted = |name: &str| store.var(name).is_some();
                let weights: WeightMap = weights
                    .iter()
                    .filter(|(name, _)| wanted(name))
                    .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
                    .collect();
                store.load(&weights)?;
                Ok(encoder)
            }
        }
    }

    /// The network for a student whose images have `channels` channels.
    ///
    /// # Errors
    ///
    /// As [`FrozenConfig::open`]; [`Error::InvalidConfig`] if it takes images of other channels.
    pub fn open_for(&self, device: &Device, channels: usize) -> Result<Box<dyn Encoder>> {
        let network = self.open(device)?;
        match network.in_channels() {
            Some(own) if own != channels => {
                let value = format!("a network of {own} channels");
                let why = format!("the encoder's images have {channels} channels");
                let fix = format!("set encoder.in_channels to {own}, or take another network");
                Err(Error::config(NAME, "checkpoint", value, why, fix))
            }
            _ => Ok(network),
        }
    }

    /// Names the teacher in the reports of a run.
    pub(crate) fn note(&self) -> String {
        match self.checkpoint.as_str() {
            RANDOM => "the targets are features of a random encoder".to_owned(),
            path if Path::new(path).is_dir() => {
                format!("the targets are features of the encoder of the run {path}")
            }
            path => format!("the targets are features of the network in {path}"),
        }
    }

    /// How the teacher reads a batch that has the student's normalisation `norm`.
    pub(crate) fn features(&self, norm: &Norm) -> FeatureTargetConfig {
        FeatureTargetConfig {
            view: self.view,
            norm: self.norm.clone().unwrap_or_else(|| norm.clone()),
            ..FeatureTargetConfig::default()
        }
    }

    fn store(&self, device: &Device) -> ParamStore {
        let init = Init::Mae.build(self.encoder.patch_values());
        ParamStore::with_frozen(device, 0, init, |_| true)
    }
}

impl Part for FrozenConfig {
    const ABOUT: &'static str = "features of a frozen network";
    const PAPER: &'static str =
        "MILAN: Hou et al., 2022, arXiv 2208.06049; EVA: Fang et al., CVPR 2023, arXiv 2211.07636";
    const SMALL: &'static str = r#"
encoder = { type = "vit", image_size = 32, patch_size = 4, embed_dim = 128, depth = 4, num_heads = 4 }
"#;
}

impl TargetSettings for FrozenConfig {
    fn build(&self, cx: &TargetContext<'_>) -> Result<BuiltTarget> {
        let channels = cx.encoder.in_channels();
        let teacher = self.open_for(cx.student.device(), channels)?;
        let values = teacher.dim();
        let config = FeatureTargetConfig {
            attention: cx.attention,
            ..self.features(cx.norm)
        };
        Ok(BuiltTarget {
            note: Some(self.note()),
            ..BuiltTarget::new(FeatureTarget::new(teacher, config)?, values)
        })
    }

    fn objective(&self) -> Box<dyn ObjectiveSettings> {
        Box::new(CosineConfig {
            offset: 1.,
            ..CosineConfig::default()
        })
    }
}

#[cfg(feature = "candle-transformers")]
fn candle_model(name: &str, path: &Path, device: &Device) -> Result<Box<dyn Encoder>> {
    let weights = WeightMap::read(path)?;
    let model = mim_targets::candle_models::candle_model(name, &weights, device)?;
    Ok(Box::new(model))
}

#[cfg(not(feature = "candle-transformers"))]
fn candle_model(name: &str, _path: &Path, _device: &Device) -> Result<Box<dyn Encoder>> {
    Err(Error::unsupported(
        format!("the teacher {name}"),
        "mim was built without the models of candle-transformers",
        "build with --features candle-transformers",
    ))
}

fn missing() -> Error {
    Error::config(
        NAME,
        "checkpoint",
        "not set",
        "the targets are features of a frozen network, whose weights you must provide: MILAN uses CLIP \
         ViT-B/16, openai/clip-vit-base-patch16 on the Hugging Face Hub, EVA's CLIP ViT-L/14, \
         openai/clip-vit-large-patch14 (MIT licence), MimCo's MoCo v3, github.com/facebookresearch/moco-v3",
        "set target.checkpoint to \"hf:openai/clip-vit-base-patch16\", to the path of such a file, to the folder \
         of a finished run whose encoder is the teacher, or to \"random\" for random weights",
    )
}

/// The method of a finished run with its weights, which are not trainable. Methods may omit parts that are needed only
/// for training; weights of such parts are ignored.
///
/// # Errors
///
/// If there is no checkpoint, or it does not fit its settings.
pub(crate) fn open_run(path: &Path, device: &Device) -> Result<Box<dyn Method>> {
    let checkpoint = Checkpoint::open(path)?;
    let entry = registry::method(&checkpoint.state().method)?;
    let method = entry.build_frozen(settings_of(&checkpoint, path)?, device)?;
    for (name, store) in method.stores() {
        store.load_allowing(&checkpoint.weights(name)?, |name| store.var(name).is_none())?;
    }
    Ok(method)
}

/// All settings of the method of a checkpoint.
///
/// # Errors
///
/// If this version of mim does not know these settings.
pub(crate) fn settings_of(checkpoint: &Checkpoint, path: &Path) -> Result<toml::Table> {
    let state = checkpoint.state();
    let mut settings = toml::Table::try_from(&state.config).map_err(|error| {
        Error::format(
            path,
            error.to_string(),
            "use the version of mim that wrote it",
        )
    })?;
    for own in ["data", "train", "eval"] {
        settings.remove(own);
    }
    registry::method(&state.method)?.resolve(settings)
}

/// The encoder of a finished run.
struct RunEncoder(Box<dyn Method>);

impl RunEncoder {
    fn open(path: &Path, device: &Device) -> Result<Self> {
        let method = open_run(path, device)?;
        if method.encoder().is_none() {
            return Err(Error::unsupported(
                format!("a teacher from a run of {}", method.name()),
                "this method has no encoder",
                "use a run of another method",
            ));
        }
        Ok(Self(method))
    }

    fn inner(&self) -> Result<&dyn Encoder> {
        let encoder = self.0.encoder().map(Encoder::trunk);
        encoder.ok_or_else(|| {
            Error::unsupported(
                "a teacher without encoder",
                "the method of its run has none",
                "use another run",
            )
        })
    }
}

impl Encoder for RunEncoder {
    fn in_channels(&self) -> Option<usize> {
        Some(self.0.input().channels())
    }

    fn dim(&self) -> usize {
        self.inner().map_or(0, |encoder| encoder.dim())
    }

    fn trunk(&self) -> &dyn Encoder {
        self
    }

    fn grid(&self, image: (usize, usize)) -> Result<PatchGrid> {
        self.inner()?.grid(image)
    }

    fn encode(
        &self,
        image: &Tensor,
        masking: Masking<'_>,
        want: &EncodeOptions,
        step: &StepContext,
    ) -> Result<Encoded> {
        self.inner()?.encode(image, masking, want, step)
    }
}
