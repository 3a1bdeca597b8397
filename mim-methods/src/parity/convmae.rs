//! Golden cases of ConvMAE.

use candle_core::Device;
use mim_core::decoders::MaeDecoderConfig;
use mim_core::encoders::ConvMaeConfig as HybridConfig;
use mim_core::weights::Source;
use mim_core::{Batch, Method, StepContext, View};

use super::mae::{Decoder, mask};
use super::run::Extract;
use super::{Case, Problem, Recorded, Result, Rounding, Setup};
use crate::{ConvMaeConfig, MethodConfig};

/// The encoder of a case.
pub(crate) fn encoder(case: &Case, defaults: HybridConfig) -> Result<HybridConfig> {
    if !case.setting_or("qkv_bias", true)? {
        return Err(Problem::unknown(
            "ConvMAE's encoder without biases of queries".to_owned(),
        ));
    }
    let mlp_ratios = match case.setting::<f64>("mlp_ratio")? {
        Some(ratio) => [ratio; 3],
        None => defaults.mlp_ratios,
    };
    let conv_norm_eps = case.setting_or("conv_norm_eps", defaults.conv_norm_eps)?;
    let config = HybridConfig {
        image_size: case.setting_or("image_size", defaults.image_size)?,
        in_channels: case.setting_or("in_channels", defaults.in_channels)?,
        patch_sizes: case.setting_or("patch_sizes", defaults.patch_sizes)?,
        embed_dims: case.setting_or("embed_dims", defaults.embed_dims)?,
        depths: case.setting_or("depths", defaults.depths)?,
        num_heads: case.setting_or("num_heads", defaults.num_heads)?,
        mlp_ratios: case.setting_or("mlp_ratios", mlp_ratios)?,
        norm_eps: case.setting_or("norm_eps", defaults.norm_eps)?,
        conv_norm_eps: case.setting_or("conv_block_norm_eps", conv_norm_eps)?,
    };
    case.fixed("patch_size", config.patch_sizes[0])?;
    case.fixed(
        "output_stride",
        config.patch_sizes.iter().product::<usize>(),
    )?;
    Ok(config)
}

/// The decoder of a case; its MLPs follow those of the encoder's first stage.
pub(crate) fn decoder(
    case: &Case,
    encoder: &HybridConfig,
    defaults: MaeDecoderConfig,
) -> Result<MaeDecoderConfig> {
    let defaults = MaeDecoderConfig {
        mlp_ratio: encoder.mlp_ratios[0],
        norm_eps: encoder.norm_eps,
        ..defaults
    };
    let Some(found) = case.setting::<Decoder>("decoder")? else {
        return Ok(defaults);
    };
    Ok(MaeDecoderConfig {
        embed_dim: found.embed_dim,
        depth: found.depth,
        num_heads: found.num_heads,
        mlp_ratio: found.mlp_ratio.unwrap_or(defaults.mlp_ratio),
        ..defaults
    })
}

fn config(case: &Case) -> Result<ConvMaeConfig> {
    let defaults = ConvMaeConfig::default();
    let encoder = encoder(case, defaults.encoder)?;
    Ok(ConvMaeConfig {
        mask_ratio: case.setting_or("mask_ratio", defaults.mask_ratio)?,
        norm_pix_loss: case.setting_or("norm_pix_loss", defaults.norm_pix_loss)?,
        decoder: decoder(case, &encoder, defaults.decoder)?,
        encoder,
        ..ConvMaeConfig::default()
    })
}

/// A map of ours, channels last, in the authors' order.
pub(crate) fn map(name: &'static str) -> Extract {
    Box::new(move |recorded: &Recorded| {
        Ok(recorded.get(name)?.permute((0, 3, 1, 2))?.contiguous()?)
    })
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let mask = mask(case, config.encoder.grid()?, config.mask_ratio)?;
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(mask.clone())?;
    let image = case.required("input.image")?.to_device(device)?;
    let trace =
        |name: &'static str| -> Extract { Box::new(move |recorded: &Recorded| recorded.get(name)) };
    let (bits, restore) = (mask.bits(device)?, mask.ids_restore(device)?);
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "convmae".to_owned())?)?,
        step: StepContext::new(0),
        batch: Batch::single(View::new(image, vec![])?),
        outputs: vec![
            ("mask", Box::new(move |_| Ok(bits.clone()))),
            ("ids_restore", Box::new(move |_| Ok(restore.clone()))),
            ("stage1_fused", map("stage1_fused")),
            ("stage2_fused", map("stage2_fused")),
            ("latent_visible", trace("latent")),
            ("pred", trace("pred.pixel")),
            ("target", trace("target.pixels")),
        ],
    })
}
