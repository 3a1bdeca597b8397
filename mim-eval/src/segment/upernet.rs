//! UPerNet on layers of a plain encoder.

use candle_core::Tensor;
use mim_core::nn::{BatchNorm, Conv, Dropout, Linear, PatchUnembed};
use mim_core::ops::{self, Window};
use mim_core::params::Params;
use mim_core::{Error, Result, StepContext};

use super::axis::{Resample, Size, resized};
use super::head::Head;

/// Sides of the pooled maps in the pyramid.
const POOLED: [usize; 4] = [1, 2, 3, 6];
/// Dropout rate before the last layer.
const DROPOUT: f64 = 0.1;
const EPS: f64 = 1e-5;

/// Sizes of a head.
#[derive(Debug, Clone, Copy)]
pub(super) struct UperNetShape {
    /// Width of the encoder's features.
    pub(super) dim: usize,
    /// Width of the inner maps.
    pub(super) channels: usize,
    /// Number of pixel classes.
    pub(super) classes: usize,
}

/// A convolution that keeps the size, batch norm, ReLU.
struct ConvNorm {
    conv: Conv,
    norm: BatchNorm,
}

impl ConvNorm {
    fn new(params: &Params, inputs: usize, outputs: usize, kernel: usize) -> Result<Self> {
        let window = Window {
            kernel,
            stride: 1,
            padding: kernel / 2,
        };
        Ok(Self {
            conv: Conv::new(&params.pp("conv"), inputs, outputs, window)?,
            norm: BatchNorm::new(&params.pp("norm"), outputs, EPS)?,
        })
    }

    fn forward(&self, xs: &Tensor, step: &StepContext) -> Result<Tensor> {
        Ok(self.norm.forward(&self.conv.forward(xs)?, step)?.relu()?)
    }
}

/// A transposed convolution with 2 x 2 kernel and stride 2, which doubles a map.
struct Doubled(PatchUnembed, usize);

impl Doubled {
    fn new(params: &Params, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self(
            PatchUnembed::new(params, inputs, outputs, 2)?,
            outputs,
        ))
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (batch, rows, cols, _) = xs.dims4()?;
        let ys = self.0.forward(xs)?;
        let ys = ys.reshape(vec![batch, rows, cols, self.1, 2, 2])?;
        let ys = ys.permute(vec![0, 1, 4, 2, 5, 3])?;
        Ok(ys.reshape((batch, 2 * rows, 2 * cols, self.1))?)
    }
}

/// UPerNet (Xiao et al., ECCV 2018, Sec. 3.1) on four layers of an encoder with one resolution. Transposed convolutions
/// and max pooling turn them into maps of 4, 2, 1 and 1/2 times the patch grid, as in BEiT (Bao et al., ICLR 2022) and
/// MAE (He et al., CVPR 2022). The transposed convolutions also narrow the features. There is no auxiliary head.
pub(super) struct UperNet {
    quadrupled: (Doubled, BatchNorm, Doubled),
    doubled: Doubled,
    laterals: Vec<ConvNorm>,
    pyramid: Vec<ConvNorm>,
    bottleneck: ConvNorm,
    smooth: Vec<ConvNorm>,
    fuse: ConvNorm,
    dropout: Dropout,
    classify: Linear,
}

impl UperNet {
    pub(super) fn new(params: &Params, shape: UperNetShape) -> Result<Self> {
        let UperNetShape {
            dim,
            channels,
            classes,
        } = shape;
        let at = |name: &str, index: usize| params.pp(name).pp(index);
        // The first two maps are already narrow.
        let widths = [channels, channels, dim];
        let laterals = widths.iter().enumerate();
        let laterals = laterals
            .map(|(index, width)| ConvNorm::new(&at("laterals", index), *width, channels, 1));
        let pyramid =
            (0..POOLED.len()).map(|index| ConvNorm::new(&at("pyramid", index), dim, channels, 1));
        let smooth = (0..widths.len())
            .map(|index| ConvNorm::new(&at("smooth", index), channels, channels, 3));
        let joined = dim + POOLED.len() * channels;
        Ok(Self {
            quadrupled: (
                Doubled::new(&at("quadrupled", 0), dim, channels)?,
                BatchNorm::new(&at("quadrupled", 1), channels, EPS)?,
                Doubled::new(&at("quadrupled", 2), channels, channels)?,
            ),
            doubled: Doubled::new(&params.pp("doubled"), dim, channels)?,
            laterals: laterals.collect::<Result<_>>()?,
            pyramid: pyramid.collect::<Result<_>>()?,
            bottleneck: ConvNorm::new(&params.pp("bottleneck"), joined, channels, 3)?,
            smooth: smooth.collect::<Result<_>>()?,
            fuse: ConvNorm::new(&params.pp("fuse"), 4 * channels, channels, 3)?,
            dropout: Dropout::new(DROPOUT, 0),
            classify: Linear::new(&params.pp("classify"), channels, classes)?,
        })
    }

    /// The map at four times the grid.
    fn quadrupled(&self, xs: &Tensor, step: &StepContext) -> Result<Tensor> {
        let (first, norm, second) = &self.quadrupled;
        let ys = norm.forward(&first.forward(xs)?, step)?;
        second.forward(&ops::gelu(&ys)?)
    }

    /// The coarsest map, concatenated with its means over boxes of several sizes (PSPNet's pyramid pooling module).
    fn pooled(&self, xs: &Tensor, step: &StepContext) -> Result<Tensor> {
        let size = size(xs)?;
        let mut maps = vec![xs.clone()];
        for (side, conv) in POOLED.into_iter().zip(&self.pyramid) {
            let means = Resample::pooled(size, side, xs.device())?.forward(xs)?;
            maps.push(resized(&conv.forward(&means, step)?, size)?);
        }
        self.bottleneck.forward(&Tensor::cat(&maps, 3)?, step)
    }
}

