//! Golden cases of CAPI.

use candle_core::{DType, Device};
use mim_core::decoders::RopePredictorConfig;
use mim_core::encoders::{RegisterCoordinates, RopeVitConfig};
use mim_core::nn::OnlineClusteringConfig;
use mim_core::schedule::Schedule;
use mim_core::weights::Source;
use mim_core::{Mask, Method, PatchGrid, StepContext};
use mim_masking::InverseBlockMaskerConfig;
use serde::Deserialize;

use super::beit::traced;
use super::mae::{self, Decoder};
use super::{Case, Problem, Result, Rounding, Setup};
use crate::{CapiConfig, MethodConfig};

/// Largest and smallest frequency of a case's positions.
#[derive(Deserialize)]
struct Freqs {
    max_freq: f64,
    min_freq: f64,
}

fn encoder(case: &Case, defaults: RopeVitConfig) -> Result<RopeVitConfig> {
    let freqs: Freqs = case.needs("rope")?;
    let places: String = case.setting_or("register_coordinates", "edge".to_owned())?;
    Ok(RopeVitConfig {
        image_size: case.setting_or("image_size", defaults.image_size)?,
        patch_size: case.setting_or("patch_size", defaults.patch_size)?,
        in_channels: case.setting_or("in_channels", defaults.in_channels)?,
        embed_dim: case.setting_or("embed_dim", defaults.embed_dim)?,
        depth: case.setting_or("depth", defaults.depth)?,
        num_heads: case.setting_or("num_heads", defaults.num_heads)?,
        mlp_ratio: case.setting_or("mlp_ratio", defaults.mlp_ratio)?,
        norm_eps: case.setting_or("norm_eps", defaults.norm_eps)?,
        num_registers: case.setting_or("n_registers", defaults.num_registers)?,
        register_coordinates: match places.as_str() {
            "edge" => RegisterCoordinates::Edge,
            "zeros" => RegisterCoordinates::Zeros,
            other => return Err(Problem::unknown(format!("registers at {other}"))),
        },
        scale_registers: case.setting_or("scale_reg_to_visible", true)?,
        drop_path_rate: 0.,
        max_freq: freqs.max_freq,
        min_freq: freqs.min_freq,
    })
}

fn config(case: &Case) -> Result<CapiConfig> {
    #[derive(Deserialize)]
    struct Momentum {
        momentum: f64,
        when: String,
    }
    let defaults = CapiConfig::default();
    let (clusters, masker) = (defaults.clustering, defaults.masker);
    let found: Decoder = case.needs("decoder")?;
    let momentum = match case.setting::<Momentum>("ema")? {
        Some(Momentum { momentum, when }) if when == "after_step" => Schedule::constant(momentum),
        Some(Momentum { when, .. }) => {
            return Err(Problem::unknown(format!("CAPI's teacher moved {when}")));
        }
        None => defaults.momentum,
    };
    Ok(CapiConfig {
        masker: InverseBlockMaskerConfig {
            mask_ratio: case.setting_or("mask_ratio", masker.mask_ratio)?,
            pred_ratio: case.setting_or("prediction_subsampling", masker.pred_ratio)?,
            min_aspect: case.setting_or("min_aspect", masker.min_aspect)?,
            roll: case.setting_or("roll", true)?,
            ..masker
        },
        momentum,
        student_temp: case.setting_or("student_temp", defaults.student_temp)?,
        clustering: OnlineClusteringConfig {
            num_clusters: case.setting_or("num_clusters", clusters.num_clusters)?,
            bias: case.setting_or("clustering_bias", clusters.bias)?,
            target_temp: case.setting_or("target_temp", clusters.target_temp)?,
            pred_temp: case.setting_or("pred_temp", clusters.pred_temp)?,
            iterations: case.setting_or("n_sk_iter", clusters.iterations)?,
            by_position: case.setting_or("positionwise_sk", clusters.by_position)?,
        },
        encoder: encoder(case, defaults.encoder)?,
        predictor: RopePredictorConfig {
            embed_dim: found.embed_dim,
            depth: found.depth,
            num_heads: found.num_heads,
        },
        ..CapiConfig::default()
    })
}

/// The mask of recorded draws, whose names end with `suffix`.
pub(super) fn replay(
    case: &Case,
    config: &InverseBlockMaskerConfig,
    (grid, images): (PatchGrid, usize),
    suffix: &str,
) -> Result<Mask> {
    // Bounds and logarithm of the aspect; places, and shifts where it rolls.
    let aspects: Vec<f64> = case.flat(&format!("input.aspect_draws{suffix}"))?;
    let places: Vec<f64> = case.flat(&format!("input.position_draws{suffix}"))?;
    let used = if config.roll { 4 } else { 2 };
    let recorded = places.len() / images.max(1);
    let rows = aspects.chunks(3).zip(places.chunks(recorded.max(1)));
    let draws: Vec<f64> = rows
        .flat_map(|(aspect, places)| [&aspect[2..], &places[..used.min(recorded)]].concat())
        .collect();
    let noise: Vec<f32> = case.flat(&format!("input.subsample_noise{suffix}"))?;
    Ok(config.build()?.from_draws(grid, images, (&draws, &noise))?)
}

/// Numbers of the visible or the predicted patches of all images, counted through.
pub(super) fn ids(mask: &Mask, hidden: bool) -> Result<Vec<i64>> {
    let ids = mask.flat(hidden, mask.rows(), &Device::Cpu)?;
    Ok(ids.to_dtype(DType::I64)?.to_vec1()?)
}

/// 1 for what is not visible, of all images.
pub(super) fn unseen(mask: &Mask) -> Vec<u8> {
    let seen = mask.complement().to_bits();
    seen.into_iter().map(|bit| 1 - bit).collect()
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    // The clustering head's rates are recorded as factors of the optimizer's, too.
    case.informs(&["clustering_optimizer"]);
    let config = config(case)?;
    let (grid, images) = (config.encoder.grid()?, case.needs("batch")?);
    let mask = replay(case, &config.masker, (grid, images), "")?;
    let visible = mask.exact_keep()?;
    case.fixed("visible_tokens", visible)?;
    case.fixed("masked_tokens", grid.len() - visible)?;
    case.fixed("predicted_tokens", mask.width() - visible)?;
    let same = case.bits("input.mask", grid)? == unseen(&mask)
        && case.flat::<i64>("input.visible_indices")? == ids(&mask, false)?
        && case.flat::<i64>("input.predict_indices")? == ids(&mask, true)?;
    if !same {
        let what = "the masker gives another mask for the recorded draws";
        return Err(case.bad(what.to_owned()).into());
    }
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(mask)?;
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "capi".to_owned())?)?,
        step: StepContext::new(0),
        batch: mae::batch(case, device)?,
        outputs: vec![
            ("coords", traced("coords")),
            ("student_encoder", traced("latent")),
            ("student_decoder", traced("student_decoder")),
            ("student_logits", traced("student_logits")),
            ("teacher_encoder", traced("teacher.latent")),
            ("teacher_logits", traced("teacher_logits")),
            ("assignments", traced("assignments")),
            ("targets", traced("targets")),
            ("target_entropy", traced("target_entropy")),
            ("clustering_loss", traced("loss.clustering")),
            ("capi_loss", traced("loss.capi")),
        ],
    })
}
