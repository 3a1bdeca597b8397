//! Golden cases of FastMIM.

use candle_core::{DType, Device};
use mim_core::decoders::LightDecoderConfig;
use mim_core::encoders::{EncoderConfig, PvtV2Config, SwinConfig, VitConfig};
use mim_core::nn::QkvBias;
use mim_core::ops::{PatchOrder, unpatchify};
use mim_core::weights::Source;
use mim_core::{Batch, Mask, Method, PatchGrid, StepContext, View};
use serde::Deserialize;

use super::run::Extract;
use super::{Case, Problem, Recorded, Result, Rounding, Setup, mae, simmim};
use crate::{FastMimConfig, FastMimTarget, MethodConfig};

/// `decoder` of a case.
#[derive(Deserialize)]
struct Decoder {
    embed_dim: usize,
    depth: usize,
    num_heads: usize,
    norm_eps: f64,
    mlp_ratio: f64,
}

/// `hog` of a case.
#[derive(Deserialize)]
struct Hog {
    nbins: usize,
    pool: usize,
    gaussian_window: usize,
}

fn pvt_v2(case: &Case) -> Result<PvtV2Config> {
    let defaults = PvtV2Config::default();
    let conv_norm_eps = case.setting_or("patch_norm_eps", defaults.conv_norm_eps)?;
    if case.setting_or("sr_norm_eps", conv_norm_eps)?.to_bits() != conv_norm_eps.to_bits() {
        return Err(Problem::unknown(
            "two epsilons behind convolutions".to_owned(),
        ));
    }
    let stem = serde_json::json!({ "kernel": 7, "stride": 4, "padding": 3 });
    case.fixed("stem", stem)?;
    Ok(PvtV2Config {
        image_size: case.setting_or("image_size", defaults.image_size)?,
        patch_size: case.setting_or("patch_size", defaults.patch_size)?,
        in_channels: case.setting_or("in_channels", defaults.in_channels)?,
        embed_dims: case.setting_or("embed_dims", defaults.embed_dims)?,
        depths: case.setting_or("depths", defaults.depths)?,
        num_heads: case.setting_or("num_heads", defaults.num_heads)?,
        mlp_ratios: case.setting_or("mlp_ratios", defaults.mlp_ratios)?,
        sr_ratios: case.setting_or("sr_ratios", defaults.sr_ratios)?,
        qkv_bias: case.setting_or("qkv_bias", defaults.qkv_bias)?,
        norm_eps: case.setting_or("norm_eps", defaults.norm_eps)?,
        conv_norm_eps,
        drop_path_rate: case.setting_or("drop_path_rate", 0.)?,
    })
}

fn encoder(case: &Case) -> Result<EncoderConfig> {
    let arch: String = case.setting_or("arch", "vit".to_owned())?;
    let encoder: EncoderConfig = match (arch.as_str(), FastMimConfig::default().encoder) {
        ("vit", EncoderConfig::Vit(defaults)) => VitConfig {
            qkv_bias: match case.setting_or("qkv_bias", true)? {
                true => QkvBias::Full,
                false => QkvBias::None,
            },
            ..mae::vit(case, defaults)?
        }
        .into(),
        ("swin", _) => simmim::swin(case, SwinConfig::default())?.into(),
        ("pvtv2", _) => pvt_v2(case)?.into(),
        _ => {
            return Err(Problem::unknown(format!(
                "FastMIM with the encoder `{arch}`"
            )));
        }
    };
    let stride = encoder.output_stride();
    if case.setting_or("output_stride", stride)? != stride {
        return Err(case
            .bad(format!("`output_stride` is not the encoder's {stride}"))
            .into());
    }
    Ok(encoder)
}

fn config(case: &Case) -> Result<FastMimConfig> {
    let defaults = FastMimConfig::default();
    let loss: String = case.setting_or("mim_loss", "HOG".to_owned())?;
    let target = match loss.as_str() {
        "HOG" => FastMimTarget::Hog,
        "l2" => FastMimTarget::Pixel,
        _ => return Err(Problem::unknown(format!("FastMIM with the loss `{loss}`"))),
    };
    let hog_cell = match case.setting::<Hog>("hog")? {
        Some(Hog {
            nbins: 9,
            pool,
            gaussian_window: 0,
        }) => pool,
        None => defaults.hog_cell,
        Some(_) => return Err(Problem::unknown("FastMIM with other histograms".to_owned())),
    };
    let decoder = match case.setting::<Decoder>("decoder")? {
        Some(sizes) => LightDecoderConfig {
            embed_dim: sizes.embed_dim,
            depth: sizes.depth,
            num_heads: Some(sizes.num_heads),
            norm_eps: sizes.norm_eps,
            mlp_ratio: sizes.mlp_ratio,
        },
        None => defaults.decoder,
    };
    Ok(FastMimConfig {
        mask_ratio: case.setting_or("mask_ratio", defaults.mask_ratio)?,
        block_size: case.setting_or("block_size", defaults.block_size)?,
        target,
        norm_pix_loss: case.setting_or("norm_pix_loss", defaults.norm_pix_loss)?,
        hog_cell,
        encoder: encoder(case)?,
        decoder,
        ..FastMimConfig::default()
    })
}

/// The mask of the recorded noise, which must agree with the recorded mask.
fn mask(case: &Case, config: &FastMimConfig, grid: PatchGrid) -> Result<Mask> {
    let recorded = case.bits("input.loss_mask", grid)?;
    let noise = case.required("input.noise")?.to_dtype(DType::F32)?;
    let noise: Vec<f32> = noise.flatten_all()?.to_vec1()?;
    let mask = config.masker()?.from_noise(grid, &noise)?;
    match mask.to_bits() == recorded {
        true => Ok(mask),
        false => Err(case
            .bad("the masker gives another mask for the recorded noise".to_owned())
            .into()),
    }
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let (size, stride) = (config.encoder.image_size(), config.mask_stride());
    let grid = PatchGrid::of_image(size.into(), stride)?;
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(mask(case, &config, grid)?)?;
    let images = case.required("input.images")?.to_device(device)?;
    let traced =
        |name: &'static str| -> Extract { Box::new(move |recorded: &Recorded| recorded.get(name)) };
    let cells = stride / config.hog_cell.max(1);
    // Theirs is a map of cells with the bins of all colours as channels.
    let hog: Extract = Box::new(move |recorded: &Recorded| {
        let tokens = recorded.get("target.hog")?;
        Ok(unpatchify(
            &tokens,
            cells,
            grid,
            PatchOrder::ChannelsThenPixels,
        )?)
    });
    let pred = match config.target {
        FastMimTarget::Hog => "hog.tokens",
        FastMimTarget::Pixel => "pixel.tokens",
    };
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "fastmim".to_owned())?)?,
        step: StepContext::new(0),
        batch: Batch::single(View::new(images, vec![])?),
        outputs: vec![
            ("masked_image", traced("masked_image")),
            ("latent", traced("latent")),
            ("pred", traced(pred)),
            ("hog", hog),
        ],
    })
}
