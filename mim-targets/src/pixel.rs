//! Pixels of each patch, raw or normalised.

use candle_core::{D, Tensor};
use mim_core::ops::{PatchOrder, patchify, unpatchify};
use mim_core::parts::Part;
use mim_core::{Batch, Error, Norm, PatchGrid, Result, Target};
use serde::{Deserialize, Serialize};

use crate::blur::Blur;
use crate::{BuiltTarget, TargetContext, TargetGenerator, TargetRequest, TargetSettings};

const NAME: &str = "pixel target";

/// Normalisation of a patch: `(x - mean) / sqrt(variance + eps)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum PatchNorm {
    /// None: raw pixels (SimMIM).
    None,
    /// Mean and unbiased variance of all values of the patch (MAE).
    Patch {
        /// Added to the variance.
        #[serde(default = "patch_eps")]
        eps: f64,
    },
    /// Mean and population variance of each channel of the patch (BootMAE).
    Channel {
        /// Added to the variance.
        #[serde(default = "channel_eps")]
        eps: f64,
    },
}

fn patch_eps() -> f64 {
    1e-6
}

fn channel_eps() -> f64 {
    1e-5
}

impl Default for PatchNorm {
    fn default() -> Self {
        Self::Patch { eps: patch_eps() }
    }
}

/// Settings of [`PixelTarget`]; `Default` is the MAE pre-training recipe.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PixelTargetConfig {
    /// Index of the view.
    pub view: usize,
    /// Normalisation of the whole image.
    pub norm: Norm,
    /// Blur of the whole image (SAIM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blur: Option<Blur>,
    /// Normalisation of each patch.
    pub patch_norm: PatchNorm,
    /// Order of the values of a patch.
    pub order: PatchOrder,
}

impl PixelTargetConfig {
    /// SimMIM's recipe (Xie et al., CVPR 2022): raw pixels, channel first.
    pub fn simmim() -> Self {
        Self {
            patch_norm: PatchNorm::None,
            order: PatchOrder::ChannelsThenPixels,
            ..Self::default()
        }
    }

    /// BootMAE's recipe (Dong et al., ECCV 2022): normalises each channel of a patch.
    pub fn bootmae() -> Self {
        Self {
            norm: Norm::inception(),
            patch_norm: PatchNorm::Channel { eps: channel_eps() },
            order: PatchOrder::ChannelsThenPixels,
            ..Self::default()
        }
    }

    /// Checks the settings and builds the generator.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if an eps is not positive or the blur is invalid.
    pub fn build(&self) -> Result<PixelTarget> {
        if let PatchNorm::Patch { eps } | PatchNorm::Channel { eps } = self.patch_norm
            && !(eps > 0. && eps.is_finite())
        {
            return Err(Error::config(
                NAME,
                "patch_norm.eps",
                eps,
                "it prevents division by zero in patches of one colour and must be positive",
                "use 1e-6, or remove it to use the default",
            ));
        }
        if let Some(blur) = self.blur {
            blur.validate()?;
        }
        Ok(PixelTarget {
            config: self.clone(),
        })
    }
}

impl Part for PixelTargetConfig {
    const ABOUT: &'static str = "pixels of each patch, plain or normalised";
    const PAPER: &'static str = "MAE: He et al., CVPR 2022, arXiv 2111.06377; SimMIM: Xie et al., CVPR 2022, arXiv 2111.09886";
    const FOLLOWS: &'static [&'static str] = &["norm"];
}

impl TargetSettings for PixelTargetConfig {
    fn build(&self, cx: &TargetContext<'_>) -> Result<BuiltTarget> {
        let (stride, channels) = (cx.encoder.output_stride(), cx.encoder.in_channels());
        Ok(BuiltTarget {
            cells: Some((self.order, channels)),
            ..BuiltTarget::new(self.build()?, stride * stride * channels)
        })
    }
}