impl Head for UperNet {
    fn logits(&self, levels: &[Tensor], step: &StepContext) -> Result<Tensor> {
        let [first, second, third, fourth] = levels else {
            let (expected, fix) = ("features of four layers", "list four layers");
            return Err(Error::shape("UPerNet", expected, levels.len(), fix));
        };
        let maps = [
            self.quadrupled(first, step)?,
            self.doubled.forward(second)?,
            third.clone(),
        ];
        let top = self.pooled(&halved(fourth)?, step)?;
        let mut above = top.clone();
        let mut outputs = vec![top];
        for ((map, lateral), smooth) in maps.iter().zip(&self.laterals).zip(&self.smooth).rev() {
            let own = lateral.forward(map, step)?;
            above = (&own + resized(&above, size(&own)?)?)?;
            outputs.push(smooth.forward(&above, step)?);
        }
        let finest = size(&maps[0])?;
        let all = outputs.iter().rev().map(|output| resized(output, finest));
        let all = Tensor::cat(&all.collect::<Result<Vec<_>>>()?, 3)?;
        let fused = self.dropout.forward(self.fuse.forward(&all, step)?, step)?;
        self.classify.forward(&fused)
    }
}

fn size(xs: &Tensor) -> Result<Size> {
    let (_, height, width, _) = xs.dims4()?;
    Ok((height, width))
}

/// 2 x 2 max pooling; a map with a single row or column keeps it. Features are constants, so no gradient passes.
fn halved(xs: &Tensor) -> Result<Tensor> {
    let mut ys = xs.detach();
    for axis in [1, 2] {
        let length = ys.dim(axis)?;
        if length > 1 {
            let even = ys.narrow(axis, 0, length / 2 * 2)?;
            let mut shape = even.dims().to_vec();
            shape[axis] = length / 2;
            shape.insert(axis + 1, 2);
            ys = even.contiguous()?.reshape(shape)?.max(axis + 1)?;
        }
    }
    Ok(ys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::SegmentHead;
    use candle_core::{DType, Device};
    use mim_core::ParamStore;
    use mim_core::optim::Gradients;

    fn waves(shape: (usize, usize, usize, usize)) -> Tensor {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        let xs = Tensor::arange(0u32, u32::try_from(count).unwrap(), &Device::Cpu).unwrap();
        let xs = (xs.to_dtype(DType::F32).unwrap() * 1.7)
            .unwrap()
            .sin()
            .unwrap();
        xs.reshape(shape).unwrap()
    }

    #[test]
    fn halving_takes_the_maximum_and_doubling_lays_out_pixels() {
        let xs = Tensor::new(&[[1f32, 5., 2., 0.], [3., 4., 9., 7.]], &Device::Cpu).unwrap();
        let ys = halved(&xs.reshape((1, 2, 4, 1)).unwrap()).unwrap();
        assert_eq!(
            ys.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            [5., 9.]
        );
        let row = halved(&xs.reshape((1, 1, 8, 1)).unwrap()).unwrap();
        assert_eq!(row.dims(), [1, 1, 4, 1]);

        let store = ParamStore::cpu(0);
        let doubled = Doubled::new(&store.root(), 1, 1).unwrap();
        let weight = Tensor::new(&[[[[1f32, 2.], [3., 4.]]]], &Device::Cpu).unwrap();
        store.var("weight").unwrap().set(&weight).unwrap();
        let xs = Tensor::new(&[[[[1f32], [10.]]]], &Device::Cpu).unwrap();
        let ys = doubled.forward(&xs).unwrap();
        assert_eq!(ys.dims(), [1, 2, 4, 1]);
        let ys: Vec<f32> = ys.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(ys, [1., 2., 10., 20., 3., 4., 30., 40.]);
    }

    #[test]
    fn every_parameter_gradient_is_the_slope_of_the_loss() {
        let shape = UperNetShape {
            dim: 3,
            channels: 4,
            classes: 2,
        };
        let (head, store) = SegmentHead::UperNet.build(shape, 1, &Device::Cpu).unwrap();
        let levels = [1., 0.7, 1.3, 0.4].map(|scale| (waves((3, 4, 4, 3)) * scale).unwrap());
        let step = StepContext {
            stochastic_depth: false,
            ..StepContext::new(0)
        };
        let loss = || {
            let logits = head.logits(&levels, &step).unwrap();
            assert_eq!(logits.dims(), [3, 16, 16, 2]);
            (logits * waves((3, 16, 16, 2))).unwrap().sum_all().unwrap()
        };
        let mut gradients = Gradients::new(store.trainable());
        gradients.backward(&loss()).unwrap();
        let value = || f64::from(loss().to_scalar::<f32>().unwrap());
        for (name, var, gradient) in gradients.iter() {
            let gradient = gradient.unwrap_or_else(|| panic!("{name} has no gradient"));
            if !name.ends_with("weight") || name.contains("norm") || var.rank() < 2 {
                continue;
            }
            // The slope along the gradient direction.
            let norm = gradient.sqr().unwrap().sum_all().unwrap().sqrt().unwrap();
            let norm = f64::from(norm.to_scalar::<f32>().unwrap());
            let (start, size) = (var.as_tensor().copy().unwrap(), 2e-3);
            let moved = |sign: f64| {
                let by = (gradient * (sign * size / norm)).unwrap();
                var.set(&(&start + by).unwrap()).unwrap();
                value()
            };
            let slope = (moved(1.) - moved(-1.)) / (2. * size);
            var.set(&start).unwrap();
            assert!(
                (slope / norm - 1.).abs() < 0.1,
                "{name}: {slope} against {norm}"
            );
        }
    }
}
