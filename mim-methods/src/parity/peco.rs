//! Golden cases of PeCo's tokenizer.

use candle_core::{Device, Tensor};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::nn::{CodeMetric, CodebookConfig, PosEmbedKind};
use mim_core::weights::{Source, WeightMap};
use mim_core::{Batch, Encoder, ImageSize, Norm, ParamStore, StepContext, View};
use mim_targets::peco::PecoNetworkConfig;
use serde::Deserialize;

use super::beit::traced;
use super::run::Extract;
use super::vqkd::{CodebookEma, no_setting};
use super::{Case, Problem, Recorded, Result, Rounding, Setup};
use crate::{FrozenConfig, MethodConfig, PecoTokenizerConfig};

/// `teacher` of a case.
#[derive(Deserialize)]
struct Teacher {
    kind: String,
    patch_size: usize,
    embed_dim: usize,
    depth: usize,
    num_heads: usize,
    norm_eps: f64,
    /// From 1.
    layers: Vec<usize>,
    input_norm: InputNorm,
}

#[derive(Deserialize)]
struct InputNorm {
    mean: Vec<f64>,
    std: Vec<f64>,
}

impl InputNorm {
    fn norm(&self) -> Norm {
        Norm {
            mean: self.mean.clone(),
            std: self.std.clone(),
            ..Norm::imagenet()
        }
    }
}

/// Our name of a parameter of the recorded transformer.
fn renamed(name: &str) -> String {
    let name = match name {
        "cls" => "cls_token".to_owned(),
        "pos" => "pos_embed".to_owned(),
        _ => name.replacen("patch.", "patch_embed.proj.", 1),
    };
    let inner = [
        (".qkv.", ".attn.qkv."),
        (".proj.", ".attn.proj."),
        (".fc1.", ".mlp.fc1."),
        (".fc2.", ".mlp.fc2."),
    ];
    match name.starts_with("blocks.") {
        true => inner
            .iter()
            .fold(name, |name, (theirs, ours)| name.replacen(theirs, ours, 1)),
        false => name,
    }
}

/// The recorded frozen network.
fn teacher(
    case: &Case,
    teacher: &Teacher,
    size: ImageSize,
    device: &Device,
) -> Result<Box<dyn Encoder>> {
    if teacher.kind != "vit" {
        return Err(Problem::unknown(format!(
            "the frozen network `{}`",
            teacher.kind
        )));
    }
    let config = VitConfig {
        image_size: size,
        patch_size: teacher.patch_size,
        in_channels: teacher.input_norm.mean.len(),
        embed_dim: teacher.embed_dim,
        depth: teacher.depth,
        num_heads: teacher.num_heads,
        norm_eps: teacher.norm_eps,
        pos_embed: PosEmbedKind::Learned,
        final_norm: false,
        ..VitConfig::default()
    };
    let store = ParamStore::teacher(device);
    let vit = Vit::new(&store.root(), &config)?;
    let weights = case.group("teacher.");
    let weights: WeightMap = weights
        .iter()
        .map(|(name, tensor)| (renamed(name), tensor.clone()))
        .collect();
    store.load(&weights)?;
    Ok(Box::new(vit))
}