/// The pixels of each patch of one view, `[batch, tokens, patch * patch * channels]`.
///
/// The patch size is the image size divided by the requested grid, so the target works with every encoder.
/// MAE (He et al., CVPR 2022), Sec. 3 and 4.1.
#[derive(Debug, Clone)]
pub struct PixelTarget {
    config: PixelTargetConfig,
}

/// Mean and deviation of each patch, or of each channel of each patch.
struct Statistics {
    mean: Tensor,
    deviation: Tensor,
    /// Shape for broadcasting against the patches.
    shape: Vec<usize>,
}

impl PixelTarget {
    /// The target for normalised `images` `[batch, channels, height, width]`:
    /// `[batch, tokens, patch * patch * channels]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the image size is not a multiple of the grid.
    pub fn target(&self, images: &Tensor, grid: PatchGrid) -> Result<Tensor> {
        let patches = self.patches(images, grid)?;
        let Some(statistics) = self.statistics(&patches, images.dim(1)?)? else {
            return Ok(patches);
        };
        let ys = patches
            .reshape(statistics.shape)?
            .broadcast_sub(&statistics.mean)?
            .broadcast_div(&statistics.deviation)?;
        Ok(ys.reshape(patches.shape())?)
    }

    /// Converts a prediction `[batch, tokens, C]` to an image `[batch, channels, height, width]`,
    /// with the true mean and deviation of each patch of `images` (normalised, same shape).
    ///
    /// The result is normalised like `images`; [`Norm::invert`] gives pixels in `[0, 1]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the prediction does not tile the images.
    pub fn denormalise(&self, pred: &Tensor, images: &Tensor) -> Result<Tensor> {
        let grid = grid_of(pred, images)?;
        let patches = self.patches(images, grid)?;
        let pred = match self.statistics(&patches, images.dim(1)?)? {
            None => pred.clone(),
            Some(statistics) => pred
                .reshape(statistics.shape)?
                .broadcast_mul(&statistics.deviation)?
                .broadcast_add(&statistics.mean)?
                .reshape(pred.shape())?,
        };
        self.unpatchify(&pred, grid, images.dim(1)?)
    }

    /// Assembles patches `[batch, tokens, patch * patch * channels]`, without denormalising.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if they are not the patches of an image on `grid`.
    pub fn unpatchify(&self, patches: &Tensor, grid: PatchGrid, channels: usize) -> Result<Tensor> {
        let (_, tokens, width) = patches.dims3()?;
        match patch_of(width, channels) {
            Some(patch) if tokens == grid.len() => {
                unpatchify(patches, patch, grid, self.config.order)
            }
            _ => Err(Error::shape(
                "patches to assemble",
                format!("[batch, {}, patch * patch * {channels}]", grid.len()),
                patches.dims(),
                "give the values of all patches of the image",
            )),
        }
    }

    /// The normalisation of the images.
    pub fn norm(&self) -> &Norm {
        &self.config.norm
    }

    fn patches(&self, images: &Tensor, grid: PatchGrid) -> Result<Tensor> {
        let (_, _, height, width) = images.dims4()?;
        let patch = height / grid.rows.max(1);
        if patch == 0 || grid.rows * patch != height || grid.cols * patch != width {
            return Err(Error::shape(
                "image of a pixel target",
                format!("a multiple of the grid {grid}, by the same factor on both axes"),
                format!("{height}x{width} pixels"),
                "use views of the same shape for target and encoder",
            ));
        }
        let images = match self.config.blur {
            Some(blur) => blur.apply(images)?,
            None => images.clone(),
        };
        patchify(&images, patch, self.config.order)
    }

