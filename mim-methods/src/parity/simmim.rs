//! Golden cases of SimMIM.

use candle_core::{DType, Device};
use mim_core::encoders::{RelPosBiasKind, VitConfig};
use mim_core::nn::{PosEmbedKind, QkvBias};
use mim_core::ops::{PatchOrder, unpatchify};
use mim_core::weights::Source;
use mim_core::{Batch, Mask, Method, Result, StepContext, View};
use mim_masking::CellMaskerConfig;

use super::mae::vit;
use super::run::Extract;
use super::{Case, Recorded, Setup};
use crate::{MethodConfig, SimMimConfig};

fn config(case: &Case) -> Result<SimMimConfig> {
    let defaults = SimMimConfig::default();
    let qkv_bias = if case.setting_or("qkv_bias", true)? {
        QkvBias::QV
    } else {
        QkvBias::None
    };
    let flag = |key: &str, default: bool| case.setting_or(key, default);
    let rel_pos_bias = match (
        flag("use_shared_rel_pos_bias", true)?,
        flag("use_rel_pos_bias", false)?,
    ) {
        (true, false) => RelPosBiasKind::Shared,
        (false, true) => RelPosBiasKind::PerBlock,
        (false, false) => RelPosBiasKind::None,
        (true, true) => {
            return Err(super::run::not_built(
                "a shared beside a bias in each block".to_owned(),
            ));
        }
    };
    let pos_embed = if flag("use_abs_pos_emb", false)? {
        PosEmbedKind::Learned
    } else {
        PosEmbedKind::None
    };
    // Zero means no layer scale at all.
    let layer_scale = case.setting_or("init_values", 0.1)?;
    let layer_scale_init = (layer_scale > 0.).then_some(layer_scale);
    let encoder = vit(case, defaults.encoder.clone())?;
    Ok(SimMimConfig {
        mask_ratio: case.setting_or("mask_ratio", defaults.mask_ratio)?,
        mask_patch_size: case.setting_or("mask_patch_size", defaults.mask_patch_size)?,
        encoder: VitConfig {
            qkv_bias,
            rel_pos_bias,
            pos_embed,
            layer_scale_init,
            ..encoder
        },
        ..defaults
    })
}

/// The mask of the recorded permutation, which must agree with the recorded mask.
fn mask(case: &Case, config: &SimMimConfig) -> Result<Mask> {
    let grid = config.encoder.grid()?;
    let recorded = Mask::from_bits(grid, &case.bits("input.mask", grid)?)?;
    let Some(permutation) = case.tensor("input.permutation") else {
        return Ok(recorded);
    };
    let permutation: Vec<u32> = permutation.to_dtype(DType::U32)?.flatten_all()?.to_vec1()?;
    let (mask_ratio, mask_patch_size) = (config.mask_ratio, config.mask_patch_size);
    let masker = CellMaskerConfig {
        mask_ratio,
        mask_patch_size,
        patch_size: config.encoder.patch_size,
        ..Default::default()
    }
    .build()?;
    let mask = masker.from_permutation(grid, &permutation)?;
    if mask.to_bits() != recorded.to_bits() {
        return Err(case
            .bad("the masker gives another `input.mask` for the recorded permutation".to_owned()));
    }
    Ok(mask)
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let arch: String = case.setting_or("arch", "vit".to_owned())?;
    if arch != "vit" {
        return Err(super::run::not_built(format!(
            "SimMIM with the encoder `{arch}`"
        )));
    }
    let config = config(case)?;
    let (grid, patch) = (config.encoder.grid()?, config.encoder.patch_size);
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(mask(case, &config)?)?;
    let images = case.required("input.images")?.to_device(device)?;
    // Theirs is a feature map without class token.
    let latent: Extract = Box::new(move |recorded: &Recorded| {
        let tokens = recorded.get("latent")?;
        let patches = tokens.narrow(1, 1, grid.len())?.transpose(1, 2)?;
        Ok(patches
            .contiguous()?
            .reshape((tokens.dim(0)?, (), grid.rows, grid.cols))?)
    });
    let image: Extract = Box::new(move |recorded: &Recorded| {
        unpatchify(
            &recorded.get("pred.pixel")?,
            patch,
            grid,
            PatchOrder::ChannelsThenPixels,
        )
    });
    Ok(Setup {
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "simmim".to_owned())?)?,
        step: StepContext::new(0),
        batch: Batch::single(View::new(images, vec![])?),
        outputs: vec![("latent", latent), ("reconstruction", image)],
    })
}
