//! The golden cases of iBOT. Most of it also serves AttMask.

use candle_core::{D, Device, Tensor};
use mim_core::encoders::EncoderConfig;
use mim_core::objectives::SelfDistillationConfig;
use mim_core::schedule::Schedule;
use mim_core::{Batch, Mask, PatchGrid, StepContext, View};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{CropsConfig, DistillationConfig, NamingMasker};
use crate::MethodConfig;
use crate::parity::golden::{
    Course, Golden, Made, Masks, Output, Plain, QKV_BIAS, SWIN, Setting, VIT, Views, constant,
    positive, several,
};
use crate::parity::trajectory::{self, Curve, Features};
use crate::parity::{Case, Recorded, Result};
use Output::{By, Part, Trace, Weighted};
use Setting::{Choice, Converted, Fixed, Informs, Renamed, Same};

/// How settings of a case map to ours.
pub(crate) const SETTINGS: Setting = Setting::Group(&[
    Choice(
        "arch",
        &[
            (
                "vit",
                &[
                    VIT,
                    QKV_BIAS,
                    Converted("init_values", "encoder.layer_scale_init", positive),
                ],
            ),
            ("swin", &[SWIN, Informs(&["init_values"])]),
        ],
    ),
    Renamed("global_crops_number", "crops.global"),
    Renamed("local_crops_number", "crops.local"),
    Converted("ema.momentum", "momentum", constant),
    Same("loss", "objective", &["student_temp", "center_momentum"]),
    Renamed("loss.lambda1", "objective.cls_weight"),
    Renamed("loss.lambda2", "objective.patch_weight"),
    Same(
        "head",
        "",
        &["norm_last_layer", "shared_head", "shared_head_teacher"],
    ),
    Renamed("head.out_dim", "head.patch_out_dim"),
    Same(
        "head",
        "head",
        &["out_dim", "patch_out_dim", "hidden_dim", "bottleneck_dim"],
    ),
    Renamed("head.nlayers", "head.num_layers"),
    Fixed("head.norm", Plain::Text("none")),
    Fixed("head.act", Plain::Text("gelu")),
    // What is recorded elsewhere, or only affects freezing or draws.
    Informs(&["local_image_size", "freeze_last_layer", "force_rand"]),
]);

impl<M> DistillationConfig<M>
where
    M: NamingMasker + Serialize + DeserializeOwned + 'static,
    Self: MethodConfig,
{
    /// Its golden cases, with recorded masks.
    pub(crate) const GOLDEN: Golden<Self> = Golden {
        start: |case| match case.setting_or("arch", "vit".to_owned())?.as_str() {
            "swin" => Ok(Self::arch("swin_tiny")?),
            _ => Ok(Self::default()),
        },
        settings: &[SETTINGS],
        also: |case, config| {
            if matches!(config.encoder, EncoderConfig::Swin(_)) {
                case.fixed("output_stride", config.encoder.output_stride())?;
            }
            temperatures(case, &mut config.objective)
        },
        views: Views::By(|case, config, device| batch(case, &config.crops, device)),
        masks: Masks::By(|case, config, grid| masks(case, grid, config.crops.global)),
        step: |case, _| {
            Ok(StepContext {
                epoch: case.setting_or("epoch", 0)?,
                epochs: case.setting_or("epochs", 1)?,
                ..StepContext::new(0)
            })
        },
        outputs: &[
            (
                "teacher_latent",
                By(|made, recorded| latent(made, recorded, "teacher.latent")),
            ),
            (
                "student_latent",
                By(|made, recorded| latent(made, recorded, "latent")),
            ),
            ("teacher_attention", Trace("teacher.attention")),
            (
                "loss_cls",
                Weighted("loss.cls", |config| config.objective.cls_weight),
            ),
            (
                "loss_patch",
                Weighted("loss.patch", |config| config.objective.patch_weight),
            ),
            ("cls_attention", Trace("cls_attention")),
            ("student_local_cls", Trace("student_local_cls")),
            ("center*", Trace("center*")),
            ("*_cls", Trace("*_cls")),
            ("*_patch", Part(patches)),
            ("mask_*", Part(crop_mask)),
        ],
        course: Some(Course {
            also: |case, config| {
                config.momentum = trajectory::momentum(case)?;
                Ok(())
            },
            curves: |config| {
                let (objective, value) = (&config.objective, |schedule: &Schedule| {
                    Curve::Value(schedule.clone())
                });
                vec![
                    ("loss_cls", Curve::Term("cls", objective.cls_weight)),
                    ("loss_patch", Curve::Term("patch", objective.patch_weight)),
                    ("momentum", value(&config.momentum)),
                    ("teacher_temp", value(&objective.teacher_temp)),
                    ("teacher_patch_temp", value(&objective.teacher_patch_temp)),
                ]
            },
            renamed: &[
                ("center", "ibot_loss.center"),
                ("center2", "ibot_loss.center2"),
            ],
            ..Course::new(|config, device| {
                let features = |store| Features::new(config.encoder.clone(), store, device);
                Ok(vec![
                    ("features", features("teacher")?),
                    ("features_student", features("student")?),
                ])
            })
        }),
        ..Golden::new("ibot", |config| config.encoder.grid())
    };
}

