//! Histograms of oriented gradients per patch, in the three forms used by papers.

use candle_core::{DType, Tensor};
use mim_core::ops::{HogFilter, HogGradient, PatchOrder, hog, normalize};
use mim_core::parts::Part;
use mim_core::{Error, Norm, PatchGrid, Result, Target, View};
use serde::{Deserialize, Serialize};

use crate::{BuiltTarget, TargetContext, TargetGenerator, TargetRequest, TargetSettings};

const NAME: &str = "hog target";

/// Normalisation of the bins of a cell, per channel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum HogNorm {
    /// None.
    None,
    /// By the Euclidean norm, at least `eps`: a flat cell gives zeros.
    L2 {
        /// Minimum of the divisor.
        eps: f64,
    },
    /// By mean and deviation of the bins: DMJD's "instance whitening".
    LayerNorm {
        /// Added to the population variance.
        eps: f64,
    },
}

impl Default for HogNorm {
    fn default() -> Self {
        Self::L2 { eps: 1e-12 }
    }
}

/// The order of the values of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HogOrder {
    /// (channel, bin, cell row, cell column): MaskFeat, FastMIM.
    #[default]
    ChannelsBinsCells,
    /// (cell row, cell column, bin, channel): DMJD.
    CellsBinsChannels,
}

/// Settings of [`HogTarget`]; `Default` is MaskFeat's.
///
/// The forms are not interchangeable: they differ in bins, scale and order of the values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HogTargetConfig {
    /// Index of the view. Default 0.
    pub view: usize,
    /// Normalisation of the image before the gradient. Default ImageNet's; not used with `bytes`.
    pub norm: Norm,
    /// Whether to use the gradient of the bytes 0 to 255, or of deep images times 255 (DMJD). Default false.
    pub bytes: bool,
    /// How the gradient is computed. Default `sobel`.
    pub gradient: HogGradient,
    /// Number of bins over half a turn. Default 9.
    pub bins: usize,
    /// Side of a cell in pixels; it divides the patch size. Default 8.
    pub cell: usize,
    /// Side in pixels of a Gaussian window that weighs the pixels; 0 for none. Default 16.
    pub window: usize,
    /// Whether a cell's histogram is the mean instead of the sum over its pixels. Default false.
    pub mean: bool,
    /// Normalisation of the bins of each cell and channel. Default L2.
    pub cell_norm: HogNorm,
    /// Order of the values of a token. Default (channel, bin, cell row, cell column).
    pub order: HogOrder,
}

impl Default for HogTargetConfig {
    fn default() -> Self {
        Self {
            view: 0,
            norm: Norm::imagenet(),
            bytes: false,
            gradient: HogGradient::Sobel,
            bins: 9,
            cell: 8,
            window: 16,
            mean: false,
            cell_norm: HogNorm::default(),
            order: HogOrder::ChannelsBinsCells,
        }
    }
}

impl HogTargetConfig {
    /// MaskFeat's (Wei et al., CVPR 2022), as in mmpretrain @ ee7f2e88.
    pub fn maskfeat() -> Self {
        Self::default()
    }

    /// FastMIM's (Guo et al., arXiv 2212.06593; ggjy/FastMIM.pytorch @ d4eea0d): without a window.
    pub fn fastmim() -> Self {
        Self {
            window: 0,
            ..Self::default()
        }
    }

    /// DMJD's (Ma et al., arXiv 2301.00230; mx-mark/DMJD @ 881b21d): central differences of bytes, whitened.
    pub fn dmjd() -> Self {
        Self {
            bytes: true,
            gradient: HogGradient::Central,
            window: 0,
            mean: true,
            cell_norm: HogNorm::LayerNorm { eps: 1e-5 },
            order: HogOrder::CellsBinsChannels,
            ..Self::default()
        }
    }

