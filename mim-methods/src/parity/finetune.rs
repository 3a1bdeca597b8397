//! Golden cases of fine-tuning.

use candle_core::{DType, Device};
use mim_core::encoders::VitConfig;
use mim_core::nn::PosEmbedKind;
use mim_core::weights::Source;
use mim_core::{Pooling, StepContext};

use super::mae::{batch, vit};
use super::run::Extract;
use super::{Case, Recorded, Result, Rounding, Setup};
use crate::{FinetuneConfig, MethodConfig, Mix};

fn config(case: &Case) -> Result<FinetuneConfig> {
    let defaults = FinetuneConfig::default();
    let global_pool: bool = case.needs("global_pool")?;
    let encoder = VitConfig {
        pos_embed: PosEmbedKind::Learned,
        final_norm: !global_pool,
        ..vit(case, VitConfig::default())?
    };
    Ok(FinetuneConfig {
        num_classes: case.needs("num_classes")?,
        pooling: if global_pool {
            Pooling::Mean
        } else {
            Pooling::Cls
        },
        label_smoothing: case.setting_or("label_smoothing", defaults.label_smoothing)?,
        encoder: encoder.into(),
        ..defaults
    })
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let lam = case.needs("mixup_lambda")?;
    let method = config
        .build(&config.store(device, 0))?
        .mixing(Mix::Mixup { lam });
    let mut batch = batch(case, device)?;
    let (mixed, _) = Mix::Mixup { lam }.apply(batch.view(0)?.pixels())?;
    let apart = (mixed - case.on("input.mixed_images", device)?)?
        .abs()?
        .max_all()?;
    if apart.to_scalar::<f32>()? > 1e-6 {
        return Err(case
            .bad("the images are mixed in another way than `input.mixed_images`".to_owned())
            .into());
    }
    let labels = case.required("input.labels")?.to_dtype(DType::U32)?;
    batch.labels = Some(labels.to_device(device)?);
    let trace =
        |name: &'static str| -> Extract { Box::new(move |recorded: &Recorded| recorded.get(name)) };
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named("mae")?,
        step: StepContext::new(0),
        batch,
        outputs: ["soft_target", "features", "logits"]
            .map(|name| (name, trace(name)))
            .into(),
    })
}
