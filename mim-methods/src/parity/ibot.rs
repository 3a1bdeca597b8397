//! Golden cases of iBOT and AttMask.

use candle_core::{D, DType, Device, Tensor};
use mim_core::encoders::{EncoderConfig, VitConfig};
use mim_core::nn::{DinoHeadConfig, QkvBias};
use mim_core::objectives::SelfDistillationConfig;
use mim_core::schedule::Schedule;
use mim_core::weights::Source;
use mim_core::{Batch, Mask, Method, StepContext, View};
use mim_masking::{AttentionDraws, AttentionMaskerConfig, AttentionMode, IbotBlockMaskerConfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::run::Extract;
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

fn config<M>(case: &Case, masker: M) -> Result<DistillationConfig<M>>
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
fn masks(case: &Case, config: &EncoderConfig, globals: usize) -> Result<Mask> {
    let grid = config.grid()?;
    let mut bits = Vec::new();
    for name in MASKS.iter().take(globals) {
        bits.extend(case.bits(&format!("input.{name}"), grid)?);
    }
    Ok(Mask::from_bits(grid, &bits)?)
}

/// Masks by attention, from the recorded draws.
fn guided(case: &Case) -> Result<Option<(AttentionMaskerConfig, AttentionDraws)>> {
    let defaults = AttentionMaskerConfig::default();
    let shape: String = case.setting_or("pred_shape", "attmask_hint".to_owned())?;
    let mode = match shape.as_str() {
        "attmask_high" => AttentionMode::High,
        "attmask_hint" => AttentionMode::Hint,
        "attmask_low" => AttentionMode::Low,
        "block" | "rand" => return Ok(None),
        other => {
            return Err(Problem::unknown(format!(
                "AttMask with pred_shape = {other}"
            )));
        }
    };
    let show_max = case.setting_or("show_max", defaults.show_max)?;
    let config = AttentionMaskerConfig {
        mode,
        masking_prob: case.setting_or("masking_prob", defaults.masking_prob)?,
        show_max,
        ..defaults
    };
    let uniforms = case.required("input.rand_mask")?.to_dtype(DType::F64)?;
    let reveal_ids = match case.tensor("input.reveal_ids") {
        Some(ids) => ids.to_dtype(DType::U32)?.flatten_all()?.to_vec1()?,
        None => vec![],
    };
    let show_ratio = show_max * case.setting_or("show_ratio_draw", 0.)?;
    let draws = AttentionDraws {
        masking_ratio: case.setting_or("masking_ratio", 0.)?,
        show_ratio,
        uniforms: uniforms.flatten_all()?.to_vec1()?,
        reveal_ids,
    };
    Ok(Some((config, draws)))
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case, IbotBlockMaskerConfig::default())?;
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(masks(case, &config.encoder, config.crops.global)?)?;
    finish(case, method, &config, device)
}

pub(crate) fn setup_attmask(case: &Case, device: &Device) -> Result<Setup> {
    let guide = guided(case)?;
    let masker = guide.as_ref().map(|(masker, _)| masker.clone());
    let config = config(case, masker.unwrap_or_default())?;
    let mut method = config.build(&config.store(device, 0))?;
    match guide {
        Some((masker, draws)) => method.masker = Box::new(masker.build()?.with_draws(draws)),
        None => method.override_mask(masks(case, &config.encoder, config.crops.global)?)?,
    }
    finish(case, method, &config, device)
}

fn finish<M>(
    case: &Case,
    method: Ibot,
    config: &DistillationConfig<M>,
    device: &Device,
) -> Result<Setup> {
    // The crops and masks themselves are recorded, and so is whose gradients are withheld.
    case.informs(&["local_image_size", "freeze_last_layer", "force_rand"]);
    let crops = &config.crops;
    let views = (0..crops.global + crops.local).map(|index| {
        let crop = case.required(&format!("input.crop_{index}"))?;
        Ok(View::new(crop.to_device(device)?, vec![])?)
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let batch = Batch {
        views: views.clone(),
        ..Batch::single(views[0].clone())
    };
    let step = StepContext {
        epoch: case.setting_or("epoch", 0)?,
        epochs: case.setting_or("epochs", 1)?,
        ..StepContext::new(0)
    };
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "ibot".to_owned())?)?,
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