fn config(case: &Case, teacher: &Teacher) -> Result<PecoTokenizerConfig> {
    // How sure the codes are.
    case.informs(&["min_code_gap"]);
    let defaults = PecoTokenizerConfig::default();
    let ema: Option<CodebookEma> = case.setting("codebook_ema")?;
    let (decay, eps) = ema.map_or((0.99, None), |ema| (ema.momentum, ema.eps));
    let network = PecoNetworkConfig {
        in_channels: case.setting_or("in_channels", 3)?,
        levels: case.setting_or("downsample_levels", 4)?,
        hidden_dim: case.setting_or("hidden_dim", 256)?,
        codebook: CodebookConfig {
            size: case.setting_or("codebook_size", 8192)?,
            dim: case.setting_or("codebook_dim", 256)?,
            metric: CodeMetric::Euclidean {
                eps: eps.unwrap_or(1e-5),
            },
            decay,
            ..CodebookConfig::peco()
        },
    };
    case.fixed("patch_size", network.stride())?;
    let own: Option<InputNorm> = case.setting("input_norm")?;
    if own.is_some_and(|own| own.norm() != network.norm()) {
        return Err(Problem::unknown(
            "PeCo's tokenizer on other values than [-1, 1]",
        ));
    }
    Ok(PecoTokenizerConfig {
        image_size: case.setting_or("image_size", defaults.image_size)?,
        pixel_loss: case.setting_or("pixel_loss", defaults.pixel_loss)?,
        commitment_weight: case.setting_or("commitment_beta", defaults.commitment_weight)?,
        perceptual_weight: case.setting_or("perceptual_weight", defaults.perceptual_weight)?,
        layers: teacher
            .layers
            .iter()
            .map(|layer| layer.saturating_sub(1))
            .collect(),
        views: None,
        network,
        target: FrozenConfig {
            norm: Some(teacher.input_norm.norm()),
            ..defaults.target
        },
    })
}

/// `teacher_feature_layerN` and ours of block N - 1.
const FEATURES: [(&str, &str); 12] = [
    ("teacher_feature_layer1", "teacher.layer0"),
    ("teacher_feature_layer2", "teacher.layer1"),
    ("teacher_feature_layer3", "teacher.layer2"),
    ("teacher_feature_layer4", "teacher.layer3"),
    ("teacher_feature_layer5", "teacher.layer4"),
    ("teacher_feature_layer6", "teacher.layer5"),
    ("teacher_feature_layer7", "teacher.layer6"),
    ("teacher_feature_layer8", "teacher.layer7"),
    ("teacher_feature_layer9", "teacher.layer8"),
    ("teacher_feature_layer10", "teacher.layer9"),
    ("teacher_feature_layer11", "teacher.layer10"),
    ("teacher_feature_layer12", "teacher.layer11"),
];

/// A map `[batch, rows, cols, dim]` with its channels first.
fn channels_first(map: &Tensor) -> Result<Tensor> {
    Ok(map.permute((0, 3, 1, 2))?.contiguous()?)
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let critic: Teacher = case
        .setting("teacher")?
        .ok_or_else(|| no_setting("teacher"))?;
    let config = config(case, &critic)?;
    let frozen = teacher(case, &critic, config.image_size, device)?;
    let method = config.compose(&config.store(device, 0), Some(frozen))?;
    let images = case.required("input.image01")?.to_device(device)?;
    let codes: Extract = Box::new(|recorded: &Recorded| {
        let batch = recorded.get("latent")?.dim(0)?;
        Ok(recorded.get("codes")?.reshape((batch, ()))?)
    });
    let quantized: Extract = Box::new(|recorded: &Recorded| {
        let map = recorded.get("latent")?;
        channels_first(&recorded.get("quantized")?.reshape(map.shape())?)
    });
    let mut outputs = vec![
        (
            "latent",
            Box::new(|recorded: &Recorded| channels_first(&recorded.get("latent")?)) as Extract,
        ),
        ("codes", codes),
        ("quantized", quantized),
        ("reconstruction", traced("reconstruction")),
        ("pixel_l1", traced("loss.l1")),
        ("pixel_l2", traced("loss.l2")),
        ("commitment", traced("loss.commitment")),
        ("perceptual_per_layer", traced("teacher.perceptual")),
        ("perceptual", traced("loss.perceptual")),
    ];
    outputs.extend(FEATURES.map(|(theirs, ours)| (theirs, traced(ours))));
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        // Its names are ours, as MAE's are.
        source: Source::named("mae")?,
        step: StepContext::new(0),
        batch: Batch::single(View::of_unit(images, vec![])?),
        outputs,
    })
}
