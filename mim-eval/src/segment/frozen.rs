//! The frozen encoder: extracts the features of windows for a head.

use candle_core::{DType, Device, Tensor};
use mim_core::{
    EncodeOptions, Encoded, Encoder, Error, Input, Masking, Result, StepContext, View, ops,
};

use super::SegmentHead;
use super::axis::Size;

/// Number of blocks requested from an encoder to find its depth.
const MOST_BLOCKS: usize = 256;
/// Number of layers that UPerNet reads.
const LEVELS: usize = 4;

/// An encoder, and which of its features are used.
pub(super) struct Frozen<'a> {
    pub(super) encoder: &'a dyn Encoder,
    pub(super) input: &'a Input,
    pub(super) device: &'a Device,
    /// Windows per forward pass.
    pub(super) batch_size: usize,
    pub(super) head: SegmentHead,
    /// Blocks to read; empty for the final output.
    pub(super) layers: Vec<usize>,
}

impl Frozen<'_> {
    /// Sets the layers of UPerNet if not configured: at a third, a half, two thirds and all of the blocks (BEiT).
    pub(super) fn find_layers(&mut self, window: Size) -> Result<()> {
        if self.head == SegmentHead::Linear || !self.layers.is_empty() {
            return Ok(());
        }
        let (height, width) = window;
        let values = vec![0u8; self.input.channels() * height * width];
        let asked: Vec<usize> = (0..MOST_BLOCKS).collect();
        let blocks = self.encoded(values, window, &asked)?.layers.len();
        if blocks == 0 {
            let (why, fix) = (
                "the encoder does not give outputs of blocks",
                "use head=linear",
            );
            return Err(Error::unsupported("UPerNet", why, fix));
        }
        let places = [blocks / 3, blocks / 2, 2 * blocks / 3, blocks];
        let layers = places.into_iter().enumerate();
        self.layers = layers
            .map(|(level, place)| place.saturating_sub(1).max(level).min(blocks - 1))
            .collect();
        Ok(())
    }

    /// Encodes windows, `planes` `[count, channels, height, width]`.
    fn encoded(&self, planes: Vec<u8>, (height, width): Size, layers: &[usize]) -> Result<Encoded> {
        let channels = self.input.channels();
        let count = planes.len() / (channels * height * width);
        let pixels = Tensor::from_vec(planes, (count, channels, height, width), &Device::Cpu)?;
        let view = View::new(pixels, Vec::new())?.to_device(self.device)?;
        let want = EncodeOptions {
            layers: layers.to_vec(),
            ..EncodeOptions::default()
        };
        let images = view.normalized(&self.input.norm)?;
        let step = StepContext::inference();
        self.encoder
            .trunk()
            .encode(&images, Masking::None, &want, &step)
    }

    /// The features of windows, `[count, rows, cols, dim]` per level, on the CPU.
    pub(super) fn levels(&self, planes: &[u8], window: Size) -> Result<Vec<Tensor>> {
        let values = self.input.channels() * window.0 * window.1;
        let mut batches: Vec<Vec<Tensor>> = Vec::new();
        for planes in planes.chunks(self.batch_size.max(1) * values) {
            let encoded = self.encoded(planes.to_vec(), window, &self.layers)?;
            for (level, maps) in self.maps(&encoded)?.into_iter().enumerate() {
                let maps = maps
                    .detach()
                    .to_dtype(DType::F32)?
                    .to_device(&Device::Cpu)?;
                match batches.get_mut(level) {
                    Some(all) => all.push(maps),
                    None => batches.push(vec![maps]),
                }
            }
        }
        let levels = batches.iter().map(|maps| Ok(Tensor::cat(maps, 0)?));
        levels.collect()
    }

    /// The feature maps for the head.
    fn maps(&self, encoded: &Encoded) -> Result<Vec<Tensor>> {
        let map = |patches: Tensor| {
            let (count, tokens, dim) = patches.dims3()?;
            let grid = encoded.grid;
            if tokens != grid.len() {
                return Err(Error::unsupported(
                    "a head on layers with different resolutions",
                    format!("a layer has {tokens} tokens, but the output has a grid of {grid}"),
                    "use layers of the last stage, or head=linear without layers",
                ));
            }
            Ok(patches
                .contiguous()?
                .reshape((count, grid.rows, grid.cols, dim))?)
        };
        if self.layers.is_empty() {
            return Ok(vec![map(encoded.patches()?)?]);
        }
        let known = |layer: &&usize| encoded.layers.iter().any(|(known, _)| known == *layer);
        if let Some(layer) = self.layers.iter().find(|layer| !known(layer)) {
            let (why, fix) = (
                "the encoder does not have this block",
                "count blocks from 0",
            );
            return Err(Error::config("segment", "layers", layer, why, fix));
        }
        let maps = self
            .layers
            .iter()
            .map(|layer| map(encoded.layer_patches(*layer)?));
        let maps = maps.collect::<Result<Vec<_>>>()?;
        match self.head {
            SegmentHead::Linear => Ok(vec![Tensor::cat(&maps, 3)?]),
            SegmentHead::UperNet if maps.len() == LEVELS => Ok(maps),
            SegmentHead::UperNet => {
                let (why, fix) = ("UPerNet reads four layers", "list four layers, or none");
                let layers = format!("{:?}", self.layers);
                Err(Error::config("segment", "layers", layers, why, fix))
            }
        }
    }
}

/// Mean and reciprocal deviation of each feature, over all patches of the training windows.
pub(super) struct Scaler {
    mean: Tensor,
    scale: Tensor,
}

impl Scaler {
    /// Fits features `[windows, rows, cols, dim]`.
    pub(super) fn fit(features: &Tensor) -> Result<Self> {
        const CHUNK: usize = 64;
        let (windows, rows, cols, dim) = features.dims4()?;
        // Sums in f64, over chunks of windows.
        let sums = |term: &dyn Fn(Tensor) -> Result<Tensor>| {
            let mut sum = Tensor::zeros(dim, DType::F64, features.device())?;
            for start in (0..windows).step_by(CHUNK) {
                let part = features.narrow(0, start, CHUNK.min(windows - start))?;
                let part = term(part.to_dtype(DType::F64)?.flatten_to(2)?)?;
                sum = (sum + part.sum(0)?)?;
            }
            Ok::<_, Error>((sum / (windows * rows * cols) as f64)?)
        };
        let mean = sums(&Ok)?;
        let variance = sums(&|part| Ok(part.broadcast_sub(&mean)?.sqr()?))?;
        let scale: Vec<f64> = variance.to_vec1()?;
        // A constant feature is only centred.
        let scale = scale
            .into_iter()
            .map(|v| if v > 1e-12 { v.sqrt().recip() } else { 1. });
        let scale = Tensor::from_vec(scale.collect::<Vec<f64>>(), dim, features.device())?;
        Ok(Self {
            mean: mean.to_dtype(DType::F32)?,
            scale: scale.to_dtype(DType::F32)?,
        })
    }

    pub(super) fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(Self {
            mean: ops::to_device(&self.mean, device)?,
            scale: ops::to_device(&self.scale, device)?,
        })
    }

    pub(super) fn apply(&self, features: &Tensor) -> Result<Tensor> {
        Ok(features
            .broadcast_sub(&self.mean)?
            .broadcast_mul(&self.scale)?)
    }
}
