//! Targets: histograms of oriented gradients in the forms of FastMIM, MaskFeat and DMJD, SAIM's smoothed images, and
//! the folds of SdAE's teacher.

use candle_core::{DType, Device, Tensor};
use mim_core::nn::causal_bias;
use mim_core::{Norm, PatchGrid};
use mim_masking::{PermutationMasker, RandomMaskerConfig};
use mim_targets::{Blur, HogNorm, HogTargetConfig, PatchNorm, PixelTargetConfig, folds};
use serde::Deserialize;

use super::super::{Case, Result};
use super::Given;

/// The patches of an image of `[batch, channels, height, width]`.
fn grid(images: &Tensor, patch: usize) -> Result<PatchGrid> {
    let (_, _, height, width) = images.dims4()?;
    Ok(PatchGrid::new(height / patch, width / patch))
}

/// DMJD's form without normalisation, and with it: the bins last.
fn bins_last(config: &HogTargetConfig, images: &Tensor) -> Result<Tensor> {
    let made = config.build()?.histograms(images)?;
    Ok(made.permute((0, 1, 3, 4, 2))?.contiguous()?)
}

fn raw(config: &HogTargetConfig) -> HogTargetConfig {
    HogTargetConfig {
        cell_norm: HogNorm::None,
        ..config.clone()
    }
}

fn dmjd_form(case: &Case) -> Result<HogTargetConfig> {
    let eps = case.needs("whitening_eps")?;
    Ok(HogTargetConfig {
        cell_norm: HogNorm::LayerNorm { eps },
        ..HogTargetConfig::dmjd()
    })
}

/// All three forms of histograms, of the same images.
pub(super) fn hog(case: &Case, device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct InputNorm {
        mean: Vec<f64>,
        std: Vec<f64>,
    }
    // None of our values is an outlier.
    case.informs(&["max_outlier_fraction"]);
    let (bins, cell): (usize, usize) = (case.needs("nbins")?, case.needs("pool")?);
    let sizes = |config: HogTargetConfig| HogTargetConfig {
        bins,
        cell,
        ..config
    };
    let bytes = case.on("input.images_u8", device)?.permute((0, 3, 1, 2))?;
    let bytes = bytes.to_dtype(DType::F32)?.contiguous()?;
    case.fixed("image_size", bytes.dim(2)?)?;
    let InputNorm { mean, std } = case.needs("input_norm")?;
    let norm = Norm {
        mean,
        std,
        ..Norm::imagenet()
    };
    let mut given = Given::default();
    given.recorded("input.images", norm.apply(&(&bytes / 255.)?)?);
    // For an angle between two bins, rounding decides, so all start from the same images.
    let images = case.on("input.images", device)?;
    let grid = grid(&images, case.needs("patch")?)?;
    let fastmim = sizes(HogTargetConfig::fastmim());
    let map = |config: &HogTargetConfig| -> Result<Tensor> {
        Ok(config.build()?.histograms(&images)?.flatten(1, 2)?)
    };
    given.expect("fastmim_norm1", map(&fastmim)?);
    given.expect("fastmim_norm0", map(&raw(&fastmim))?);
    given.expect(
        "fastmim_tokens_p16",
        fastmim.build()?.target(&images, grid)?,
    );
    let window: usize = case.needs("gaussian_window")?;
    case.fixed("gaussian_sigma", window / 2)?;
    let maskfeat = HogTargetConfig {
        window,
        ..sizes(HogTargetConfig::maskfeat())
    };
    given.expect("maskfeat_map", maskfeat.build()?.histograms(&images)?);
    // MaskFeat's map follows from it.
    given.passes_over("gaussian_kernel");
    let dmjd = sizes(dmjd_form(case)?);
    given.expect("dmjd_hist", bins_last(&raw(&dmjd), &bytes)?);
    given.expect("dmjd_whitened", bins_last(&dmjd, &bytes)?);
    given.expect("dmjd_tokens", dmjd.build()?.target(&bytes, grid)?);
    Ok(given)
}

