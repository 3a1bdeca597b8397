//! Golden cases of MaskFeat.

use candle_core::Device;
use mim_core::encoders::VitConfig;
use mim_core::nn::QkvBias;
use mim_core::weights::Source;
use mim_core::{Batch, Mask, Method, StepContext, View};
use serde::Deserialize;

use super::mae;
use super::run::Extract;
use super::{Case, Problem, Recorded, Result, Rounding, Setup};
use crate::{MaskFeatConfig, MethodConfig};

#[derive(Deserialize)]
struct Hog {
    nbins: usize,
    pool: usize,
    gaussian_window: usize,
    gaussian_std: Option<f64>,
    grid: Option<usize>,
}

fn config(case: &Case) -> Result<MaskFeatConfig> {
    // The mask is recorded.
    case.informs(&["mask_ratio"]);
    let defaults = MaskFeatConfig::default();
    let qkv_bias = match case.setting_or("qkv_bias", true)? {
        true => QkvBias::Full,
        false => QkvBias::None,
    };
    let config = MaskFeatConfig {
        encoder: VitConfig {
            qkv_bias,
            ..mae::vit(case, defaults.encoder.clone())?
        },
        ..defaults
    };
    let Some(hog) = case.setting::<Hog>("hog")? else {
        return Ok(config);
    };
    let window = hog.gaussian_window;
    if let Some(std) = hog.gaussian_std
        && window > 0
        && std != (window / 2) as f64
    {
        let what = format!("a window of {window} pixels and deviation {std}");
        return Err(Problem::unknown(what));
    }
    let grid = config.encoder.grid()?;
    if hog
        .grid
        .is_some_and(|side| (side, side) != (grid.rows, grid.cols))
    {
        return Err(Problem::unknown(format!(
            "histograms on another grid than the patches' {grid}"
        )));
    }
    Ok(MaskFeatConfig {
        bins: hog.nbins,
        cell: hog.pool,
        window,
        ..config
    })
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let grid = config.encoder.grid()?;
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(Mask::from_bits(grid, &case.bits("input.mask", grid)?)?)?;
    let image = case.required("input.image")?.to_device(device)?;
    let trace =
        |name: &'static str| -> Extract { Box::new(move |recorded: &Recorded| recorded.get(name)) };
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "mmengine".to_owned())?)?,
        step: StepContext::new(0),
        batch: Batch::single(View::new(image, vec![])?),
        outputs: vec![
            ("hog", trace("target.hog")),
            ("latent", trace("latent")),
            ("pred", trace("pred.hog")),
        ],
    })
}