    /// Checks the settings and builds the generator.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a number is not positive but must be.
    pub fn build(&self) -> Result<HogTarget> {
        let positive = |field: &'static str, holds: bool, value: String| match holds {
            true => Ok(()),
            false => Err(Error::config(
                NAME,
                field,
                value,
                "it must be positive",
                "remove it to use the paper's value",
            )),
        };
        positive("bins", self.bins > 0, self.bins.to_string())?;
        positive("cell", self.cell > 0, self.cell.to_string())?;
        if let HogNorm::L2 { eps } | HogNorm::LayerNorm { eps } = self.cell_norm {
            positive("cell_norm.eps", eps > 0., eps.to_string())?;
        }
        Ok(HogTarget {
            config: self.clone(),
        })
    }

    /// Number of values per token, for patches of `patch` pixels and images of `channels` channels.
    pub fn values(&self, patch: usize, channels: usize) -> usize {
        (patch / self.cell.max(1)).pow(2) * self.bins * channels
    }
}

impl Part for HogTargetConfig {
    const ABOUT: &'static str = "histograms of oriented gradients, in three forms";
    const PAPER: &'static str = "MaskFeat: Wei et al., CVPR 2022, arXiv 2112.09133; FastMIM; DMJD";
    const SMALL: &'static str = r#"
cell = 4
window = 8
"#;
    const FOLLOWS: &'static [&'static str] = &["norm"];
}

impl TargetSettings for HogTargetConfig {
    fn build(&self, cx: &TargetContext<'_>) -> Result<BuiltTarget> {
        let (stride, channels) = (cx.encoder.output_stride(), cx.encoder.in_channels());
        let order = match self.order {
            HogOrder::ChannelsBinsCells => PatchOrder::ChannelsThenPixels,
            HogOrder::CellsBinsChannels => PatchOrder::PixelsThenChannels,
        };
        Ok(BuiltTarget {
            cells: Some((order, channels * self.bins)),
            ..BuiltTarget::new(self.build()?, self.values(stride, channels))
        })
    }
}

/// Histograms of oriented gradients `[batch, tokens, cells * bins * channels]` of whole images.
///
/// The patch size is the image size divided by the requested grid. With a trace, the cell histograms are recorded as
/// `hog.sobel.view0`, by gradient and view.
#[derive(Debug, Clone)]
pub struct HogTarget {
    config: HogTargetConfig,
}

impl HogTarget {
    /// Normalised histograms of `images` `[batch, channels, height, width]` (f32: normalised, or bytes as numbers):
    /// `[batch, channels, bins, rows, cols]`, one per cell.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the images do not divide into cells.
    pub fn histograms(&self, images: &Tensor) -> Result<Tensor> {
        let HogTargetConfig {
            gradient,
            bins,
            cell,
            window,
            ..
        } = self.config;
        let filter = HogFilter {
            gradient,
            bins,
            cell,
            window: (window > 0).then_some(window),
        };
        let mut sums = hog(images, filter)?;
        if self.config.mean {
            sums = (sums / (cell * cell) as f64)?;
        }
        match self.config.cell_norm {
            HogNorm::None => Ok(sums),
            HogNorm::L2 { eps } => {
                let length = sums.sqr()?.sum_keepdim(2)?.sqrt()?;
                Ok(sums.broadcast_div(&length.maximum(eps)?)?)
            }
            HogNorm::LayerNorm { eps } => {
                let bins_last = sums.permute((0, 1, 3, 4, 2))?.contiguous()?;
                Ok(normalize(&bins_last, eps)?.permute((0, 1, 4, 2, 3))?)
            }
        }
    }

    /// The target for `images` as in [`HogTarget::histograms`]: `[batch, tokens, values]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the patches of `grid` do not divide into cells.
    pub fn target(&self, images: &Tensor, grid: PatchGrid) -> Result<Tensor> {
        self.tokens(&self.histograms(images)?, grid)
    }

