//! Golden cases of MAE.

use candle_core::{DType, Device, Tensor};
use mim_core::decoders::MaeDecoderConfig;
use mim_core::encoders::VitConfig;
use mim_core::nn::QkvBias;
use mim_core::weights::Source;
use mim_core::{Batch, Mask, Method, PatchGrid, StepContext, View};
use mim_masking::RandomMaskerConfig;
use serde::Deserialize;

use super::run::Extract;
use super::trajectory::{Features, Replay};
use super::{Case, Problem, Recorded, Result, Rounding, Setup};
use crate::{MaeConfig, MethodConfig};

/// The decoder's settings that all cases with MAE's decoder share.
#[derive(Deserialize)]
pub(crate) struct Decoder {
    pub(crate) embed_dim: usize,
    pub(crate) depth: usize,
    pub(crate) num_heads: usize,
    pub(crate) mlp_ratio: Option<f64>,
}

/// The encoder's settings that all cases with a plain ViT share.
pub(crate) fn vit(case: &Case, defaults: VitConfig) -> Result<VitConfig> {
    Ok(VitConfig {
        image_size: case.setting_or("image_size", defaults.image_size)?,
        patch_size: case.setting_or("patch_size", defaults.patch_size)?,
        in_channels: case.setting_or("in_channels", defaults.in_channels)?,
        embed_dim: case.setting_or("embed_dim", defaults.embed_dim)?,
        depth: case.setting_or("depth", defaults.depth)?,
        num_heads: case.setting_or("num_heads", defaults.num_heads)?,
        mlp_ratio: case.setting_or("mlp_ratio", defaults.mlp_ratio)?,
        norm_eps: case.setting_or("norm_eps", defaults.norm_eps)?,
        drop_path_rate: case.setting_or("drop_path_rate", 0.)?,
        ..defaults
    })
}

fn config(case: &Case) -> Result<MaeConfig> {
    let defaults = MaeConfig::default();
    let qkv_bias = if case.setting_or("qkv_bias", true)? {
        QkvBias::Full
    } else {
        QkvBias::None
    };
    let encoder = VitConfig {
        qkv_bias,
        ..vit(case, defaults.encoder)?
    };
    let decoder = match case.setting::<Decoder>("decoder")? {
        Some(Decoder {
            embed_dim,
            depth,
            num_heads,
            mlp_ratio,
        }) => MaeDecoderConfig {
            embed_dim,
            depth,
            num_heads,
            mlp_ratio: mlp_ratio.unwrap_or(encoder.mlp_ratio),
            norm_eps: encoder.norm_eps,
            ..defaults.decoder
        },
        None => MaeDecoderConfig {
            norm_eps: encoder.norm_eps,
            ..defaults.decoder
        },
    };
    Ok(MaeConfig {
        mask_ratio: case.setting_or("mask_ratio", defaults.mask_ratio)?,
        norm_pix_loss: case.setting_or("norm_pix_loss", defaults.norm_pix_loss)?,
        encoder,
        decoder,
        ..MaeConfig::default()
    })
}

/// The mask of the case's noise; the recorded mask and ids must agree with it.
pub(crate) fn mask(case: &Case, grid: PatchGrid, mask_ratio: f64) -> Result<Mask> {
    let Some(noise) = case.tensor("input.noise") else {
        return Ok(Mask::from_bits(grid, &case.bits("input.mask", grid)?)?);
    };
    let noise: Vec<f32> = noise.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let masker = RandomMaskerConfig { mask_ratio }.build()?;
    let mask = masker.from_noise(grid, &noise)?;
    let ids = |ids: &Tensor| -> Result<Vec<i64>> {
        Ok(ids.to_dtype(DType::I64)?.flatten_all()?.to_vec1()?)
    };
    let device = &Device::Cpu;
    for (name, ours) in [
        ("input.ids_keep", ids(&mask.ids_keep(device)?)?),
        ("input.ids_restore", ids(&mask.ids_restore(device)?)?),
    ] {
        if let Some(theirs) = case.tensor(name)
            && ids(theirs)? != ours
        {
            return Err(disagrees(case, name));
        }
    }
    if case.tensor("input.mask").is_some() && case.bits("input.mask", grid)? != mask.to_bits() {
        return Err(disagrees(case, "input.mask"));
    }
    Ok(mask)
}

fn disagrees(case: &Case, name: &str) -> Problem {
    let what = format!("the masker gives another `{name}` for the recorded noise");
    case.bad(what).into()
}

/// The images of a case, which have been normalised.
pub(super) fn batch(case: &Case, device: &Device) -> Result<Batch> {
    let images = case.required("input.images")?.to_device(device)?;
    Ok(Batch::single(View::new(images, vec![])?))
}

fn source(case: &Case) -> Result<Source> {
    let name: String = case.setting_or("source_names", "mae".to_owned())?;
    Ok(Source::named(&name)?)
}

pub(super) fn replay(case: &Case, device: &Device) -> Result<Replay> {
    let config = config(case)?;
    let (grid, ratio) = (config.encoder.grid()?, config.mask_ratio);
    Ok(Replay {
        method: Box::new(config.build(&config.store(device, 0))?),
        source: source(case)?,
        renamed: &[],
        absent: &[],
        inputs: Box::new(move |case, device| Ok((batch(case, device)?, mask(case, grid, ratio)?))),
        curves: vec![],
        features: vec![(
            "features",
            Features::new(config.encoder, "student", device)?,
        )],
    })
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(mask(case, config.encoder.grid()?, config.mask_ratio)?)?;
    let trace =
        |name: &'static str| -> Extract { Box::new(move |recorded: &Recorded| recorded.get(name)) };
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: source(case)?,
        step: StepContext::new(0),
        batch: batch(case, device)?,
        outputs: vec![
            ("patch_embed", trace("patch_embed")),
            ("latent", trace("latent")),
            ("pred", trace("pred.pixel")),
            ("target", trace("target.pixels")),
        ],
    })
}
