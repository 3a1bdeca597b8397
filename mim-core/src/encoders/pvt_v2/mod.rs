//! PVTv2: overlapping convolutions, and attention to pooled tokens.

mod block;
mod config;

use candle_core::Tensor;

pub use config::PvtV2Config;

use self::block::PvtBlock;
use super::check;
use crate::nn::{Conv, LayerNorm};
use crate::ops::Window;
use crate::params::Params;
use crate::{EncodeOptions, Encoded, Encoder, Error, Masking, PatchGrid, Result, StepContext};

/// Pyramid vision transformer v2 (Wang et al., Computational Visual Media 2022, arXiv
/// 2106.13797), with the parameter names of whai362/PVT.
///
/// There is no class token, no position table and no mask token. Its zero-padded convolutions encode
/// positions, and accept images of every size that its stages tile. The output is on the grid of the
/// last stage. [`EncodeOptions::layers`] numbers blocks across all stages; the output of each block is on
/// the grid of its stage, `[rows, stage tokens, stage dim]`.
#[derive(Debug, Clone)]
pub struct PvtV2 {
    config: PvtV2Config,
    stages: Vec<Stage>,
}

#[derive(Debug, Clone)]
struct Stage {
    proj: Conv,
    patch_norm: LayerNorm,
    blocks: Vec<PvtBlock>,
    norm: LayerNorm,
}

impl Stage {
    /// Builds stage `stage`; its first block has number `first` in the network.
    fn new(params: &Params, config: &PvtV2Config, stage: usize, first: usize) -> Result<Self> {
        let (dim, number) = (config.embed_dims[stage], stage + 1);
        let (inputs, stride) = match stage {
            0 => (config.in_channels, config.patch_size),
            _ => (config.embed_dims[stage - 1], 2),
        };
        // Each window reaches to the middle of its neighbours.
        let window = Window {
            kernel: 2 * stride - 1,
            stride,
            padding: stride - 1,
        };
        let embed = params.pp(format!("patch_embed{number}"));
        let blocks = params.pp(format!("block{number}"));
        let block = |index: usize| PvtBlock::new(&blocks.pp(index), config, stage, first + index);
        Ok(Self {
            proj: Conv::new(&embed.pp("proj"), inputs, dim, window)?,
            patch_norm: LayerNorm::new(&embed.pp("norm"), dim, config.conv_norm_eps)?,
            blocks: (0..config.depths[stage])
                .map(block)
                .collect::<Result<_>>()?,
            norm: LayerNorm::new(&params.pp(format!("norm{number}")), dim, config.norm_eps)?,
        })
    }
}

impl PvtV2 {
    /// Builds the network under `params`: `patch_embedS`, `blockS.B` and `normS` for the stages S from 1.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(params: &Params, config: &PvtV2Config) -> Result<Self> {
        config.validate()?;
        let mut first = 0;
        let mut stages = Vec::with_capacity(config.stages());
        for (stage, depth) in config.depths.iter().enumerate() {
            stages.push(Stage::new(params, config, stage, first)?);
            first += depth;
        }
        Ok(Self {
            config: config.clone(),
            stages,
        })
    }

    /// The settings that this was built from.
    pub fn config(&self) -> &PvtV2Config {
        &self.config
    }

    fn check(
        &self,
        image: &Tensor,
        masking: Masking<'_>,
        want: &EncodeOptions,
    ) -> Result<PatchGrid> {
        let size = check::image_size(image, self.config.in_channels)?;
        if masking.mask().is_some() {
            return Err(Error::unsupported(
                "hiding patches in PVTv2",
                "its convolutions overlap, and it has no mask token",
                "hide pixels before it (PixelMasked, as FastMIM does), or use a ViT or Swin",
            ));
        }
        if want.cls_attention {
            return Err(Error::unsupported(
                "class-token attention in PVTv2",
                "it has no class token",
                "use a ViT",
            ));
        }
        let blocks: usize = self.config.depths.iter().sum();
        if let Some(index) = want.layers.iter().find(|index| **index >= blocks) {
            return Err(Error::unsupported(
                format!("reading block {index}"),
                format!("the encoder has {blocks} blocks, counted from 0"),
                "use a block index below that",
            ));
        }
        self.grid(size)
    }
}

