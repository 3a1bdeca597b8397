//! Golden cases of iBOT.

use candle_core::{D, Device, Tensor};
use mim_core::encoders::{EncoderConfig, VitConfig};
use mim_core::nn::{DinoHeadConfig, QkvBias};
use mim_core::objectives::SelfDistillationConfig;
use mim_core::schedule::Schedule;
use mim_core::weights::Source;
use mim_core::{Batch, Mask, Method, StepContext, View};
use mim_masking::IbotBlockMaskerConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::run::Extract;
use super::trajectory::{self, Curve, Features, Replay};
use super::{Case, Problem, Recorded, Result, Rounding, Setup, mae, simmim};
use crate::{CropsConfig, DistillationConfig, Ibot, MethodConfig, NamingMasker};

/// Names under which masks of global crops are recorded.
const MASKS: [&str; 8] = [
    "mask_0", "mask_1", "mask_2", "mask_3", "mask_4", "mask_5", "mask_6", "mask_7",
];

#[derive(Deserialize)]
struct Head {
    out_dim: usize,
    patch_out_dim: Option<usize>,
    nlayers: Option<usize>,
    hidden_dim: usize,
    bottleneck_dim: usize,
    norm_last_layer: Option<bool>,
    shared_head: Option<bool>,
    shared_head_teacher: Option<bool>,
    norm: Option<String>,
    act: Option<String>,
}

#[derive(Deserialize)]
struct Loss {
    student_temp: Option<f64>,
    warmup_teacher_temp: f64,
    teacher_temp: f64,
    warmup_teacher_patch_temp: Option<f64>,
    teacher_patch_temp: Option<f64>,
    warmup_teacher_temp_epochs: usize,
    lambda1: Option<f64>,
    lambda2: Option<f64>,
    pred_start_epoch: Option<usize>,
    center_momentum: Option<f64>,
}

#[derive(Deserialize)]
struct Momentum {
    momentum: f64,
}

fn encoder(case: &Case, defaults: EncoderConfig) -> Result<EncoderConfig> {
    let arch: String = case.setting_or("arch", "vit".to_owned())?;
    let layer_scale = case.setting_or("init_values", 0.)?;
    Ok(match (arch.as_str(), defaults) {
        ("vit", EncoderConfig::Vit(defaults)) => VitConfig {
            qkv_bias: match case.setting_or("qkv_bias", true)? {
                true => QkvBias::Full,
                false => QkvBias::None,
            },
            layer_scale_init: (layer_scale > 0.).then_some(layer_scale),
            ..mae::vit(case, defaults)?
        }
        .into(),
        ("swin", EncoderConfig::Swin(defaults)) => simmim::swin(case, defaults)?.into(),
        (arch, _) => return Err(Problem::unknown(format!("iBOT with the encoder `{arch}`"))),
    })
}

fn objective(loss: Option<Loss>) -> SelfDistillationConfig {
    let defaults = SelfDistillationConfig::default();
    let Some(loss) = loss else { return defaults };
    let (first, last) = (loss.warmup_teacher_temp, loss.teacher_temp);
    let epochs = loss.warmup_teacher_temp_epochs;
    let patch = (
        loss.warmup_teacher_patch_temp.unwrap_or(first),
        loss.teacher_patch_temp.unwrap_or(last),
    );
    let start = loss.pred_start_epoch.unwrap_or(0);
    let temperature = SelfDistillationConfig::temperature;
    SelfDistillationConfig {
        student_temp: loss.student_temp.unwrap_or(defaults.student_temp),
        teacher_temp: temperature((first, last), 0, epochs),
        teacher_patch_temp: temperature(patch, start, epochs),
        center_momentum: loss.center_momentum.unwrap_or(defaults.center_momentum),
        cls_weight: loss.lambda1.unwrap_or(defaults.cls_weight),
        patch_weight: loss.lambda2.unwrap_or(defaults.patch_weight),
    }
}