/// The temperatures of `loss` of a case.
#[derive(Deserialize)]
struct Temperatures {
    warmup_teacher_temp: f64,
    teacher_temp: f64,
    warmup_teacher_patch_temp: Option<f64>,
    teacher_patch_temp: Option<f64>,
    warmup_teacher_temp_epochs: usize,
    pred_start_epoch: Option<usize>,
}

fn temperatures(case: &Case, objective: &mut SelfDistillationConfig) -> Result<()> {
    let Some(loss) = case.setting::<Temperatures>("loss")? else {
        return Ok(());
    };
    let (first, last) = (loss.warmup_teacher_temp, loss.teacher_temp);
    let epochs = loss.warmup_teacher_temp_epochs;
    let patch = (
        loss.warmup_teacher_patch_temp.unwrap_or(first),
        loss.teacher_patch_temp.unwrap_or(last),
    );
    let start = loss.pred_start_epoch.unwrap_or(0);
    let temperature = SelfDistillationConfig::temperature;
    objective.teacher_temp = temperature((first, last), 0, epochs);
    objective.teacher_patch_temp = temperature(patch, start, epochs);
    Ok(())
}

/// The recorded masks of all global crops.
pub(crate) fn masks(case: &Case, grid: PatchGrid, globals: usize) -> Result<Mask> {
    if let Some(all) = case.tensor("input.mask") {
        // In a trajectory, images come first, then crops.
        let crops_first = all.transpose(0, 1)?.contiguous()?.flatten_all()?;
        return Ok(Mask::from_bits(grid, &crops_first.to_vec1::<u8>()?)?);
    }
    let mut bits = Vec::new();
    for index in 0..globals {
        bits.extend(case.bits(&format!("input.mask_{index}"), grid)?);
    }
    Ok(Mask::from_bits(grid, &bits)?)
}

/// The views from recorded crops, global ones first. A trajectory has all crops of a size in one tensor.
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
        .map(|index| Ok(View::new(crop(index)?.to_device(device)?, vec![])?));
    Ok(several(views.collect::<Result<_>>()?))
}

/// Theirs begin with the mean token of a Swin.
fn latent<M>(
    made: &Made<DistillationConfig<M>>,
    recorded: &Recorded,
    name: &str,
) -> Result<Tensor> {
    let tokens = recorded.get(name)?;
    Ok(match made.config.encoder {
        EncoderConfig::Swin(_) => Tensor::cat(&[&tokens.mean_keepdim(1)?, &tokens], 1)?,
        _ => tokens,
    })
}

/// Ours are the rows of all images; theirs have an image axis.
fn patches<M>(
    made: &Made<DistillationConfig<M>>,
    recorded: &Recorded,
    whose: &str,
) -> Result<Tensor> {
    let rows = recorded.get(&format!("{whose}_patch"))?;
    let (patches, width) = (made.config.encoder.grid()?.len(), rows.dim(D::Minus1)?);
    Ok(rows.reshape(((), patches, width))?)
}

/// The mask of one global crop, for all images.
fn crop_mask<M>(
    made: &Made<DistillationConfig<M>>,
    recorded: &Recorded,
    crop: &str,
) -> Result<Tensor> {
    let (images, grid) = (made.images, made.config.encoder.grid()?);
    let no_crop = |_| made.case.bad(format!("there is no crop `{crop}`"));
    let index: usize = crop.parse().map_err(no_crop)?;
    let mask = recorded.get("mask")?.narrow(0, index * images, images)?;
    Ok(mask.reshape((images, grid.rows, grid.cols))?)
}