impl Encoder for PvtV2 {
    fn dim(&self) -> usize {
        self.config.dim()
    }

    fn in_channels(&self) -> Option<usize> {
        Some(self.config.in_channels)
    }

    fn trunk(&self) -> &dyn Encoder {
        self
    }

    fn grid(&self, image: (usize, usize)) -> Result<PatchGrid> {
        self.config.grid(image)
    }

    fn encode(
        &self,
        image: &Tensor,
        masking: Masking<'_>,
        want: &EncodeOptions,
        step: &StepContext,
    ) -> Result<Encoded> {
        let output = self.check(image, masking, want)?;
        let mut map = image.permute((0, 2, 3, 1))?;
        let mut tokens = map.clone();
        let mut layers = Vec::with_capacity(want.layers.len());
        let mut index = 0;
        for (number, stage) in (1..).zip(&self.stages) {
            let embedded = stage.proj.forward(&map)?;
            let (_, rows, cols, _) = embedded.dims4()?;
            let grid = PatchGrid::new(rows, cols);
            let mut xs = stage.patch_norm.forward(&embedded.flatten(1, 2)?)?;
            if number == 1 {
                step.trace("patch_embed", || Ok(xs.clone()))?;
            }
            for block in &stage.blocks {
                xs = block.forward(&xs, grid, step)?;
                if want.layers.contains(&index) {
                    layers.push((index, xs.clone()));
                }
                index += 1;
            }
            tokens = match want.skip_norm && number == self.stages.len() {
                true => xs,
                false => stage.norm.forward(&xs)?,
            };
            map = tokens.reshape((image.dim(0)?, rows, cols, ()))?;
        }
        step.trace("latent", || Ok(tokens.clone()))?;
        Ok(Encoded {
            tokens,
            prefix: 0,
            layers,
            cls_attention: None,
            grid: output,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{ParamStore, PvtV2Init};
    use crate::{ImageSize, Mask};
    use candle_core::{Device, Var};

    fn config() -> PvtV2Config {
        PvtV2Config {
            image_size: ImageSize {
                height: 16,
                width: 32,
            },
            patch_size: 2,
            in_channels: 1,
            embed_dims: vec![4, 8],
            depths: vec![2, 2],
            num_heads: vec![1, 2],
            mlp_ratios: vec![2., 1.],
            sr_ratios: vec![2, 1],
            ..PvtV2Config::default()
        }
    }

    fn pvt(config: &PvtV2Config) -> (ParamStore, PvtV2) {
        let store = ParamStore::new(&Device::Cpu, 1, PvtV2Init);
        let pvt = PvtV2::new(&store.root(), config).unwrap();
        (store, pvt)
    }

    fn image(height: usize, width: usize) -> Tensor {
        let values: Vec<f32> = (0..2 * height * width)
            .map(|i| ((i * i) % 97) as f32 / 48. - 1.)
            .collect();
        Tensor::from_vec(values, (2, 1, height, width), &Device::Cpu).unwrap()
    }

    fn encode(pvt: &PvtV2, image: &Tensor, want: &EncodeOptions) -> Encoded {
        let step = StepContext::inference();
        pvt.encode(image, Masking::None, want, &step).unwrap()
    }

    fn values(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn blocks_are_numbered_across_stages_and_keep_their_grids() {
        let (store, pvt) = pvt(&config());
        let want = EncodeOptions {
            layers: vec![1, 3],
            ..EncodeOptions::default()
        };
        let encoded = encode(&pvt, &image(16, 32), &want);
        assert_eq!(encoded.tokens.dims(), [2, 32, 8]);
        assert_eq!((encoded.prefix, encoded.grid), (0, PatchGrid::new(4, 8)));
        assert_eq!(encoded.layer(1).unwrap().dims(), [2, 128, 4]);
        assert_eq!(encoded.layer(3).unwrap().dims(), [2, 32, 8]);
        let names: Vec<String> = store.names().into_iter().map(|(name, _)| name).collect();
        let has = |name: &str| names.iter().any(|known| known == name);
        for name in [
            "patch_embed2.norm.weight",
            "block1.1.attn.sr.weight",
            "block1.0.attn.norm.bias",
            "block2.1.mlp.dwconv.dwconv.bias",
            "norm2.bias",
        ] {
            assert!(has(name), "{name}");
        }
        assert!(!has("block2.0.attn.sr.weight") && !has("block2.0.attn.norm.weight"));
        let skipped = EncodeOptions {
            skip_norm: true,
            ..want
        };
        let skipped = encode(&pvt, &image(16, 32), &skipped);
        assert_eq!(values(&skipped.tokens), values(encoded.layer(3).unwrap()));
    }

    #[test]
    fn gradients_arrive_at_every_parameter_and_the_image() {
        let (store, pvt) = pvt(&config());
        let image = Var::from_tensor(&image(16, 32)).unwrap();
        let tokens = encode(&pvt, &image, &EncodeOptions::default()).tokens;
        // A plain sum after a layer norm would have zero gradient.
        let weights = Tensor::arange(0f32, 512., &Device::Cpu).unwrap();
        let weights = weights.sin().unwrap().reshape((2, 32, 8)).unwrap();
        let grads = (tokens * weights)
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        for (name, var) in store.trainable() {
            let gradient = grads.get(&var).unwrap_or_else(|| panic!("{name}"));
            assert!(values(gradient).iter().any(|v| v.abs() > 1e-9), "{name}");
        }
        let pixels = values(grads.get(&image).unwrap());
        assert!(pixels.iter().all(|v| *v != 0.) && pixels.len() == 2 * 16 * 32);
    }

    #[test]
    fn accepts_every_size_that_its_stages_tile() {
        let (_, pvt) = pvt(&config());
        let encoded = encode(&pvt, &image(8, 12), &EncodeOptions::default());
        assert_eq!(encoded.tokens.dims(), [2, 6, 8]);
        assert_eq!(encoded.grid, PatchGrid::new(2, 3));
        let error = pvt.grid((16, 30)).unwrap_err().to_string();
        assert!(error.contains("16x30"), "{error}");
    }

    #[test]
    fn refuses_unsupported_options() {
        let (_, pvt) = pvt(&config());
        let mask = Mask::from_bits(PatchGrid::new(4, 8), &[0u8; 64]).unwrap();
        let fails = |masking, want: EncodeOptions, part: &str| {
            let step = StepContext::inference();
            let encoded = pvt.encode(&image(16, 32), masking, &want, &step);
            let error = encoded.unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        fails(
            Masking::Drop(&mask),
            EncodeOptions::default(),
            "PixelMasked",
        );
        fails(
            Masking::Replace(&mask),
            EncodeOptions::default(),
            "PixelMasked",
        );
        let cls = EncodeOptions {
            cls_attention: true,
            ..EncodeOptions::default()
        };
        fails(Masking::None, cls, "no class token");
        let fifth = EncodeOptions {
            layers: vec![4],
            ..EncodeOptions::default()
        };
        fails(Masking::None, fifth, "4 blocks");
    }

    #[test]
    fn stochastic_depth_drops_whole_images() {
        let (_, pvt) = pvt(&PvtV2Config {
            drop_path_rate: 0.9,
            ..config()
        });
        let tokens = |step: &StepContext| {
            let encoded = pvt.encode(
                &image(16, 32),
                Masking::None,
                &EncodeOptions::default(),
                step,
            );
            values(&encoded.unwrap().tokens)
        };
        assert_eq!(tokens(&StepContext::new(3)), tokens(&StepContext::new(3)));
        assert_ne!(
            tokens(&StepContext::new(3)),
            tokens(&StepContext::inference())
        );
    }
}