pub(super) fn config<M>(case: &Case, masker: M) -> Result<DistillationConfig<M>>
where
    M: NamingMasker + serde::Serialize + DeserializeOwned,
{
    let arch: String = case.setting_or("arch", "vit".to_owned())?;
    let defaults = match arch.as_str() {
        "swin" => DistillationConfig::<M>::arch("swin_tiny")?,
        _ => DistillationConfig::<M>::default(),
    };
    let mut config = DistillationConfig {
        crops: CropsConfig {
            global: case.setting_or("global_crops_number", defaults.crops.global)?,
            local: case.setting_or("local_crops_number", defaults.crops.local)?,
            ..defaults.crops
        },
        objective: objective(case.setting("loss")?),
        masker,
        encoder: encoder(case, defaults.encoder)?,
        ..defaults
    };
    if let Some(Momentum { momentum }) = case.setting("ema")? {
        config.momentum = Schedule::constant(momentum);
    }
    let Some(head) = case.setting::<Head>("head")? else {
        return Ok(config);
    };
    for (key, value, known) in [("norm", head.norm, "none"), ("act", head.act, "gelu")] {
        if let Some(other) = value.filter(|value| value != known) {
            return Err(Problem::unknown(format!("iBOT with head.{key} = {other}")));
        }
    }
    config.norm_last_layer = head.norm_last_layer.unwrap_or(config.norm_last_layer);
    config.shared_head = head.shared_head.unwrap_or(config.shared_head);
    let shared = head.shared_head_teacher;
    config.shared_head_teacher = shared.unwrap_or(config.shared_head_teacher);
    config.head = DinoHeadConfig {
        out_dim: head.out_dim,
        patch_out_dim: head.patch_out_dim.unwrap_or(head.out_dim),
        num_layers: head.nlayers.unwrap_or(config.head.num_layers),
        hidden_dim: head.hidden_dim,
        bottleneck_dim: head.bottleneck_dim,
    };
    Ok(config)
}

/// The recorded masks of all global crops.
pub(super) fn masks(case: &Case, config: &EncoderConfig, globals: usize) -> Result<Mask> {
    let grid = config.grid()?;
    if let Some(all) = case.tensor("input.mask") {
        // Of a trajectory: images first, then crops.
        let crops_first = all.transpose(0, 1)?.contiguous()?.flatten_all()?;
        return Ok(Mask::from_bits(grid, &crops_first.to_vec1::<u8>()?)?);
    }
    let mut bits = Vec::new();
    for name in MASKS.iter().take(globals) {
        bits.extend(case.bits(&format!("input.{name}"), grid)?);
    }
    Ok(Mask::from_bits(grid, &bits)?)
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case, IbotBlockMaskerConfig::default())?;
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(masks(case, &config.encoder, config.crops.global)?)?;
    finish(case, method, &config, device)
}

fn source(case: &Case) -> Result<Source> {
    let name: String = case.setting_or("source_names", "ibot".to_owned())?;
    Ok(Source::named(&name)?)
}

/// The views of recorded crops, global ones first; a trajectory has all crops of a size in one tensor.
fn batch(case: &Case, crops: &CropsConfig, device: &Device) -> Result<Batch> {
    let crop = |index: usize| -> Result<Tensor> {
        let (kind, at) = match index.checked_sub(crops.global) {
            None => ("global", index),
            Some(at) => ("local", at),
        };
        match case.tensor(&format!("input.{kind}")) {
            Some(all) => Ok(all.narrow(1, at, 1)?.squeeze(1)?.contiguous()?),
            None => Ok(case.required(&format!("input.crop_{index}"))?.clone()),
        }
    };
    let views = (0..crops.global + crops.local)
        .map(|index| Ok(View::new(crop(index)?.to_device(device)?, vec![])?))
        .collect::<Result<Vec<_>>>()?;
    Ok(Batch {
        views: views.clone(),
        ..Batch::single(views[0].clone())
    })
}

/// What is recorded otherwise, or only withheld or drawn by it.
const INFORMATION: [&str; 3] = ["local_image_size", "freeze_last_layer", "force_rand"];

