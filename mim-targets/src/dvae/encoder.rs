//! Images to tokens.

use candle_core::{D, Tensor};
use mim_core::nn::Conv;
use mim_core::ops::{Precision, with_precision};
use mim_core::params::Params;
use mim_core::{Error, Result, StepContext, Tokenizer};

use super::block::{ResBlock, group, same};
use super::{DvaeConfig, GROUPS, map_pixels};

/// Kernel sides in a block.
const SIDES: [usize; 4] = [3, 3, 3, 1];

/// The encoder: each cell of 8x8 pixels becomes one of `vocab_size` tokens.
///
/// Traces `mapped`, `stem`, `group1_block1` and `group1` to `group4`; all but the first are channels-last.
#[derive(Debug, Clone)]
pub struct DvaeEncoder {
    input: Conv,
    groups: Vec<Vec<ResBlock>>,
    output: Conv,
    config: DvaeConfig,
}

impl DvaeEncoder {
    /// Parameters `blocks.input`, `blocks.group_G.block_B`, `blocks.output.conv`, counted from 1.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(params: &Params, config: &DvaeConfig) -> Result<Self> {
        config.validate()?;
        let blocks = params.pp("blocks");
        let width = |index: usize| config.n_hid << index;
        let groups = (0..GROUPS).map(|index| {
            let widths = (width(index.saturating_sub(1)), width(index));
            let params = blocks.pp(format!("group_{}", index + 1));
            let (count, gain) = (config.n_blk_per_group, config.post_gain());
            group(&params, widths, count, SIDES, gain)
        });
        let output = blocks.pp("output").pp("conv");
        Ok(Self {
            input: same(&blocks.pp("input"), config.in_channels, config.n_hid, 7)?,
            groups: groups.collect::<Result<_>>()?,
            output: same(&output, width(GROUPS - 1), config.vocab_size, 1)?,
            config: config.clone(),
        })
    }

    /// Token logits of each cell, `[batch, rows, cols, vocab_size]`, for images
    /// `[batch, channels, height, width]` in `[0, 1]`.
    ///
    /// Products are f32 at every training precision: in bf16 many tokens would differ.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for another number of channels or an image smaller than a cell.
    pub fn logits(&self, images: &Tensor, step: &StepContext) -> Result<Tensor> {
        with_precision(Precision::F32, || self.forward(images, step))
    }

    /// As [`DvaeEncoder::logits`], with the same shapes, but in the training precision: for training the network itself.
    ///
    /// # Errors
    ///
    /// As [`DvaeEncoder::logits`].
    pub fn relaxed_logits(&self, images: &Tensor, step: &StepContext) -> Result<Tensor> {
        self.forward(images, step)
    }

    fn forward(&self, images: &Tensor, step: &StepContext) -> Result<Tensor> {
        let mapped = map_pixels(images)?;
        let (_, channels, height, width) = mapped.dims4()?;
        if channels != self.config.in_channels || height.min(width) < DvaeConfig::STRIDE {
            return Err(Error::shape(
                "images of the dVAE",
                format!(
                    "{} channels, sides of at least {} pixels",
                    self.config.in_channels,
                    DvaeConfig::STRIDE
                ),
                images.dims(),
                "use RGB images, usually of 112 pixels",
            ));
        }
        step.trace("mapped", || Ok(mapped.clone()))?;
        let mut xs = self.input.forward(&mapped.permute((0, 2, 3, 1))?)?;
        step.trace("stem", || Ok(xs.clone()))?;
        for (index, group) in self.groups.iter().enumerate() {
            for (number, block) in group.iter().enumerate() {
                xs = block.forward(&xs)?;
                if (index, number) == (0, 0) {
                    step.trace("group1_block1", || Ok(xs.clone()))?;
                }
            }
            if index + 1 < GROUPS {
                xs = halve(&xs)?;
            }
            step.trace(&format!("group{}", index + 1), || Ok(xs.clone()))?;
        }
        self.output.forward(&xs.relu()?)
    }
}

impl Tokenizer for DvaeEncoder {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn stride(&self) -> usize {
        DvaeConfig::STRIDE
    }

    fn channels(&self) -> usize {
        self.config.in_channels
    }

    fn tokens(&self, images: &Tensor, step: &StepContext) -> Result<Tensor> {
        Ok(self.logits(images, step)?.argmax(D::Minus1)?)
    }

    fn has_logits(&self) -> bool {
        true
    }

    fn logits(&self, images: &Tensor, step: &StepContext) -> Result<Tensor> {
        Self::logits(self, images, step)
    }
}

/// 2x2 max pooling; an odd last row or column is dropped.
fn halve(xs: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = xs.dims4()?;
    let (rows, cols) = (height / 2, width / 2);
    let even = xs.narrow(1, 0, 2 * rows)?.narrow(2, 0, 2 * cols)?;
    let pairs = even.reshape((batch, rows, 2, cols, 2 * channels))?;
    let rows_done = pairs.max(2)?;
    let pairs = rows_done.reshape((batch, rows, cols, 2, channels))?;
    Ok(pairs.max(3)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mim_core::ParamStore;

    #[test]
    fn pooling_takes_the_largest_and_drops_odd_edges() {
        let xs = Tensor::arange(0f32, 5. * 4., &Device::Cpu).unwrap();
        let xs = xs.reshape((1, 5, 4, 1)).unwrap();
        let ys = halve(&xs).unwrap();
        assert_eq!(ys.dims(), [1, 2, 2, 1]);
        let flat: Vec<f32> = ys.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(flat, [5., 7., 13., 15.]);
    }

    #[test]
    fn tokens_do_not_depend_on_the_training_precision() {
        let config = DvaeConfig {
            n_hid: 8,
            n_blk_per_group: 1,
            vocab_size: 64,
            ..DvaeConfig::default()
        };
        let encoder = DvaeEncoder::new(&ParamStore::cpu(1).root(), &config).unwrap();
        let values = (0..2 * 3 * 64 * 64).map(|i| (i * 7 % 256) as f32 / 255.);
        let images = Tensor::from_iter(values, &Device::Cpu).unwrap();
        let images = images.reshape((2, 3, 64, 64)).unwrap();
        let logits = |precision| {
            let step = StepContext::inference();
            let logits = with_precision(precision, || encoder.logits(&images, &step)).unwrap();
            logits.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(logits(Precision::Bf16), logits(Precision::F32));
    }

    #[test]
    fn a_cell_is_eight_pixels_and_wrong_images_are_refused() {
        let config = DvaeConfig {
            n_hid: 4,
            n_blk_per_group: 1,
            vocab_size: 5,
            ..DvaeConfig::default()
        };
        let store = ParamStore::cpu(1);
        let encoder = DvaeEncoder::new(&store.root(), &config).unwrap();
        let step = StepContext::inference();
        let images = Tensor::rand(0f32, 1f32, (2, 3, 16, 24), &Device::Cpu).unwrap();
        let tokens = encoder.tokens(&images, &step).unwrap();
        assert_eq!(tokens.dims(), [2, 2, 3]);
        for shape in [(1, 1, 16, 16), (1, 3, 4, 16)] {
            let images = Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
            assert!(encoder.tokens(&images, &step).is_err());
        }
    }
}
