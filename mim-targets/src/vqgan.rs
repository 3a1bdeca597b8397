//! The encoder of a VQGAN with Gumbel softmax: a frozen network that gives logits of all tokens for each cell of 8x8
//! pixels, as in mc-BEiT.
//!
//! Esser et al., "Taming Transformers for High-Resolution Image Synthesis", CVPR 2021. Feature maps are
//! channels-last.

use candle_core::{D, Tensor};
use mim_core::nn::{Conv, GroupNorm};
use mim_core::ops::{Precision, Window, softmax, with_precision};
use mim_core::params::Params;
use mim_core::{Error, Norm, Result, StepContext, Tokenizer};
use serde::{Deserialize, Serialize};

/// Number of channel groups of group norm.
const GROUPS: usize = 32;
const EPS: f64 = 1e-6;

/// Settings of [`VqganEncoder`]; `Default` is the public network of stride 8 with 8192 tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VqganConfig {
    /// Channels of the images. Default 3.
    pub in_channels: usize,
    /// Base width, multiplied by `ch_mult`; a multiple of 32. Default 128.
    pub ch: usize,
    /// Width of each level as a multiple of `ch`; all levels but the last are halved afterwards. Default 1, 1, 2, 4.
    pub ch_mult: Vec<usize>,
    /// Residual blocks per level. Default 2.
    pub num_res_blocks: usize,
    /// Resolutions with attention, counted from `resolution` down by halving. Default 32.
    pub attn_resolutions: Vec<usize>,
    /// The nominal side of an image, used only for `attn_resolutions`. Default 256.
    pub resolution: usize,
    /// Width of the encoder's output. Default 256.
    pub z_channels: usize,
    /// Number of tokens. Default 8192.
    pub vocab_size: usize,
}

impl Default for VqganConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            ch: 128,
            ch_mult: vec![1, 1, 2, 4],
            num_res_blocks: 2,
            attn_resolutions: vec![32],
            resolution: 256,
            z_channels: 256,
            vocab_size: 8192,
        }
    }
}

impl VqganConfig {
    fn validate(&self) -> Result<()> {
        let positive = [
            ("in_channels", self.in_channels),
            ("ch", self.ch),
            ("num_res_blocks", self.num_res_blocks),
            ("z_channels", self.z_channels),
            ("vocab_size", self.vocab_size),
            ("ch_mult", self.ch_mult.iter().copied().min().unwrap_or(0)),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some(&(field, value)) => {
                let (why, fix) = (
                    "it must be at least 1",
                    "remove it to use the public network",
                );
                Err(Error::config("vqgan", field, value, why, fix))
            }
            None => Ok(()),
        }
    }

    /// Side in pixels covered by one token.
    pub fn stride(&self) -> usize {
        1 << self.ch_mult.len().saturating_sub(1)
    }
}

/// A convolution with kernel `side` that keeps the size.
fn same(params: &Params, (inputs, outputs): (usize, usize), side: usize) -> Result<Conv> {
    let window = Window {
        kernel: side,
        stride: 1,
        padding: side / 2,
    };
    Conv::new(params, inputs, outputs, window)
}

/// `x * sigmoid(x)`.
fn swish(xs: &Tensor) -> Result<Tensor> {
    Ok(xs.silu()?)
}

/// Two times norm, swish and convolution, with a shortcut.
#[derive(Debug)]
struct ResBlock {
    norms: [GroupNorm; 2],
    convs: [Conv; 2],
    shortcut: Option<Conv>,
}

impl ResBlock {
    fn new(params: &Params, inputs: usize, outputs: usize) -> Result<Self> {
        let norm = |name: &str, width| GroupNorm::new(&params.pp(name), width, GROUPS, EPS);
        let shortcut = || same(&params.pp("nin_shortcut"), (inputs, outputs), 1);
        Ok(Self {
            norms: [norm("norm1", inputs)?, norm("norm2", outputs)?],
            convs: [
                same(&params.pp("conv1"), (inputs, outputs), 3)?,
                same(&params.pp("conv2"), (outputs, outputs), 3)?,
            ],
            shortcut: (inputs != outputs).then(shortcut).transpose()?,
        })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let mut ys = xs.clone();
        for (norm, conv) in self.norms.iter().zip(&self.convs) {
            ys = conv.forward(&swish(&norm.forward(&ys)?)?)?;
        }
        let id = match &self.shortcut {
            Some(conv) => conv.forward(xs)?,
            None => xs.clone(),
        };
        Ok((id + ys)?)
    }
}

/// Single-head attention between all pixels.
#[derive(Debug)]
struct AttnBlock {
    norm: GroupNorm,
    maps: [Conv; 4],
}

impl AttnBlock {
    fn new(params: &Params, width: usize) -> Result<Self> {
        let map = |name: &str| same(&params.pp(name), (width, width), 1);
        Ok(Self {
            norm: GroupNorm::new(&params.pp("norm"), width, GROUPS, EPS)?,
            maps: [map("q")?, map("k")?, map("v")?, map("proj_out")?],
        })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let [query, key, value, out] = &self.maps;
        let normed = self.norm.forward(xs)?;
        let pixels = |conv: &Conv| -> Result<Tensor> { Ok(conv.forward(&normed)?.flatten(1, 2)?) };
        let scale = (xs.dim(D::Minus1)? as f64).powf(-0.5);
        let keys = pixels(key)?.transpose(1, 2)?.contiguous()?;
        let weights = softmax(&(pixels(query)?.matmul(&keys)? * scale)?)?;
        let seen = weights.matmul(&pixels(value)?)?.reshape(xs.shape())?;
        Ok((xs + out.forward(&seen)?)?)
    }
}