pub(super) fn replay(case: &Case, device: &Device) -> Result<Replay> {
    case.informs(&INFORMATION);
    let config = DistillationConfig {
        momentum: trajectory::momentum(case)?,
        ..config(case, IbotBlockMaskerConfig::default())?
    };
    let (encoder, crops) = (config.encoder.clone(), config.crops.clone());
    let objective = &config.objective;
    let value = |schedule: &Schedule| Curve::Value(schedule.clone());
    let features = |store| Features::new(encoder.clone(), store, device);
    Ok(Replay {
        method: Box::new(config.build(&config.store(device, 0))?),
        source: source(case)?,
        renamed: &[
            ("center", "ibot_loss.center"),
            ("center2", "ibot_loss.center2"),
        ],
        absent: &[],
        curves: vec![
            ("loss_cls", Curve::Term("cls", objective.cls_weight)),
            ("loss_patch", Curve::Term("patch", objective.patch_weight)),
            ("momentum", value(&config.momentum)),
            ("teacher_temp", value(&objective.teacher_temp)),
            ("teacher_patch_temp", value(&objective.teacher_patch_temp)),
        ],
        features: vec![
            ("features", features("teacher")?),
            ("features_student", features("student")?),
        ],
        inputs: Box::new(move |case, device| {
            let batch = batch(case, &crops, device)?;
            Ok((batch, masks(case, &encoder, crops.global)?))
        }),
    })
}

pub(super) fn finish<M>(
    case: &Case,
    method: Ibot,
    config: &DistillationConfig<M>,
    device: &Device,
) -> Result<Setup> {
    case.informs(&INFORMATION);
    let batch = batch(case, &config.crops, device)?;
    let step = StepContext {
        epoch: case.setting_or("epoch", 0)?,
        epochs: case.setting_or("epochs", 1)?,
        ..StepContext::new(0)
    };
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: source(case)?,
        outputs: outputs(config, batch.len())?,
        step,
        batch,
    })
}

/// Where the recorded outputs of a batch of `images` are found.
fn outputs<M>(
    config: &DistillationConfig<M>,
    images: usize,
) -> Result<Vec<(&'static str, Extract)>> {
    let grid = config.encoder.grid()?;
    let trace =
        |name: &'static str| -> Extract { Box::new(move |recorded: &Recorded| recorded.get(name)) };
    // Theirs include the weights.
    let weighted = |name: &'static str, weight: f64| -> Extract {
        Box::new(move |recorded: &Recorded| Ok((recorded.get(name)? * weight)?))
    };
    // Theirs have the mean token of a Swin in front.
    let pooled = matches!(config.encoder, EncoderConfig::Swin(_));
    let latent = |name: &'static str| -> Extract {
        Box::new(move |recorded: &Recorded| {
            let tokens = recorded.get(name)?;
            Ok(match pooled {
                true => Tensor::cat(&[&tokens.mean_keepdim(1)?, &tokens], 1)?,
                false => tokens,
            })
        })
    };
    let mut outputs = vec![
        ("teacher_latent", latent("teacher.latent")),
        ("student_latent", latent("latent")),
        ("teacher_attention", trace("teacher.attention")),
        (
            "loss_cls",
            weighted("loss.cls", config.objective.cls_weight),
        ),
        (
            "loss_patch",
            weighted("loss.patch", config.objective.patch_weight),
        ),
    ];
    for name in [
        "teacher_cls",
        "student_cls",
        "student_local_cls",
        "cls_attention",
        "center",
        "center2",
    ] {
        outputs.push((name, trace(name)));
    }
    // Ours are rows of all images; theirs have an axis of images.
    for name in ["teacher_patch", "student_patch"] {
        let split: Extract = Box::new(move |recorded: &Recorded| {
            let rows = recorded.get(name)?;
            let width = rows.dim(D::Minus1)?;
            Ok(rows.reshape(((), grid.len(), width))?)
        });
        outputs.push((name, split));
    }
    for (index, name) in MASKS.into_iter().enumerate().take(config.crops.global) {
        let mask: Extract = Box::new(move |recorded: &Recorded| {
            let mask = recorded.get("mask")?.narrow(0, index * images, images)?;
            Ok(mask.reshape((images, grid.rows, grid.cols))?)
        });
        outputs.push((name, mask));
    }
    Ok(outputs)
}