    /// Arranges cell histograms as tokens.
    fn tokens(&self, histograms: &Tensor, grid: PatchGrid) -> Result<Tensor> {
        let (batch, channels, bins, rows, cols) = histograms.dims5()?;
        let cells = grid.scale_to(PatchGrid::new(rows, cols)).map_err(|_| {
            Error::shape(
                "hog target",
                format!(
                    "patches of the grid {grid} that divide into cells of {0}x{0} pixels",
                    self.config.cell
                ),
                format!("{rows}x{cols} cells"),
                "choose a cell size that divides the patch size, or larger patches",
            )
        })?;
        let split = histograms
            .contiguous()?
            .reshape(&[batch, channels, bins, grid.rows, cells, grid.cols, cells][..])?;
        let tokens = match self.config.order {
            HogOrder::ChannelsBinsCells => split.permute([0, 3, 5, 1, 2, 4, 6])?,
            HogOrder::CellsBinsChannels => split.permute([0, 3, 5, 4, 6, 2, 1])?,
        };
        Ok(tokens.reshape((batch, grid.len(), ()))?)
    }

    fn images(&self, view: &View) -> Result<Tensor> {
        if !self.config.bytes {
            return view.normalized(&self.config.norm);
        }
        match (view.pixels().dtype(), view.unit()) {
            (DType::U8, _) => Ok(view.pixels().to_dtype(DType::F32)?),
            // Deep images have no bytes; their range stands for that of bytes.
            (_, Ok(unit)) => Ok((unit * 255.)?),
            _ => Err(Error::unsupported(
                "a hog target from bytes",
                "this view holds normalised values",
                "use a view of u8 pixels, or of f32 in [0, 1]",
            )),
        }
    }
}

impl TargetGenerator for HogTarget {
    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target> {
        let images = self.images(rq.batch.view(self.config.view)?)?;
        let histograms = self.histograms(&images)?;
        let name = match self.config.gradient {
            HogGradient::Sobel => "hog.sobel",
            HogGradient::Central => "hog.central",
        };
        let name = format!("{name}.view{}", self.config.view);
        rq.step.trace(&name, || Ok(histograms.clone()))?;
        Ok(Target::patches(self.tokens(&histograms, rq.grid)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mim_core::{Batch, StepContext};

    #[test]
    fn flat_images_give_zeros_and_not_nan() {
        let images = Tensor::full(7f32, (1, 3, 16, 16), &Device::Cpu).unwrap();
        for config in [HogTargetConfig::maskfeat(), HogTargetConfig::dmjd()] {
            let target = config.build().unwrap();
            let ys = target.target(&images, PatchGrid::new(1, 1)).unwrap();
            assert_eq!(ys.dims(), [1, 1, config.values(16, 3)]);
            let ys: Vec<f32> = ys.flatten_all().unwrap().to_vec1().unwrap();
            assert!(ys.iter().all(|y| *y == 0.));
        }
    }

    #[test]
    fn refuses_patches_smaller_than_a_cell_and_views_without_bytes() {
        let images = Tensor::zeros((1, 3, 16, 16), DType::F32, &Device::Cpu).unwrap();
        let target = HogTargetConfig::fastmim().build().unwrap();
        let error = target.target(&images, PatchGrid::new(4, 4)).unwrap_err();
        assert!(error.to_string().contains("larger patches"), "{error}");
        let batch = Batch::single(View::new(images, vec![]).unwrap());
        let step = StepContext::new(0);
        let request = TargetRequest {
            batch: &batch,
            grid: PatchGrid::new(1, 1),
            mask: None,
            student: None,
            step: &step,
        };
        let bytes = HogTargetConfig::dmjd().build().unwrap();
        assert!(
            bytes
                .generate(&request)
                .unwrap_err()
                .to_string()
                .contains("u8")
        );
        assert!(target.generate(&request).is_ok());
    }

    #[test]
    fn refuses_invalid_settings() {
        let refused = |config: HogTargetConfig| config.build().is_err();
        assert!(refused(HogTargetConfig {
            bins: 0,
            ..HogTargetConfig::default()
        }));
        assert!(refused(HogTargetConfig {
            cell: 0,
            ..HogTargetConfig::default()
        }));
        let cell_norm = HogNorm::L2 { eps: 0. };
        assert!(refused(HogTargetConfig {
            cell_norm,
            ..HogTargetConfig::default()
        }));
    }
}
