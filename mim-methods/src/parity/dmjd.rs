//! Golden cases of DMJD.

use candle_core::{DType, Device, Tensor};
use mim_core::decoders::VisibleMlpConfig;
use mim_core::objectives::RegressionKind;
use mim_core::weights::Source;
use mim_core::{Batch, Mask, Method, Norm, StepContext, View};
use mim_masking::DisjointMaskerConfig;
use mim_targets::{HogNorm, HogTargetConfig};
use serde::Deserialize;

use super::convmae::{decoder, encoder, map};
use super::run::Extract;
use super::{Case, Problem, Recorded, Result, Rounding, Setup};
use crate::{DmjdConfig, MethodConfig};

#[derive(Deserialize)]
struct Hog {
    nbins: usize,
    pool: usize,
    whiten_eps: f64,
}

#[derive(Deserialize)]
struct InputNorm {
    mean: Vec<f64>,
    std: Vec<f64>,
}

/// The distance of a branch.
fn loss(case: &Case, key: &str, default: RegressionKind) -> Result<RegressionKind> {
    let beta = case.setting_or("smooth_l1_beta", 2.)?;
    match case.setting::<String>(key)?.as_deref() {
        None => Ok(default),
        Some("l2") => Ok(RegressionKind::Mse),
        Some("smooth_l1") => Ok(RegressionKind::SmoothL1 { beta }),
        Some(other) => Err(Problem::unknown(format!("DMJD with {key} = {other}"))),
    }
}

fn masker(case: &Case, defaults: DisjointMaskerConfig) -> Result<DisjointMaskerConfig> {
    let unit = match case.setting::<String>("mask_type")?.as_deref() {
        None => defaults.unit,
        Some("rand") => 1,
        Some("block") => 2,
        Some(other) => return Err(Problem::unknown(format!("DMJD with masks of type {other}"))),
    };
    Ok(DisjointMaskerConfig {
        mask_ratio: case.setting_or("mask_ratio", defaults.mask_ratio)?,
        pred_ratio: case.setting_or("pred_ratio", defaults.pred_ratio)?,
        unit,
        ..defaults
    })
}

fn config(case: &Case) -> Result<DmjdConfig> {
    let defaults = DmjdConfig::default();
    let encoder = encoder(case, defaults.encoder.clone())?;
    let decoder = decoder(case, &encoder, defaults.decoder.clone())?;
    let hog = case.setting_or(
        "hog",
        Hog {
            nbins: defaults.bins,
            pool: defaults.cell,
            whiten_eps: defaults.whiten_eps,
        },
    )?;
    let norm = match case.setting::<InputNorm>("input_norm")? {
        Some(InputNorm { mean, std }) => Norm {
            mean,
            std,
            ..defaults.norm
        },
        None => defaults.norm,
    };
    Ok(DmjdConfig {
        masker: masker(case, defaults.masker)?,
        bins: hog.nbins,
        cell: hog.pool,
        whiten_eps: hog.whiten_eps,
        masked_loss: loss(case, "mim_loss_type", defaults.masked_loss)?,
        visible_loss: loss(case, "vis_loss_type", defaults.visible_loss)?,
        visible_order: case.setting_or("visible_order", defaults.visible_order)?,
        theta: case.setting_or("theta", defaults.theta)?,
        norm,
        views: None,
        visible: VisibleMlpConfig {
            dim: decoder.embed_dim,
            norm_eps: decoder.norm_eps,
        },
        encoder,
        decoder,
    })
}

/// The masks of the recorded noise and permutations.
fn mask(case: &Case, config: &DmjdConfig) -> Result<Mask> {
    // Counts that follow from sizes and ratios.
    case.informs(&["grid", "n_units", "n_keep_units", "n_extra_units"]);
    let ids = |name: &str| -> Result<Vec<u32>> {
        let ids = case.required(name)?.to_dtype(DType::U32)?;
        Ok(ids.flatten_all()?.to_vec1()?)
    };
    let noise = case.required("input.noise")?.to_dtype(DType::F32)?;
    let draw = (ids("input.perm_disjoint")?, ids("input.perm_joint")?);
    let masker = config.masker.build()?;
    Ok(masker.from_draws(
        config.encoder.grid()?,
        &noise.flatten_all()?.to_vec1::<f32>()?,
        &[draw],
    )?)
}

/// The histograms before they are whitened, `[batch, channels, rows, cols, bins]`, as many rows as
/// are recorded.
fn histograms(case: &Case, config: &DmjdConfig, images: &Tensor) -> Result<Tensor> {
    let raw = HogTargetConfig {
        cell_norm: HogNorm::None,
        ..config.hog()
    };
    let made = raw.build()?.histograms(&images.to_dtype(DType::F32)?)?;
    let made = made.permute((0, 1, 3, 4, 2))?.contiguous()?;
    Ok(match case.tensor("expect.hog") {
        Some(recorded) if recorded.rank() == 5 && recorded.dim(2)? < made.dim(2)? => {
            made.narrow(2, 0, recorded.dim(2)?)?
        }
        _ => made,
    })
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let mask = mask(case, &config)?;
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(mask.clone())?;
    let images = case.required("input.image_u8")?.to_device(device)?;
    let trace =
        |name: &'static str| -> Extract { Box::new(move |recorded: &Recorded| recorded.get(name)) };
    let known = |tensor: Tensor| -> Extract { Box::new(move |_| Ok(tensor.clone())) };
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "dmjd".to_owned())?)?,
        step: StepContext::new(0),
        outputs: vec![
            ("mask", known(mask.bits(device)?)),
            ("ids_keep", known(mask.ids_keep(device)?)),
            ("ids_restore", known(mask.ids_restore(device)?)),
            ("hog", known(histograms(case, &config, &images)?)),
            ("target", trace("target.hog")),
            ("patch_embed1", map("patch_embed1")),
            ("stage1", map("stage1")),
            ("stage2", map("stage2")),
            (
                "patch_embed4",
                Box::new(|recorded: &Recorded| Ok(recorded.get("patch_embed4")?.flatten(1, 2)?)),
            ),
            ("latent", trace("latent")),
            ("pred", trace("pred.masked")),
            ("pred_vis", trace("pred.visible")),
            ("loss_mim", trace("loss.masked")),
            ("loss_vis", trace("loss.visible")),
        ],
        batch: Batch::single(View::new(images, vec![])?),
    })
}
