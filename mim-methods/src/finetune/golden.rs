//! The golden cases of fine-tuning.

use candle_core::{DType, Device};
use mim_core::{Batch, View};

use super::{FinetuneConfig, Mix};
use crate::MethodConfig;
use crate::parity::golden::{Golden, Masks, Output, Plain, Setting, VIT, Views, several};
use crate::parity::{Case, Result};
use Output::Trace;
use Setting::{Choice, Same, Set};

pub(crate) const GOLDEN: Golden<FinetuneConfig> = Golden {
    settings: &[
        Set("encoder.type", Plain::Text("vit")),
        Set("encoder.pos_embed", Plain::Text("learned")),
        VIT,
        Choice(
            "global_pool",
            &[
                (
                    "true",
                    &[
                        Set("pooling", Plain::Text("mean")),
                        Set("encoder.final_norm", Plain::Bool(false)),
                    ],
                ),
                (
                    "false",
                    &[
                        Set("pooling", Plain::Text("cls")),
                        Set("encoder.final_norm", Plain::Bool(true)),
                    ],
                ),
            ],
        ),
        Same("", "", &["num_classes", "label_smoothing"]),
    ],
    build: |case, config, device| {
        let method = config.build(&config.store(device, 0))?;
        Ok(Box::new(method.mixing(mix(case)?)))
    },
    views: Views::By(batch),
    masks: Masks::None,
    outputs: &[
        ("soft_target", Trace("soft_target")),
        ("features", Trace("features")),
        ("logits", Trace("logits")),
    ],
    ..Golden::new("mae", |config| config.encoder.grid())
};

fn mix(case: &Case) -> Result<Mix> {
    let lam = case.needs("mixup_lambda")?;
    Ok(Mix::Mixup { lam })
}

/// The images and their labels. Mixed as the case says, the images must equal `input.mixed_images`.
fn batch(case: &Case, _config: &FinetuneConfig, device: &Device) -> Result<Batch> {
    let images = case.on("input.images", device)?;
    let (mixed, _) = mix(case)?.apply(&images)?;
    let apart = (mixed - case.on("input.mixed_images", device)?)?
        .abs()?
        .max_all()?;
    if apart.to_scalar::<f32>()? > 1e-6 {
        let what = "the images are mixed in another way than `input.mixed_images`";
        return Err(case.bad(what.to_owned()).into());
    }
    let labels = case.on("input.labels", device)?.to_dtype(DType::U32)?;
    Ok(Batch {
        labels: Some(labels),
        ..several(vec![View::new(images, vec![])?])
    })
}
