//! The golden cases of EVA, in both styles.

use candle_core::{Device, Tensor};
use mim_core::augment::ViewPlan;
use mim_core::encoders::VitConfig;
use mim_core::schedule::{Schedule, Warmup};
use mim_core::{Batch, Method, StepContext, View};
use serde::Deserialize;

use super::{EvaConfig, EvaStyle};
use crate::MethodConfig;
use crate::parity::golden::{
    BEIT_VIT, CLIP, Golden, Made, Masks, Output, Plain, Setting, VIT, Views, frozen_vit, patches,
    positions, random_mask, several,
};
use crate::parity::{Case, Result};
use Output::{By, Hidden, Trace};
use Setting::{Converted, Fixed, Informs, Renamed, Same, Set};

/// In BEiT's style, a case gives the number of hidden patches.
pub(super) fn of(case: &Case) -> &'static Golden<EvaConfig> {
    match case.setting::<usize>("num_mask_patches") {
        Ok(None) => &MAE_STYLE,
        _ => &BEIT_STYLE,
    }
}

const BEIT_STYLE: Golden<EvaConfig> = Golden {
    settings: &[
        BEIT_VIT,
        Set("style.masker.min_block", Plain::Int(16)),
        Renamed("min_mask_patches_per_block", "style.masker.min_block"),
        Converted("num_mask_patches", "style.masker.hidden", patches),
        // The masks are recorded.
        Informs(&["masked_per_image"]),
    ],
    also: |case, config| {
        positions(case, &mut config.encoder)?;
        if case.setting("mlp_hidden")? != Some(0) {
            let width = config.encoder.embed_dim as f64 * config.encoder.mlp_ratio;
            case.fixed("mlp_hidden", width.trunc())?;
        }
        second_view(case, config)
    },
    build,
    views: Views::By(views),
    outputs: OUTPUTS,
    ..Golden::new("beit", |config| config.encoder.grid())
};

const MAE_STYLE: Golden<EvaConfig> = Golden {
    start: |_| Ok(EvaConfig::arch("eva_large")?),
    settings: &[
        Fixed("qkv_bias", Plain::Bool(true)),
        VIT,
        Same("", "style", &["mask_ratio"]),
        Renamed("norm_eps", "style.decoder.norm_eps"),
        Same(
            "decoder",
            "style.decoder",
            &["embed_dim", "depth", "num_heads", "mlp_ratio"],
        ),
    ],
    also: second_view,
    build,
    views: Views::By(views),
    masks: Masks::Noise(|config, grid, noise| match &config.style {
        EvaStyle::Mae(style) => random_mask(style.mask_ratio, grid, noise),
        EvaStyle::Beit(_) => random_mask(0., grid, noise),
    }),
    outputs: OUTPUTS,
    ..Golden::new("mae", |config| config.encoder.grid())
};

const OUTPUTS: &[(&str, Output<EvaConfig>)] = &[
    ("latent", Trace("latent")),
    ("teacher_features", Trace("target.features")),
    (
        "pred",
        By(|made, recorded| match made.config.style {
            EvaStyle::Beit(_) => made.hidden(recorded, "pred.feature"),
            EvaStyle::Mae(_) => recorded.get("pred.feature"),
        }),
    ),
    ("target", Hidden("target.features")),
    (
        "mean_cosine",
        By(|_, recorded| Ok(recorded.get("loss")?.neg()?)),
    ),
    ("lr_schedule", By(|made, _| learning_rates(made))),
];

/// The tower of a case may see images of another size.
fn second_view(case: &Case, config: &mut EvaConfig) -> Result<()> {
    let Some(seen) = case.tensor("input.teacher_images") else {
        return Ok(());
    };
    let (_, _, height, width) = seen.dims4()?;
    let size = config.encoder.image_size.into();
    config.target.view = 1;
    config.views = Some(ViewPlan::with_tokenizer(vec![], size, (height, width)));
    Ok(())
}

fn build(case: &Case, config: &EvaConfig, device: &Device) -> Result<Box<dyn Method>> {
    case.fixed("teacher.kind", "CLIP ViT".to_owned())?;
    let base = VitConfig::clip_large();
    let tower = frozen_vit(case, ("teacher", CLIP), base, "openai_clip", device)?;
    Ok(Box::new(config.compose(&config.store(device, 0), tower)?))
}

fn views(case: &Case, _config: &EvaConfig, device: &Device) -> Result<Batch> {
    let mut views = vec![View::new(case.on("input.images", device)?, vec![])?];
    if case.tensor("input.teacher_images").is_some() {
        views.push(View::new(case.on("input.teacher_images", device)?, vec![])?);
    }
    Ok(several(views))
}

/// `schedule` of a case.
#[derive(Deserialize)]
struct Course {
    epochs: usize,
    steps_per_epoch: usize,
    warmup_epochs: usize,
    peak_lr: f64,
    min_lr: f64,
}

/// The learning rate of every step.
fn learning_rates(made: &Made<EvaConfig>) -> Result<Tensor> {
    let course: Course = made.case.needs("schedule")?;
    let schedule = Schedule::TableCosine {
        peak: course.peak_lr,
        min: course.min_lr,
        warmup_start: 0.,
        warmup: Warmup::Steps(course.warmup_epochs * course.steps_per_epoch),
    };
    #[expect(clippy::cast_possible_truncation, reason = "recorded in f32")]
    let rate = |step: usize| {
        let place = StepContext {
            epoch: step / course.steps_per_epoch,
            epochs: course.epochs,
            iter: step % course.steps_per_epoch,
            iters_per_epoch: course.steps_per_epoch,
            ..StepContext::new(0)
        };
        schedule.at(&place) as f32
    };
    let rates: Vec<f32> = (0..course.epochs * course.steps_per_epoch)
        .map(rate)
        .collect();
    Ok(Tensor::new(rates, &Device::Cpu)?)
}