/// A level: blocks, each with attention if its resolution is listed, then downsampling.
#[derive(Debug)]
struct Level {
    blocks: Vec<(ResBlock, Option<AttnBlock>)>,
    half: Option<Conv>,
}

impl Level {
    /// `widths` are the input width and the level's width; `attends` and `halves` enable attention and downsampling.
    fn new(
        params: &Params,
        (inputs, width): (usize, usize),
        count: usize,
        (attends, halves): (bool, bool),
    ) -> Result<Self> {
        let block = |index: usize| {
            let inputs = if index == 0 { inputs } else { width };
            let block = ResBlock::new(&params.pp("block").pp(index), inputs, width)?;
            let attn = || AttnBlock::new(&params.pp("attn").pp(index), width);
            Ok((block, attends.then(attn).transpose()?))
        };
        let window = Window {
            kernel: 3,
            stride: 2,
            padding: 0,
        };
        let half = || Conv::new(&params.pp("downsample").pp("conv"), width, width, window);
        Ok(Self {
            blocks: (0..count).map(block).collect::<Result<_>>()?,
            half: halves.then(half).transpose()?,
        })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let mut xs = xs.clone();
        for (block, attn) in &self.blocks {
            xs = block.forward(&xs)?;
            if let Some(attn) = attn {
                xs = attn.forward(&xs)?;
            }
        }
        match &self.half {
            // Zero padding only at the bottom and the right.
            Some(half) => half.forward(&xs.pad_with_zeros(1, 0, 1)?.pad_with_zeros(2, 0, 1)?),
            None => Ok(xs),
        }
    }
}

/// The encoder, up to the token logits; it does not sample.
#[derive(Debug)]
pub struct VqganEncoder {
    conv_in: Conv,
    levels: Vec<Level>,
    middle: (ResBlock, AttnBlock, ResBlock),
    norm_out: GroupNorm,
    conv_out: Conv,
    quant_conv: Conv,
    proj: Conv,
    config: VqganConfig,
}

impl VqganEncoder {
    /// Parameters `encoder`, `quant_conv` and `quantize.proj`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(params: &Params, config: &VqganConfig) -> Result<Self> {
        config.validate()?;
        let (encoder, z) = (params.pp("encoder"), config.z_channels);
        let count = config.ch_mult.len();
        let width = |index: usize| config.ch * config.ch_mult[index];
        let level = |index: usize| {
            let inputs = index.checked_sub(1).map_or(config.ch, width);
            let attends = config
                .attn_resolutions
                .contains(&(config.resolution >> index));
            let params = encoder.pp("down").pp(index);
            let parts = (attends, index + 1 < count);
            Level::new(
                &params,
                (inputs, width(index)),
                config.num_res_blocks,
                parts,
            )
        };
        let (last, mid) = (width(count - 1), encoder.pp("mid"));
        Ok(Self {
            conv_in: same(&encoder.pp("conv_in"), (config.in_channels, config.ch), 3)?,
            levels: (0..count).map(level).collect::<Result<_>>()?,
            middle: (
                ResBlock::new(&mid.pp("block_1"), last, last)?,
                AttnBlock::new(&mid.pp("attn_1"), last)?,
                ResBlock::new(&mid.pp("block_2"), last, last)?,
            ),
            norm_out: GroupNorm::new(&encoder.pp("norm_out"), last, GROUPS, EPS)?,
            conv_out: same(&encoder.pp("conv_out"), (last, z), 3)?,
            quant_conv: same(&params.pp("quant_conv"), (z, z), 1)?,
            proj: same(&params.pp("quantize").pp("proj"), (z, config.vocab_size), 1)?,
            config: config.clone(),
        })
    }

    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let mapped = Norm::uniform(0.5, 0.5, self.config.in_channels).apply(images)?;
        let mut xs = self.conv_in.forward(&mapped.permute((0, 2, 3, 1))?)?;
        for level in &self.levels {
            xs = level.forward(&xs)?;
        }
        let (first, attn, second) = &self.middle;
        xs = second.forward(&attn.forward(&first.forward(&xs)?)?)?;
        xs = self
            .conv_out
            .forward(&swish(&self.norm_out.forward(&xs)?)?)?;
        self.proj.forward(&self.quant_conv.forward(&xs)?)
    }
}

impl Tokenizer for VqganEncoder {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn stride(&self) -> usize {
        self.config.stride()
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

    fn logits(&self, images: &Tensor, _step: &StepContext) -> Result<Tensor> {
        with_precision(Precision::F32, || self.forward(images))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mim_core::ParamStore;

    #[test]
    fn levels_determine_stride_and_attention() {
        let config = VqganConfig {
            ch: 32,
            ch_mult: vec![1, 2],
            num_res_blocks: 1,
            attn_resolutions: vec![8],
            resolution: 16,
            z_channels: 4,
            vocab_size: 7,
            ..VqganConfig::default()
        };
        let store = ParamStore::cpu(0);
        let encoder = VqganEncoder::new(&store.root(), &config).unwrap();
        assert_eq!(encoder.stride(), 2);
        assert!(store.var("encoder.down.0.attn.0.q.weight").is_none());
        assert!(store.var("encoder.down.1.attn.0.q.weight").is_some());
        assert!(store.var("encoder.down.1.downsample.conv.weight").is_none());
        let images = Tensor::rand(0f32, 1f32, (1, 3, 6, 8), &Device::Cpu).unwrap();
        let logits = encoder.logits(&images, &StepContext::inference()).unwrap();
        assert_eq!(logits.dims(), [1, 3, 4, 7]);
        let wrong = VqganConfig {
            ch_mult: vec![],
            ..config
        };
        let error = VqganEncoder::new(&ParamStore::cpu(0).root(), &wrong).unwrap_err();
        assert!(error.to_string().contains("`ch_mult` is 0"), "{error}");
    }
}
