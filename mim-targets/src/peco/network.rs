//! Encoder and decoder of PeCo's tokenizer.

use candle_core::Tensor;
use mim_core::Result;
use mim_core::nn::{Conv, ConvTranspose};
use mim_core::ops::Window;
use mim_core::params::Params;

use super::PecoNetworkConfig;

/// A convolution with kernel `side` that keeps the size.
fn same(params: &Params, (inputs, outputs): (usize, usize), side: usize) -> Result<Conv> {
    let window = Window {
        kernel: side,
        stride: 1,
        padding: side / 2,
    };
    Conv::new(params, inputs, outputs, window)
}

/// `x + conv3(relu(conv2(relu(conv1(x)))))`; the last kernel is 1x1, the others are 3x3.
#[derive(Debug)]
struct ResBlock([Conv; 3]);

impl ResBlock {
    fn new(params: &Params, width: usize) -> Result<Self> {
        let conv = |name: &str, side| same(&params.pp(name), (width, width), side);
        Ok(Self([
            conv("conv1", 3)?,
            conv("conv2", 3)?,
            conv("conv3", 1)?,
        ]))
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let [first, second, third] = &self.0;
        let inner = second.forward(&first.forward(xs)?.relu()?)?;
        Ok((xs + third.forward(&inner.relu()?)?)?)
    }
}

/// Halves the map `levels` times.
#[derive(Debug)]
pub(super) struct Encoder {
    levels: Vec<(Conv, ResBlock)>,
    out: Conv,
}

impl Encoder {
    /// Parameters `down.L`, `res.L.conv1` to `conv3` for each level, `out`.
    pub(super) fn new(params: &Params, config: &PecoNetworkConfig) -> Result<Self> {
        let (width, window) = (
            config.hidden_dim,
            Window {
                kernel: 4,
                stride: 2,
                padding: 1,
            },
        );
        let level = |index: usize| {
            let inputs = if index == 0 {
                config.in_channels
            } else {
                width
            };
            let down = Conv::new(&params.pp("down").pp(index), inputs, width, window)?;
            Ok((down, ResBlock::new(&params.pp("res").pp(index), width)?))
        };
        Ok(Self {
            levels: (0..config.levels).map(level).collect::<Result<_>>()?,
            out: same(&params.pp("out"), (width, config.codebook.dim), 1)?,
        })
    }

    /// Maps `[batch, height, width, channels]` to `[batch, rows, cols, dim]`.
    pub(super) fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let mut xs = images.clone();
        for (down, res) in &self.levels {
            xs = res.forward(&down.forward(&xs)?.relu()?)?;
        }
        self.out.forward(&xs)
    }
}

/// Doubles the map `levels` times.
#[derive(Debug)]
pub(super) struct Decoder {
    levels: Vec<(ConvTranspose, ResBlock)>,
    out: Conv,
}

impl Decoder {
    /// Parameters `up.L`, `res.L.conv1` to `conv3` for each level, `out`.
    pub(super) fn new(params: &Params, config: &PecoNetworkConfig) -> Result<Self> {
        let width = config.hidden_dim;
        let level = |index: usize| {
            let inputs = if index == 0 {
                config.codebook.dim
            } else {
                width
            };
            let up = ConvTranspose::doubling(&params.pp("up").pp(index), inputs, width)?;
            Ok((up, ResBlock::new(&params.pp("res").pp(index), width)?))
        };
        Ok(Self {
            levels: (0..config.levels).map(level).collect::<Result<_>>()?,
            out: same(&params.pp("out"), (width, config.in_channels), 1)?,
        })
    }

    /// Maps `[batch, rows, cols, dim]` to images `[batch, channels, height, width]`.
    pub(super) fn forward(&self, map: &Tensor) -> Result<Tensor> {
        let mut xs = map.clone();
        for (up, res) in &self.levels {
            xs = res.forward(&up.forward(&xs)?.relu()?)?;
        }
        Ok(self.out.forward(&xs)?.permute((0, 3, 1, 2))?.contiguous()?)
    }
}
