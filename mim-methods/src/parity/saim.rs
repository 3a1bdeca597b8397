//! Golden cases of SAIM.

use candle_core::{DType, Device, Tensor};
use mim_core::decoders::{QueryHead, QueryStreamConfig};
use mim_core::nn::causal_bias;
use mim_core::objectives::RegressionKind;
use mim_core::weights::Source;
use mim_core::{Mask, Method, StepContext};
use mim_masking::PermutationMasker;
use mim_targets::{Blur, PatchNorm, PixelTargetConfig};

use super::mae::{batch, vit};
use super::run::Extract;
use super::{Case, Problem, Recorded, Result, Rounding, Setup};
use crate::{MethodConfig, SaimConfig};

fn config(case: &Case) -> Result<SaimConfig> {
    let defaults = SaimConfig::default();
    let named = |key: &str, choices: [&str; 2]| -> Result<bool> {
        match case.setting_or(key, choices[0].to_owned())? {
            name if name == choices[0] => Ok(true),
            name if name == choices[1] => Ok(false),
            name => Err(Problem::unknown(format!("SAIM with {key} = {name}"))),
        }
    };
    let (kernel, sigma): (Option<usize>, Option<f64>) = (
        case.setting("gaussian_kernel_size")?,
        case.setting("gaussian_sigma")?,
    );
    Ok(SaimConfig {
        blur: Blur {
            kernel_size: kernel.unwrap_or(1),
            sigma: sigma.unwrap_or(1.),
        },
        norm_pix_loss: case.setting_or("norm_pix_loss", defaults.norm_pix_loss)?,
        loss: match named("loss_type", ["L2", "L1"])? {
            true => RegressionKind::Mse,
            false => RegressionKind::L1,
        },
        encoder: vit(case, defaults.encoder)?,
        query: QueryStreamConfig {
            depth: case.setting("query_depth")?,
            share_weights: case.setting_or("share_weight", false)?,
            head: match named("prediction_head", ["MLP", "LINEAR"])? {
                true => QueryHead::Mlp,
                false => QueryHead::Linear,
            },
        },
        ..SaimConfig::default()
    })
}

/// The order of the case's noise; what it lets each token see must be what is recorded.
fn mask(case: &Case, config: &SaimConfig) -> Result<Mask> {
    let noise: Vec<f32> = case.flat("input.noise")?;
    let mask = PermutationMasker.from_noise(config.encoder.grid()?, &noise)?;
    let device = &Device::Cpu;
    let order: Vec<u32> = mask.ids_order(device)?.flatten_all()?.to_vec1()?;
    let mut same = case.flat::<u32>("input.permutation")? == order;
    for (name, itself) in [
        ("input.content_visible", true),
        ("input.query_visible", false),
    ] {
        let seen = causal_bias(&mask, 1, itself, device)?
            .exp()?
            .to_dtype(DType::U8)?;
        same &= case.flat::<u8>(name)? == seen.flatten_all()?.to_vec1::<u8>()?;
    }
    match same {
        true => Ok(mask),
        false => Err(case
            .bad("the recorded noise gives another order".to_owned())
            .into()),
    }
}

/// The smoothed images.
fn blurred(case: &Case, config: &SaimConfig, device: &Device) -> Result<Tensor> {
    let images = case.on("input.images", device)?;
    let plain = PixelTargetConfig {
        patch_norm: PatchNorm::None,
        ..config.pixels()
    };
    let (target, grid) = (plain.build()?, config.encoder.grid()?);
    let patches = target.target(&images, grid)?;
    Ok(target.unpatchify(&patches, grid, images.dim(1)?)?)
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(mask(case, &config)?)?;
    let trace =
        |name: String| -> Extract { Box::new(move |recorded: &Recorded| recorded.get(&name)) };
    let blurred = blurred(case, &config, device)?;
    let depth = config.encoder.depth;
    let last = config.query.depth.unwrap_or(depth) - 1;
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "saim".to_owned())?)?,
        step: StepContext::new(0),
        batch: batch(case, device)?,
        outputs: vec![
            ("content_first", trace("block0".to_owned())),
            ("content_last", trace(format!("block{}", depth - 1))),
            ("query_first", trace("pixel.query0".to_owned())),
            ("query_last", trace(format!("pixel.query{last}"))),
            ("pred", trace("pixel.pred".to_owned())),
            ("blurred", Box::new(move |_: &Recorded| Ok(blurred.clone()))),
            ("target", trace("target.pixels".to_owned())),
        ],
    })
}
