//! Golden cases of CMAE.

use candle_core::{DType, Device, Tensor};
use mim_core::decoders::MaeDecoderConfig;
use mim_core::encoders::VitConfig;
use mim_core::nn::ProjectionHeadConfig;
use mim_core::weights::Source;
use mim_core::{Batch, Mask, Method, PatchGrid, Per, Schedule, StepContext, View};
use serde::Deserialize;

use super::mae::vit;
use super::run::Extract;
use super::trajectory::{self, Curve, Features, Replay};
use super::{Case, Recorded, Result, Rounding, Setup};
use crate::{CmaeConfig, MethodConfig};

const TAKEN_AWAY: &str =
    "it moves the pooled rows of all images alike, and the projector's batch norm takes that away";

/// Computed in f64 from the same inputs, case0 differs from what is recorded by up to 2.6e-5 of the
/// largest element of a tensor, 1.2 times what the case allows.
const FEW_ROWS: &str = "it has passed a batch norm over three to five nearly equal rows, whose \
                        division by a small deviation magnifies rounding";

const ROUNDING: Rounding = Rounding {
    zero: &[
        ("feature_decoder.ln1.bias", TAKEN_AWAY),
        ("feature_decoder.decoder_pred.bias", TAKEN_AWAY),
    ],
    magnified: &[
        ("backbone.", 1e-4, FEW_ROWS),
        ("feature_decoder.", 1e-4, FEW_ROWS),
        ("projector.", 1e-4, FEW_ROWS),
        ("head.predictor.", 1e-4, FEW_ROWS),
    ],
};

#[derive(Deserialize)]
struct Head {
    in_dim: usize,
    hidden_dim: usize,
    out_dim: usize,
}

#[derive(Deserialize)]
struct Momentum {
    base: f64,
    end: f64,
    /// Absent in a trajectory, whose steps say it.
    iter: Option<usize>,
    max_iters: Option<usize>,
}

fn decoder(
    case: &Case,
    key: &str,
    default: MaeDecoderConfig,
    norm_eps: f64,
) -> Result<MaeDecoderConfig> {
    let pos_embed = default.pos_embed;
    Ok(MaeDecoderConfig {
        pos_embed,
        norm_eps,
        ..case.setting_or(key, default)?
    })
}

fn head(
    case: &Case,
    key: &str,
    default: ProjectionHeadConfig,
) -> Result<(Option<usize>, ProjectionHeadConfig)> {
    let norm_eps = case.setting_or("batch_norm_eps", default.norm_eps)?;
    let found = case.setting::<Head>(key)?;
    let inputs = found.as_ref().map(|head| head.in_dim);
    let (hidden_dim, out_dim) = match found {
        Some(head) => (head.hidden_dim, head.out_dim),
        None => (default.hidden_dim, default.out_dim),
    };
    let config = ProjectionHeadConfig {
        hidden_dim,
        out_dim,
        norm_eps,
    };
    Ok((inputs, config))
}

fn config(case: &Case) -> Result<CmaeConfig> {
    case.fixed("batch_norm_momentum", 0.1)?;
    case.fixed("pix_norm_eps", 1e-6)?;
    case.fixed("world_size", 1)?;
    case.fixed("norm_pix_loss", true)?;
    // What the schedule of the momentum gives at this step.
    case.informs(&["ema"]);
    let defaults = CmaeConfig::default();
    let encoder: VitConfig = vit(case, defaults.encoder)?;
    case.fixed("mlp_hidden", encoder.mlp_ratio * encoder.embed_dim as f64)?;
    let eps = encoder.norm_eps;
    // The feature decoder's output is what the projector takes.
    let (feature_dim, projector) = head(case, "projector", defaults.projector)?;
    let (_, predictor) = head(case, "predictor", defaults.predictor)?;
    let momentum = match case.setting::<Momentum>("momentum")? {
        Some(Momentum { base, end, .. }) => Schedule::Cosine {
            start: base,
            end,
            per: Per::Iter,
        },
        None => defaults.momentum,
    };
    Ok(CmaeConfig {
        mask_ratio: case.setting_or("mask_ratio", defaults.mask_ratio)?,
        mask_patch_size: case.setting_or("mask_unit", 2)? * encoder.patch_size,
        temperature: case.setting_or("temperature", defaults.temperature)?,
        pixel_weight: case.setting_or("rc_weight", defaults.pixel_weight)?,
        contrast_weight: case.setting_or("ct_weight", defaults.contrast_weight)?,
        target_class_token: case.setting_or("target_cls", defaults.target_class_token)?,
        momentum,
        feature_dim,
        decoder: decoder(case, "decoder", defaults.decoder, eps)?,
        feature_decoder: decoder(case, "feature_decoder", defaults.feature_decoder, eps)?,
        projector,
        predictor,
        encoder,
        ..CmaeConfig::default()
    })
}

