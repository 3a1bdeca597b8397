//! Golden cases of Pixio.

use candle_core::{DType, Device};
use mim_core::decoders::MaeDecoderConfig;
use mim_core::encoders::VitConfig;
use mim_core::weights::Source;
use mim_core::{Mask, Method, StepContext};

use super::beit::traced;
use super::mae::{self, Decoder};
use super::{Case, Result, Rounding, Setup};
use crate::{MethodConfig, PixioConfig};

fn config(case: &Case) -> Result<PixioConfig> {
    let defaults = PixioConfig::default();
    let encoder = VitConfig {
        num_class_tokens: case.setting_or("n_cls_tokens", defaults.encoder.num_class_tokens)?,
        ..mae::vit(case, defaults.encoder)?
    };
    let found: Decoder = case.needs("decoder")?;
    Ok(PixioConfig {
        mask_ratio: case.setting_or("mask_ratio", defaults.mask_ratio)?,
        mask_grid: case.setting_or("mask_grid", defaults.mask_grid)?,
        norm_pix_loss: case.setting_or("norm_pix_loss", defaults.norm_pix_loss)?,
        decoder: MaeDecoderConfig {
            embed_dim: found.embed_dim,
            depth: found.depth,
            num_heads: found.num_heads,
            mlp_ratio: found.mlp_ratio.unwrap_or(encoder.mlp_ratio),
            norm_eps: encoder.norm_eps,
            ..defaults.decoder
        },
        encoder,
        ..PixioConfig::default()
    })
}

/// The mask of the case's noise, which must be the recorded one.
fn mask(case: &Case, config: &PixioConfig) -> Result<Mask> {
    let grid = config.encoder.grid()?;
    let masker = config.masker()?.build()?;
    let mask = masker.from_noise(grid, &case.flat::<f32>("input.noise")?)?;
    let restore = mask.ids_restore(&Device::Cpu)?.to_dtype(DType::I64)?;
    let same = restore.flatten_all()?.to_vec1::<i64>()? == case.flat::<i64>("input.ids_restore")?
        && case.bits("input.mask", grid)? == mask.to_bits();
    let cells = masker.cells(grid)?.len();
    case.fixed("blocks", cells)?;
    case.fixed("kept_blocks", mask.exact_keep()? * cells / grid.len())?;
    match same {
        true => Ok(mask),
        false => Err(case
            .bad("the masker gives another mask for the recorded noise".to_owned())
            .into()),
    }
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(mask(case, &config)?)?;
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "mae".to_owned())?)?,
        step: StepContext::new(0),
        batch: mae::batch(case, device)?,
        outputs: vec![
            ("latent", traced("latent")),
            ("pred", traced("pred.pixel")),
            ("target", traced("target.pixels")),
        ],
    })
}
