//! Golden cases of EVA, in both styles.

use candle_core::{Device, Tensor};
use mim_core::augment::ViewPlan;
use mim_core::decoders::MaeDecoderConfig;
use mim_core::encoders::{Vit, VitConfig};
use mim_core::nn::Activation;
use mim_core::params::ParamStore;
use mim_core::schedule::{Schedule, Warmup};
use mim_core::weights::Source;
use mim_core::{Batch, Encoder, Mask, Method, StepContext, View};
use mim_masking::{BlockwiseMaskerConfig, HiddenCount};
use serde::Deserialize;

use super::beit::{hidden, traced};
use super::run::Extract;
use super::{Case, Problem, Recorded, Result, Rounding, Setup, beit, mae};
use crate::eva::{EvaBeitStyle, EvaMaeStyle, EvaStyle};
use crate::{EvaConfig, MethodConfig};

/// `teacher` of a case.
#[derive(Deserialize)]
struct Teacher {
    kind: String,
    image_size: usize,
    patch_size: usize,
    width: usize,
    layers: usize,
    heads: usize,
    output_dim: usize,
    norm_eps: f64,
    activation: Activation,
}

/// The tower of a case with its recorded weights.
fn teacher(case: &Case, device: &Device) -> Result<Box<dyn Encoder>> {
    let missing = || Problem::unknown("a case without a teacher");
    let own: Teacher = case.setting("teacher")?.ok_or_else(missing)?;
    if own.kind != "CLIP ViT" {
        return Err(Problem::unknown(format!("the teacher {}", own.kind)));
    }
    let config = VitConfig {
        image_size: own.image_size.into(),
        patch_size: own.patch_size,
        embed_dim: own.width,
        depth: own.layers,
        num_heads: own.heads,
        norm_eps: own.norm_eps,
        activation: own.activation,
        projection_dim: Some(own.output_dim),
        ..VitConfig::clip_large()
    };
    let store = ParamStore::teacher(device);
    let tower = Vit::new(&store.root(), &config)?;
    store.load(&Source::named("openai_clip")?.import(&case.group("teacher."))?)?;
    Ok(Box::new(tower))
}

fn in_beit_style(case: &Case, count: usize) -> Result<EvaConfig> {
    // The masks are recorded.
    case.informs(&["masked_per_image"]);
    let defaults = EvaConfig::default();
    let masker = BlockwiseMaskerConfig {
        hidden: HiddenCount::Patches { count },
        min_block: case.setting_or("min_mask_patches_per_block", 16)?,
        ..BlockwiseMaskerConfig::eva()
    };
    let encoder = beit::vit(case, defaults.encoder.clone())?;
    let hidden: usize = case.setting_or("mlp_hidden", 0)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a layer's width"
    )]
    let own = (encoder.embed_dim as f64 * encoder.mlp_ratio) as usize;
    if hidden != own && hidden != 0 {
        let what = format!("EVA with {hidden} hidden values, not {own} as mlp_ratio gives");
        return Err(Problem::unknown(what));
    }
    Ok(EvaConfig {
        style: EvaStyle::Beit(EvaBeitStyle { masker }),
        encoder,
        ..defaults
    })
}

fn in_mae_style(case: &Case) -> Result<EvaConfig> {
    case.fixed("qkv_bias", true)?;
    let defaults = EvaConfig::arch("eva_large")?;
    let EvaMaeStyle {
        mask_ratio,
        decoder,
    } = EvaMaeStyle::default();
    let encoder = mae::vit(case, defaults.encoder.clone())?;
    let decoder = match case.setting::<mae::Decoder>("decoder")? {
        Some(own) => MaeDecoderConfig {
            embed_dim: own.embed_dim,
            depth: own.depth,
            num_heads: own.num_heads,
            mlp_ratio: own.mlp_ratio.unwrap_or(decoder.mlp_ratio),
            norm_eps: encoder.norm_eps,
            ..decoder
        },
        None => decoder,
    };
    let mask_ratio = case.setting_or("mask_ratio", mask_ratio)?;
    Ok(EvaConfig {
        style: EvaStyle::Mae(EvaMaeStyle {
            mask_ratio,
            decoder,
        }),
        encoder,
        ..defaults
    })
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
fn learning_rates(case: &Case) -> Result<Option<Tensor>> {
    let Some(course) = case.setting::<Course>("schedule")? else {
        return Ok(None);
    };
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
    Ok(Some(Tensor::new(rates, &Device::Cpu)?))
}

fn outputs(case: &Case, in_mae_style: bool, mask: &Mask) -> Result<Vec<(&'static str, Extract)>> {
    let pred = match in_mae_style {
        true => traced("pred.feature"),
        false => hidden("pred.feature", mask),
    };
    let mut outputs: Vec<(&'static str, Extract)> = vec![
        ("latent", traced("latent")),
        ("teacher_features", traced("target.features")),
        ("pred", pred),
        ("target", hidden("target.features", mask)),
        (
            "mean_cosine",
            Box::new(|recorded: &Recorded| Ok(recorded.get("loss")?.neg()?)),
        ),
    ];
    if let Some(rates) = learning_rates(case)? {
        outputs.push(("lr_schedule", Box::new(move |_| Ok(rates.clone()))));
    }
    Ok(outputs)
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let count = case.setting("num_mask_patches")?;
    let mut config = match count {
        Some(count) => in_beit_style(case, count)?,
        None => in_mae_style(case)?,
    };
    let grid = config.encoder.grid()?;
    let mask = match &config.style {
        EvaStyle::Mae(style) => mae::mask(case, grid, style.mask_ratio)?,
        EvaStyle::Beit(_) => Mask::from_bits(grid, &case.bits("input.mask", grid)?)?,
    };
    let images = case.required("input.images")?.to_device(device)?;
    let mut views = vec![View::new(images, vec![])?];
    if let Some(seen) = case.tensor("input.teacher_images") {
        views.push(View::new(seen.to_device(device)?, vec![])?);
        config.target.view = 1;
        let sizes = (views[0].size(), views[1].size());
        config.views = Some(ViewPlan::with_tokenizer(vec![], sizes.0, sizes.1));
    }
    let names = if count.is_none() { "mae" } else { "beit" };
    let mut method = config.compose(&config.store(device, 0), teacher(case, device)?)?;
    method.override_mask(mask.clone())?;
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", names.to_owned())?)?,
        step: StepContext::new(0),
        batch: Batch {
            views: views.clone(),
            ..Batch::single(views[0].clone())
        },
        outputs: outputs(case, count.is_none(), &mask)?,
    })
}