    /// Mean and deviation of `patches` `[batch, tokens, patch * patch * channels]`.
    fn statistics(&self, patches: &Tensor, channels: usize) -> Result<Option<Statistics>> {
        let (batch, tokens, width) = patches.dims3()?;
        let area = width / channels;
        // The axis of the values that belong together, the rest of the shape, and the number subtracted
        // from their count for the variance.
        let (shape, axis, eps, bias) = match (self.config.patch_norm, self.config.order) {
            (PatchNorm::None, _) => return Ok(None),
            (PatchNorm::Patch { eps }, _) => (vec![batch, tokens, width], D::Minus1, eps, 1),
            (PatchNorm::Channel { eps }, PatchOrder::PixelsThenChannels) => {
                (vec![batch, tokens, area, channels], D::Minus2, eps, 0)
            }
            (PatchNorm::Channel { eps }, PatchOrder::ChannelsThenPixels) => {
                (vec![batch, tokens, channels, area], D::Minus1, eps, 0)
            }
        };
        let grouped = patches.reshape(shape.as_slice())?;
        let count = grouped.dim(axis)?.saturating_sub(bias).max(1);
        let mean = grouped.mean_keepdim(axis)?;
        let squares = grouped.broadcast_sub(&mean)?.sqr()?.sum_keepdim(axis)?;
        let deviation = ((squares / count as f64)? + eps)?.sqrt()?;
        Ok(Some(Statistics {
            mean,
            deviation,
            shape,
        }))
    }
}

/// Side of patches with `width` values.
fn patch_of(width: usize, channels: usize) -> Option<usize> {
    let area = width / channels.max(1);
    let patch = area.isqrt();
    (patch > 0 && patch * patch * channels == width).then_some(patch)
}

/// The grid of a prediction `[batch, tokens, C]` on images of known shape.
fn grid_of(pred: &Tensor, images: &Tensor) -> Result<PatchGrid> {
    let ((batch, tokens, width), (images, channels, height, columns)) =
        (pred.dims3()?, images.dims4()?);
    let grid = patch_of(width, channels)
        .map(|patch| PatchGrid::of_image((height, columns), patch))
        .transpose()?;
    match grid {
        Some(grid) if grid.len() == tokens && batch == images => Ok(grid),
        _ => Err(Error::shape(
            "prediction of pixels",
            format!(
                "[{images}, tokens, patch * patch * {channels}] over {height}x{columns} pixels"
            ),
            pred.dims(),
            "predict all patches of the images, with one value per pixel and channel",
        )),
    }
}

impl TargetGenerator for PixelTarget {
    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target> {
        let images = rq
            .batch
            .view(self.config.view)?
            .normalized(&self.config.norm)?;
        Ok(Target::patches(self.target(&images, rq.grid)?))
    }

    fn is_pixels(&self) -> bool {
        true
    }