/// Where in its run the case's step lies.
fn step(case: &Case) -> Result<StepContext> {
    let start = StepContext::new(0);
    Ok(match case.setting::<Momentum>("momentum")? {
        Some(Momentum {
            iter: Some(iter),
            max_iters: Some(max_iters),
            ..
        }) => StepContext {
            iter,
            iters_per_epoch: max_iters,
            ..start
        },
        _ => start,
    })
}

/// The mask of the case's noise, in the recorded order: theirs inside a cell comes from ties.
fn mask(case: &Case, config: &CmaeConfig) -> Result<Mask> {
    let grid = config.encoder.grid()?;
    let noise = case.required("input.noise")?.to_dtype(DType::F32)?;
    let noise: Vec<f32> = noise.flatten_all()?.to_vec1()?;
    let ours = config.masker().build()?.from_noise(grid, &noise)?;
    let Some(ids) = case.tensor("input.ids_keep") else {
        return Ok(ours);
    };
    let theirs = ordered(grid, &ids.to_dtype(DType::U32)?.to_vec2()?)?;
    if theirs.to_bits() != ours.to_bits() {
        let what = "the masker gives another `input.ids_keep` for the recorded noise";
        return Err(case.bad(what.to_owned()).into());
    }
    Ok(theirs)
}

/// A mask with these visible ids in this order.
fn ordered(grid: PatchGrid, visible: &[Vec<u32>]) -> Result<Mask> {
    let mut order = Vec::with_capacity(visible.len() * grid.len());
    for row in visible {
        order.extend(row);
        let all = (0u32..).take(grid.len());
        order.extend(all.filter(|id| !row.contains(id)));
    }
    Ok(Mask::new(
        grid,
        order,
        visible.iter().map(Vec::len).collect(),
    )?)
}

fn batch(case: &Case, device: &Device) -> Result<Batch> {
    let view = |name: &str| View::new(case.required(name)?.to_device(device)?, vec![]);
    let views = vec![view("input.img")?, view("input.img_t")?];
    Ok(Batch {
        views,
        ..Batch::single(view("input.img")?)
    })
}

fn source(case: &Case) -> Result<Source> {
    let name: String = case.setting_or("source_names", "cmae".to_owned())?;
    Ok(Source::named(&name)?)
}

pub(super) fn replay(case: &Case, device: &Device) -> Result<Replay> {
    // What `momentum` says again.
    case.informs(&["ema", "ema_names"]);
    let config = CmaeConfig {
        momentum: trajectory::momentum(case)?,
        ..config(case)?
    };
    let target = VitConfig {
        final_norm: false,
        class_token: config.target_class_token,
        ..config.encoder.clone()
    };
    let encoder = config.encoder.clone();
    Ok(Replay {
        method: Box::new(config.build(&config.store(device, 0))?),
        source: source(case)?,
        renamed: &[],
        absent: &[],
        curves: vec![
            ("loss_ct", Curve::Term("feature", config.contrast_weight)),
            ("loss_rc", Curve::Term("pixel", config.pixel_weight)),
            ("momentum", Curve::Value(config.momentum.clone())),
        ],
        features: vec![
            ("features", Features::new(encoder, "student", device)?),
            ("features_target", Features::new(target, "teacher", device)?),
        ],
        inputs: Box::new(move |case, device| Ok((batch(case, device)?, mask(case, &config)?))),
    })
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let (config, step) = (config(case)?, step(case)?);
    let mask = mask(case, &config)?;
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(mask.clone())?;
    let trace =
        |name: &'static str| -> Extract { Box::new(move |recorded: &Recorded| recorded.get(name)) };
    // Theirs include the weights.
    let weighted = |name: &'static str, weight: f64| -> Extract {
        Box::new(move |recorded: &Recorded| Ok((recorded.get(name)? * weight)?))
    };
    let momentum = Tensor::new(config.momentum.at(&step), &Device::Cpu)?;
    let bits = mask.bits(device)?;
    Ok(Setup {
        rounding: ROUNDING,
        method: Box::new(method),
        source: source(case)?,
        step,
        batch: batch(case, device)?,
        outputs: vec![
            ("latent", trace("latent")),
            ("latent_t", trace("teacher.latent")),
            ("mask", Box::new(move |_| Ok(bits.clone()))),
            ("momentum", Box::new(move |_| Ok(momentum.clone()))),
            ("pred_pixel", trace("pred.pixel")),
            ("pred_feature", trace("feature.tokens")),
            ("proj_s", trace("feature.projection")),
            ("proj_t", trace("target.features")),
            ("pred_s", trace("feature.pred_norm")),
            ("proj_t_norm", trace("feature.keys")),
            ("score", trace("feature.score")),
            ("target", trace("target.pixels")),
            ("loss_ct", weighted("loss.feature", config.contrast_weight)),
            ("loss_rc", weighted("loss.pixel", config.pixel_weight)),
        ],
    })
}