/// DMJD's form of oblong and of flat images.
pub(super) fn dmjd(case: &Case, device: &Device) -> Result<Given> {
    let config = HogTargetConfig {
        bins: case.needs("orientations")?,
        cell: case.needs("pixels_per_cell")?,
        ..dmjd_form(case)?
    };
    let patch = case.needs("patch")?;
    let mut given = Given::default();
    for name in ["a", "b"] {
        let bytes = case.on(&format!("input.{name}.image_u8"), device)?;
        let bytes = bytes.to_dtype(DType::F32)?;
        let target = config.build()?.target(&bytes, grid(&bytes, patch)?)?;
        given.expect(&format!("{name}.target"), target);
        given.expect(&format!("{name}.hog"), bins_last(&raw(&config), &bytes)?);
        given.expect(&format!("{name}.whitened"), bins_last(&config, &bytes)?);
    }
    Ok(given)
}

/// SAIM's attention masks and smoothed images.
pub(super) fn saim(case: &Case, device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Gaussian {
        kernel: usize,
        sigma: f64,
    }
    #[derive(Deserialize)]
    struct Order {
        num_patches: usize,
    }
    let mut given = Given::default();
    for (index, gaussian) in case.needs::<Vec<Gaussian>>("gaussian")?.iter().enumerate() {
        let images = case.on(&format!("input.image_{index}"), device)?;
        let grid = grid(&images, 2)?;
        let smooth = PixelTargetConfig {
            patch_norm: PatchNorm::None,
            blur: Some(Blur {
                kernel_size: gaussian.kernel,
                sigma: gaussian.sigma,
            }),
            ..PixelTargetConfig::default()
        };
        let target = smooth.build()?;
        let patches = target.target(&images, grid)?;
        let smoothed = target.unpatchify(&patches, grid, images.dim(1)?)?;
        given.expect(&format!("blurred_{index}"), smoothed);
        // The smoothed image follows from it.
        given.passes_over(&format!("kernel_{index}"));
    }
    for (index, order) in case.needs::<Vec<Order>>("cases")?.iter().enumerate() {
        let noise: Vec<f32> = case.flat(&format!("input.noise_{index}"))?;
        let grid = PatchGrid::new(1, order.num_patches);
        let mask = PermutationMasker.from_noise(grid, &noise)?;
        for (name, itself) in [("content", true), ("query", false)] {
            let seen = causal_bias(&mask, 1, itself, device)?.squeeze(1)?.exp()?;
            given.expect(
                &format!("{name}_visible_{index}"),
                seen.to_dtype(DType::U8)?,
            );
        }
    }
    Ok(given)
}

/// The patches that SdAE's teacher sees in each fold; theirs are image-major.
pub(super) fn sdae(case: &Case, device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Folds {
        num_patches: usize,
        mask_ratio: f64,
        shrink_num: usize,
        ncrop_loss: usize,
        masked: usize,
        tokens_per_fold: usize,
    }
    let mut given = Given::default();
    for (index, sizes) in case.needs::<Vec<Folds>>("cases")?.iter().enumerate() {
        let masker = RandomMaskerConfig {
            mask_ratio: sizes.mask_ratio,
        };
        let noise: Vec<f32> = case.flat(&format!("input.noise_{index}"))?;
        let grid = PatchGrid::new(1, sizes.num_patches);
        let mask = masker.build()?.from_noise(grid, &noise)?;
        let parts = folds(&mask, sizes.ncrop_loss, Some(sizes.shrink_num))?;
        let found = (mask.width() - mask.exact_keep()?, parts.width());
        if found != (sizes.masked, sizes.tokens_per_fold) {
            return Err(case
                .bad(format!("folds {index} are of other sizes: {found:?}"))
                .into());
        }
        let rows = parts.ids_keep(device)?.to_dtype(DType::I64)?;
        let rows = rows.reshape((sizes.ncrop_loss, mask.rows(), parts.width()))?;
        let rows = rows.transpose(0, 1)?.contiguous()?.flatten(0, 1)?;
        given.expect(&format!("fold_ids_{index}"), rows);
    }
    Ok(given)
}