    fn to_pixels(&self, predicted: &Tensor, batch: &Batch) -> Result<Option<Tensor>> {
        let norm = &self.config.norm;
        let images = batch.view(self.config.view)?.normalized(norm)?;
        Ok(Some(norm.invert(&self.denormalise(predicted, &images)?)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mim_core::{StepContext, View};
    use proptest::prelude::*;

    fn values(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn image() -> Tensor {
        let pixels: Vec<f32> = vec![0., 2., 4., 6., 1., 1., 1., 1.];
        Tensor::from_vec(pixels, (1, 2, 2, 2), &Device::Cpu).unwrap()
    }

    fn target(patch_norm: PatchNorm, order: PatchOrder) -> Vec<f32> {
        let config = PixelTargetConfig {
            patch_norm,
            order,
            ..PixelTargetConfig::default()
        };
        let ys = config
            .build()
            .unwrap()
            .target(&image(), PatchGrid::new(1, 1));
        values(&ys.unwrap())
    }

    fn close(got: &[f32], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!(
                (f64::from(*got) - want).abs() < 1e-5,
                "{got} against {want}"
            );
        }
    }

    #[test]
    fn whole_patches_use_the_unbiased_variance() {
        // Sum 16, mean 2, squares 4 + 0 + 4 + 16 + 4 * 1 = 28, over 7 is 4.
        close(
            &target(PatchNorm::default(), PatchOrder::ChannelsThenPixels),
            &[-1., 0., 1., 2., -0.5, -0.5, -0.5, -0.5],
        );
        close(
            &target(PatchNorm::default(), PatchOrder::PixelsThenChannels),
            &[-1., -0.5, 0., -0.5, 1., -0.5, 2., -0.5],
        );
    }

    #[test]
    fn channels_use_the_population_variance_and_flat_ones_become_zero() {
        let norm = PatchNorm::Channel { eps: 1e-5 };
        // Mean 3, squares 9 + 1 + 1 + 9 = 20, over 4 is 5.
        let root = 5f64.sqrt();
        let line = [-3. / root, -1. / root, 1. / root, 3. / root];
        let first = target(norm, PatchOrder::ChannelsThenPixels);
        close(&first, &[line.as_slice(), &[0.; 4]].concat());
        let pixel = target(norm, PatchOrder::PixelsThenChannels);
        close(
            &pixel,
            &[line[0], 0., line[1], 0., line[2], 0., line[3], 0.],
        );
    }

    #[test]
    fn bytes_are_normalised_and_the_view_is_chosen() {
        let view = |byte: u8| {
            let pixels = Tensor::from_vec(vec![byte; 3 * 4], (1, 3, 2, 2), &Device::Cpu).unwrap();
            View::new(pixels, vec![]).unwrap()
        };
        let mut batch = Batch::single(view(0));
        batch.views.push(view(255));
        let step = StepContext::new(0);
        let rq = TargetRequest {
            batch: &batch,
            grid: PatchGrid::new(1, 1),
            mask: None,
            student: None,
            step: &step,
        };
        let config = PixelTargetConfig {
            view: 1,
            norm: Norm::inception(),
            ..PixelTargetConfig::simmim()
        };
        let ys = config.build().unwrap().generate(&rq).unwrap();
        close(&values(&ys.patches), &[1.; 12]);
        let missing = PixelTargetConfig { view: 2, ..config };
        assert!(missing.build().unwrap().generate(&rq).is_err());
    }

    #[test]
    fn refuses_a_grid_that_does_not_divide_the_image() {
        let target = PixelTargetConfig::default().build().unwrap();
        let images = Tensor::zeros((1, 3, 6, 8), candle_core::DType::F32, &Device::Cpu).unwrap();
        for grid in [
            PatchGrid::new(4, 4),
            PatchGrid::new(2, 2),
            PatchGrid::new(12, 16),
        ] {
            let error = target.target(&images, grid).unwrap_err().to_string();
            assert!(error.contains("6x8"), "{error}");
        }
        let pred = Tensor::zeros((1, 12, 11), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(target.denormalise(&pred, &images).is_err());
        let eps = PixelTargetConfig {
            patch_norm: PatchNorm::Patch { eps: 0. },
            ..PixelTargetConfig::default()
        };
        assert!(
            eps.build()
                .unwrap_err()
                .to_string()
                .contains("patch_norm.eps")
        );
    }

    proptest! {
        #[test]
        fn denormalise_inverts_the_target(
            seed in any::<u64>(), rows in 1usize..4, cols in 1usize..4, patch in 2usize..4, kind in 0usize..3, channel_first in any::<bool>(),
        ) {
            let shape = (2, 3, rows * patch, cols * patch);
            let total = 2 * 3 * rows * cols * patch * patch;
            let pixels: Vec<f32> = (0..total as u64)
                .map(|i| (i.wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / 1e7)
                .collect();
            let images = Tensor::from_vec(pixels, shape, &Device::Cpu).unwrap();
            let order = if channel_first { PatchOrder::ChannelsThenPixels } else { PatchOrder::PixelsThenChannels };
            let patch_norm = [PatchNorm::None, PatchNorm::default(), PatchNorm::Channel { eps: 1e-5 }][kind];
            let target = PixelTargetConfig { order, patch_norm, ..PixelTargetConfig::default() }.build().unwrap();
            let ys = target.target(&images, PatchGrid::new(rows, cols)).unwrap();
            let back = target.denormalise(&ys, &images).unwrap();
            prop_assert_eq!(back.dims(), images.dims());
            for (a, b) in values(&back).iter().zip(values(&images)) {
                prop_assert!((a - b).abs() < 1e-5);
            }
        }
    }
}
