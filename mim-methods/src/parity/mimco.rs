//! Golden cases of MimCo.

use candle_core::Device;
use mim_core::decoders::MeanMlpConfig;
use mim_core::encoders::{Vit, VitConfig};
use mim_core::nn::PosEmbedKind;
use mim_core::weights::Source;
use mim_core::{Batch, Encoder, Mask, Method, ParamStore, StepContext, View};
use serde::Deserialize;

use super::mae::vit;
use super::run::Extract;
use super::{Case, Recorded, Result, Rounding, Setup};
use crate::{MethodConfig, MimCoConfig};

/// `teacher` of a case.
#[derive(Deserialize)]
struct Teacher {
    embed_dim: usize,
    depth: usize,
    num_heads: usize,
    norm_eps: f64,
}

/// `image_head` of a case.
#[derive(Deserialize)]
struct ImageHead {
    hidden: usize,
}

/// The teacher of a case with its recorded weights; its positions are a table like others.
fn teacher(case: &Case, student: &VitConfig, device: &Device) -> Result<Box<dyn Encoder>> {
    let sizes: Teacher = case.needs("teacher")?;
    let config = VitConfig {
        embed_dim: sizes.embed_dim,
        depth: sizes.depth,
        num_heads: sizes.num_heads,
        norm_eps: sizes.norm_eps,
        pos_embed: PosEmbedKind::Learned,
        mask_token: false,
        ..student.clone()
    };
    let store = ParamStore::teacher(device);
    let vit = Vit::new(&store.root(), &config)?;
    store.load(&Source::named("mimco")?.import(&case.group("teacher."))?)?;
    Ok(Box::new(vit))
}

fn config(case: &Case) -> Result<MimCoConfig> {
    let defaults = MimCoConfig::default();
    case.fixed("patch_head", "linear".to_owned())?;
    let head: ImageHead = case.needs("image_head")?;
    Ok(MimCoConfig {
        mask_ratio: case.setting_or("mask_ratio", defaults.mask_ratio)?,
        mask_patch_size: case.setting_or("mask_unit", defaults.mask_patch_size)?,
        patch_temperature: case.setting_or("patch_temperature", defaults.patch_temperature)?,
        image_temperature: case.setting_or("image_temperature", defaults.image_temperature)?,
        patch_weight: case.setting_or("patch_weight", defaults.patch_weight)?,
        image_weight: case.setting_or("image_weight", defaults.image_weight)?,
        encoder: vit(case, defaults.encoder)?,
        image_head: MeanMlpConfig {
            hidden_dim: head.hidden,
        },
        ..MimCoConfig::default()
    })
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let teacher = teacher(case, &config.encoder, device)?;
    let grid = config.encoder.grid()?;
    let mut method = config.compose(&config.store(device, 0), teacher)?;
    method.override_mask(Mask::from_bits(grid, &case.bits("input.mask", grid)?)?)?;
    let images = case.required("input.image")?.to_device(device)?;
    let trace =
        |name: &'static str| -> Extract { Box::new(move |recorded: &Recorded| recorded.get(name)) };
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named("mimco")?,
        step: StepContext::new(0),
        batch: Batch::single(View::new(images, vec![])?),
        outputs: vec![
            ("teacher_patches", trace("target.features")),
            (
                "teacher_image",
                Box::new(|recorded: &Recorded| Ok(recorded.get("target.features")?.mean(1)?)),
            ),
            ("student_latent", trace("latent")),
            ("student_patches", trace("pred.patch")),
            ("student_image", trace("pred.image")),
            ("patch_logits", trace("patch.score")),
            ("patch_ce", trace("patch.per_token")),
            ("image_logits", trace("image.score")),
            ("loss_patch", trace("loss.patch")),
            ("loss_image", trace("loss.image")),
        ],
    })
}
