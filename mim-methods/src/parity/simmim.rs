//! Golden cases of SimMIM.

use candle_core::{DType, Device};
use mim_core::encoders::{EncoderConfig, RelPosBiasKind, SwinConfig, VitConfig};
use mim_core::nn::{PosEmbedKind, QkvBias};
use mim_core::ops::{PatchOrder, unpatchify};
use mim_core::weights::Source;
use mim_core::{Mask, Method, PatchGrid, StepContext};

use super::mae;
use super::run::Extract;
use super::trajectory::{Features, Replay, Shape};
use super::{Case, Problem, Recorded, Result, Rounding, Setup};
use crate::{MethodConfig, SimMimConfig};

/// The ViT of a case.
fn vit(case: &Case, defaults: VitConfig) -> Result<VitConfig> {
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
        (true, true) => RelPosBiasKind::Both,
    };
    let pos_embed = if flag("use_abs_pos_emb", false)? {
        PosEmbedKind::Learned
    } else {
        PosEmbedKind::None
    };
    // Zero means no layer scale at all.
    let layer_scale = case.setting_or("init_values", 0.1)?;
    Ok(VitConfig {
        qkv_bias,
        rel_pos_bias,
        pos_embed,
        layer_scale_init: (layer_scale > 0.).then_some(layer_scale),
        ..mae::vit(case, defaults)?
    })
}

/// The Swin of a case.
pub(crate) fn swin(case: &Case, defaults: SwinConfig) -> Result<SwinConfig> {
    if case.setting_or("ape", false)? || case.setting_or("use_abs_pos_emb", false)? {
        return Err(Problem::unknown("Swin with a position table".to_owned()));
    }
    let qkv_bias = if case.setting_or("qkv_bias", true)? {
        QkvBias::Full
    } else {
        QkvBias::None
    };
    let config = SwinConfig {
        image_size: case.setting_or("image_size", defaults.image_size)?,
        patch_size: case.setting_or("patch_size", defaults.patch_size)?,
        in_channels: case.setting_or("in_channels", defaults.in_channels)?,
        embed_dim: case.setting_or("embed_dim", defaults.embed_dim)?,
        depths: case.setting_or("depths", defaults.depths)?,
        num_heads: case.setting_or("num_heads", defaults.num_heads)?,
        window_size: case.setting_or("window_size", defaults.window_size)?,
        mlp_ratio: case.setting_or("mlp_ratio", defaults.mlp_ratio)?,
        norm_eps: case.setting_or("norm_eps", defaults.norm_eps)?,
        drop_path_rate: case.setting_or("drop_path_rate", 0.)?,
        patch_norm: case.setting_or("patch_norm", defaults.patch_norm)?,
        qkv_bias,
        mask_token: true,
        ..defaults
    };
    case.fixed("output_stride", config.output_stride())?;
    Ok(config)
}

fn config(case: &Case) -> Result<SimMimConfig> {
    let defaults = SimMimConfig::default();
    let arch: String = case.setting_or("arch", "vit".to_owned())?;
    let encoder: EncoderConfig = match (arch.as_str(), defaults.encoder.clone()) {
        ("vit", EncoderConfig::Vit(defaults)) => vit(case, defaults)?.into(),
        ("swin", _) => swin(case, SwinConfig::default())?.into(),
        _ => {
            return Err(Problem::unknown(format!(
                "SimMIM with the encoder `{arch}`"
            )));
        }
    };
    case.fixed("encoder_stride", encoder.output_stride())?;
    case.fixed("drop_rate", 0.)?;
    // Of classification.
    case.informs(&["use_mean_pooling"]);
    Ok(SimMimConfig {
        mask_ratio: case.setting_or("mask_ratio", defaults.mask_ratio)?,
        mask_patch_size: case.setting_or("mask_patch_size", defaults.mask_patch_size)?,
        encoder,
        ..defaults
    })
}

/// The mask of the recorded permutation, which must agree with the recorded mask of the first patches.
fn mask(case: &Case, config: &SimMimConfig) -> Result<Mask> {
    let encoder = &config.encoder;
    let first = PatchGrid::of_image(encoder.image_size().into(), encoder.patch_size())?;
    let recorded = case.bits("input.mask", first)?;
    let grid = config.mask_grid()?;
    let mask = match case.tensor("input.permutation") {
        Some(permutation) => {
            let permutation = permutation.to_dtype(DType::U32)?.flatten_all()?;
            config
                .masker()?
                .from_permutation(grid, &permutation.to_vec1::<u32>()?)?
        }
        None => {
            let scale = grid.scale_to(first)?;
            let corner = |id: usize| (id / grid.cols * first.cols + id % grid.cols) * scale;
            let corners = recorded
                .chunks(first.len())
                .flat_map(|bits| (0..grid.len()).map(move |id| bits[corner(id)]));
            Mask::from_bits(grid, &corners.collect::<Vec<_>>())?
        }
    };
    if mask.upsample(first)?.to_bits() != recorded {
        return Err(case
            .bad(
                "`input.mask` is not whole cells, or not those of the recorded permutation"
                    .to_owned(),
            )
            .into());
    }
    Ok(mask)
}

fn source(case: &Case) -> Result<Source> {
    let name: String = case.setting_or("source_names", "simmim".to_owned())?;
    Ok(Source::named(&name)?)
}

pub(super) fn replay(case: &Case, device: &Device) -> Result<Replay> {
    let config = config(case)?;
    let features = Features::new(config.encoder.clone(), "student", device)?;
    Ok(Replay {
        method: Box::new(config.build(&config.store(device, 0))?),
        source: source(case)?,
        renamed: &[],
        absent: &[],
        inputs: Box::new(move |case, device| Ok((mae::batch(case, device)?, mask(case, &config)?))),
        curves: vec![],
        features: vec![("features", features.shape(Shape::Map))],
    })
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let (grid, stride) = (config.encoder.grid()?, config.mask_stride());
    let cells = config.mask_grid()?;
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(mask(case, &config)?)?;
    // Theirs is a feature map without class token.
    let latent: Extract = Box::new(move |recorded: &Recorded| {
        let tokens = recorded.get("latent")?;
        let prefix = tokens.dim(1)?.saturating_sub(grid.len());
        let patches = tokens.narrow(1, prefix, grid.len())?.transpose(1, 2)?;
        Ok(patches
            .contiguous()?
            .reshape((tokens.dim(0)?, (), grid.rows, grid.cols))?)
    });
    let image: Extract = Box::new(move |recorded: &Recorded| {
        let pixels = recorded.get("pred.pixel")?;
        Ok(unpatchify(
            &pixels,
            stride,
            cells,
            PatchOrder::ChannelsThenPixels,
        )?)
    });
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: source(case)?,
        step: StepContext::new(0),
        batch: mae::batch(case, device)?,
        outputs: vec![("latent", latent), ("reconstruction", image)],
    })
}
