//! The Swin transformer: windowed attention on progressively coarser grids.

mod config;
mod layout;
mod merging;
mod of_weights;
mod rules;

use std::borrow::Cow;

use candle_core::Tensor;

pub use config::SwinConfig;

use self::layout::{StageLayout, fitted};
use self::merging::PatchMerging;
use super::check;
use crate::nn::{Block, LayerNorm, MaskToken, PatchEmbed, RelPosBias};
use crate::params::Params;
use crate::{EncodeOptions, Encoded, Encoder, Error, Masking, PatchGrid, Result, StepContext, ops};

/// A Swin transformer, first version (Liu et al., ICCV 2021), with the parameter names of microsoft/SimMIM.
///
/// There is no class token. A mask token replaces hidden patches before the first stage;
/// masks may be on any grid that divides the grid of the first stage. The output is on the grid of
/// the last stage. [`EncodeOptions::layers`] numbers blocks across all stages; the output of each block
/// is on the grid of its stage, `[rows, stage tokens, stage dim]`, before its tokens are merged.
#[derive(Debug, Clone)]
pub struct Swin {
    config: SwinConfig,
    patch_embed: PatchEmbed,
    patch_norm: Option<LayerNorm>,
    mask_token: Option<MaskToken>,
    stages: Vec<Stage>,
    /// One per stage, for images of the configured size.
    layouts: Vec<StageLayout>,
    norm: LayerNorm,
}

#[derive(Debug, Clone)]
struct Stage {
    blocks: Vec<WindowBlock>,
    downsample: Option<PatchMerging>,
}

/// A transformer block whose attention stays within windows.
#[derive(Debug, Clone)]
struct WindowBlock {
    block: Block,
    bias: RelPosBias,
    odd: bool,
}

impl WindowBlock {
    fn forward(&self, xs: &Tensor, layout: &StageLayout, step: &StepContext) -> Result<Tensor> {
        if step.recompute {
            let (block, layout, step) = (self.clone(), layout.clone(), step.keeping());
            return ops::recompute(xs, move |xs| block.forward(xs, &layout, &step));
        }
        let (windows, shift_mask) = layout.windows(self.odd);
        let bias = self.bias.forward(xs.device())?;
        let bias = match shift_mask {
            Some(mask) => bias.broadcast_add(mask)?,
            None => bias,
        };
        self.block.forward_with(xs, step, |attn, ys| {
            let ys = attn.forward(&windows.partition(ys)?, Some(&bias))?;
            windows.reverse(&ys)
        })
    }
}

impl Stage {
    /// Builds stage `stage`; its first block has number `first` in the network.
    fn new(params: &Params, config: &SwinConfig, stage: usize, first: usize) -> Result<Self> {
        let params = params.pp("layers").pp(stage);
        let (side, _) = config.stage_window(stage)?;
        let heads = config.num_heads[stage];
        let block = |index: usize| {
            let params = params.pp("blocks").pp(index);
            let number = u32::try_from(first + index).unwrap_or(u32::MAX);
            Ok(WindowBlock {
                block: Block::new(&params, &config.block(stage, first + index), number)?,
                bias: RelPosBias::window(&params.pp("attn"), PatchGrid::new(side, side), heads)?,
                odd: !index.is_multiple_of(2),
            })
        };
        let merging = || {
            let (dim, eps) = (config.stage_dim(stage), config.norm_eps);
            PatchMerging::new(&params.pp("downsample"), dim, eps)
        };
        Ok(Self {
            blocks: (0..config.depths[stage])
                .map(block)
                .collect::<Result<_>>()?,
            downsample: (stage + 1 < config.stages()).then(merging).transpose()?,
        })
    }
}

impl Swin {
    /// Builds the network under `params`: `patch_embed`, `mask_token`, `layers.S.blocks.B`,
    /// `layers.S.downsample`, `norm`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(params: &Params, config: &SwinConfig) -> Result<Self> {
        config.validate()?;
        let SwinConfig {
            patch_size,
            in_channels,
            embed_dim,
            norm_eps,
            ..
        } = *config;
        let embed = params.pp("patch_embed");
        let patch_norm = || LayerNorm::new(&embed.pp("norm"), embed_dim, norm_eps);
        let mut first = 0;
        let mut stages = Vec::with_capacity(config.stages());
        for (stage, depth) in config.depths.iter().enumerate() {
            stages.push(Stage::new(params, config, stage, first)?);
            first += depth;
        }
        Ok(Self {
            patch_embed: PatchEmbed::new(&embed, patch_size, in_channels, embed_dim)?,
            patch_norm: config.patch_norm.then(patch_norm).transpose()?,
            mask_token: config
                .mask_token
                .then(|| MaskToken::new(params, embed_dim))
                .transpose()?,
            stages,
            layouts: StageLayout::all(config, config.image_size.into(), params.device())?,
            norm: LayerNorm::new(&params.pp("norm"), config.dim(), norm_eps)?,
            config: config.clone(),
        })
    }

    /// The settings that this was built from.
    pub fn config(&self) -> &SwinConfig {
        &self.config
    }

    /// The input of the first stage, `[rows, tokens, dim]`, with hidden patches replaced.
    fn embed(&self, image: &Tensor, masking: Masking<'_>, step: &StepContext) -> Result<Tensor> {
        let tokens = self.patch_embed.forward(image)?;
        let tokens = match &self.patch_norm {
            Some(norm) => norm.forward(&tokens)?,
            None => tokens,
        };
        step.trace("patch_embed", || Ok(tokens.clone()))?;
        let Some(mask) = masking.mask() else {
            return Ok(tokens);
        };
        let (_, _, height, width) = image.dims4()?;
        let mask = mask.upsample(self.config.grid_of((height, width), 0)?)?;
        MaskToken::required(self.mask_token.as_ref())?.replace(&tokens, &mask)
    }

    /// The layouts for images of this size; those for the configured size are stored.
    fn layouts(&self, image: &Tensor) -> Result<Cow<'_, [StageLayout]>> {
        let (_, _, height, width) = image.dims4()?;
        if (height, width) == self.config.image_size.into() {
            return Ok(Cow::Borrowed(&self.layouts));
        }
        StageLayout::all(&self.config, (height, width), image.device()).map(Cow::Owned)
    }

    fn check(
        &self,
        image: &Tensor,
        masking: Masking<'_>,
        want: &EncodeOptions,
    ) -> Result<PatchGrid> {
        let size = check::image_size(image, self.config.in_channels)?;
        check::no_order("Swin", masking)?;
        if matches!(masking, Masking::Drop(_)) {
            return Err(Error::unsupported(
                "dropping hidden patches in Swin",
                "its windows and merged tokens need every patch",
                "replace hidden patches (Masking::Replace, MaskMode::Replace), or use a ViT",
            ));
        }
        if want.cls_attention {
            return Err(Error::unsupported(
                "class-token attention in Swin",
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

impl Encoder for Swin {
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
        let config = fitted(&self.config, image)?;
        config.grid_of(image, config.stages() - 1)
    }

    fn encode(
        &self,
        image: &Tensor,
        masking: Masking<'_>,
        want: &EncodeOptions,
        step: &StepContext,
    ) -> Result<Encoded> {
        let grid = self.check(image, masking, want)?;
        let layouts = self.layouts(image)?;
        let mut xs = self.embed(image, masking, step)?;
        let mut layers = Vec::with_capacity(want.layers.len());
        let mut index = 0;
        for (stage, layout) in self.stages.iter().zip(layouts.iter()) {
            for block in &stage.blocks {
                xs = block.forward(&xs, layout, step)?;
                if want.layers.contains(&index) {
                    layers.push((index, xs.clone()));
                }
                index += 1;
            }
            if let Some(downsample) = &stage.downsample {
                xs = downsample.forward(&xs, &layout.merging)?;
            }
        }
        let tokens = match want.skip_norm {
            true => xs,
            false => self.norm.forward(&xs)?,
        };
        step.trace("latent", || Ok(tokens.clone()))?;
        Ok(Encoded {
            tokens,
            prefix: 0,
            layers,
            cls_attention: None,
            grid,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{ParamStore, SwinInit};
    use crate::{ImageSize, Mask};
    use candle_core::Device;

    fn config() -> SwinConfig {
        SwinConfig {
            image_size: ImageSize {
                height: 16,
                width: 32,
            },
            patch_size: 2,
            in_channels: 1,
            embed_dim: 4,
            depths: vec![2, 2],
            num_heads: vec![1, 2],
            window_size: 4,
            ..SwinConfig::default()
        }
    }

    fn swin(config: &SwinConfig) -> (ParamStore, Swin) {
        let store = ParamStore::new(&Device::Cpu, 1, SwinInit { patch_values: 4 });
        let swin = Swin::new(&store.root(), config).unwrap();
        (store, swin)
    }

    fn image(rows: usize) -> Tensor {
        let values: Vec<f32> = (0..rows * 512)
            .map(|i| ((i * i) % 97) as f32 / 48. - 1.)
            .collect();
        Tensor::from_vec(values, (rows, 1, 16, 32), &Device::Cpu).unwrap()
    }

    fn encode(swin: &Swin, masking: Masking<'_>, want: &EncodeOptions) -> Result<Encoded> {
        swin.encode(&image(2), masking, want, &StepContext::inference())
    }

    fn values(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn blocks_are_numbered_across_stages_and_keep_their_grids() {
        let (store, swin) = swin(&config());
        let want = EncodeOptions {
            layers: vec![1, 3],
            ..EncodeOptions::default()
        };
        let encoded = encode(&swin, Masking::None, &want).unwrap();
        assert_eq!(encoded.tokens.dims(), [2, 32, 8]);
        assert_eq!((encoded.prefix, encoded.grid), (0, PatchGrid::new(4, 8)));
        assert_eq!(encoded.patches().unwrap().dims(), [2, 32, 8]);
        assert!(encoded.cls().unwrap().is_none());
        assert_eq!(encoded.layer(1).unwrap().dims(), [2, 128, 4]);
        assert_eq!(encoded.layer(3).unwrap().dims(), [2, 32, 8]);
        let names: Vec<String> = store.names().into_iter().map(|(name, _)| name).collect();
        for name in [
            "patch_embed.norm.weight",
            "layers.0.blocks.1.attn.relative_position_bias_table",
            "layers.0.downsample.reduction.weight",
            "norm.bias",
        ] {
            assert!(names.iter().any(|known| known == name), "{name}");
        }
        let skipped = encode(
            &swin,
            Masking::None,
            &EncodeOptions {
                skip_norm: true,
                ..want
            },
        )
        .unwrap();
        assert_eq!(values(&skipped.tokens), values(encoded.layer(3).unwrap()));
    }

    #[test]
    fn masks_on_any_grid_give_the_same() {
        let (_, swin) = swin(&config());
        let coarse: Vec<u8> = [1, 0, 0, 1, 0, 0, 1, 1].repeat(2);
        let coarse = Mask::from_bits(PatchGrid::new(2, 4), &coarse).unwrap();
        let mut all = Vec::new();
        for grid in [(2, 4), (4, 8), (8, 16)] {
            let mask = coarse.upsample(PatchGrid::new(grid.0, grid.1)).unwrap();
            let encoded =
                encode(&swin, Masking::Replace(&mask), &EncodeOptions::default()).unwrap();
            all.push(values(&encoded.tokens));
        }
        assert!(all[0] == all[1] && all[1] == all[2]);
        let plain = encode(&swin, Masking::None, &EncodeOptions::default()).unwrap();
        assert_ne!(values(&plain.tokens), all[0]);
        // Two masks per image: the first copy equals the mask alone.
        let both: Vec<u8> = [coarse.to_bits(), coarse.complement().to_bits()].concat();
        let both = Mask::from_bits(coarse.grid(), &both).unwrap();
        let encoded = encode(&swin, Masking::Replace(&both), &EncodeOptions::default()).unwrap();
        assert_eq!(encoded.tokens.dims(), [4, 32, 8]);
        assert_eq!(values(&encoded.tokens.narrow(0, 0, 2).unwrap()), all[0]);
    }

    #[test]
    fn at_another_size_it_equals_a_network_built_for_that_size() {
        let square = SwinConfig {
            image_size: 32.into(),
            ..config()
        };
        let ((first, wide), (second, built)) = (swin(&config()), swin(&square));
        let names = |store: &ParamStore| store.names();
        assert_eq!(names(&first), names(&second));
        let both = Tensor::cat(&[image(2), image(2)], 2).unwrap();
        let tokens = |swin: &Swin| {
            let step = StepContext::inference();
            let encoded = swin.encode(&both, Masking::None, &EncodeOptions::default(), &step);
            let encoded = encoded.unwrap();
            assert_eq!(encoded.grid, PatchGrid::new(8, 8));
            values(&encoded.tokens)
        };
        // With the same seed, weights are equal; the last stage shifts only at the larger size.
        assert_eq!(tokens(&wide), tokens(&built));
    }

    #[test]
    fn one_window_sees_the_whole_image_and_several_do_not() {
        // A change at the bottom right reaches the top left only if one window spans the grid.
        let base = SwinConfig {
            image_size: 16.into(),
            depths: vec![2],
            num_heads: vec![2],
            ..config()
        };
        for (window_size, reaches) in [(8, true), (9, true), (2, false)] {
            let (_, swin) = swin(&SwinConfig {
                window_size,
                ..base.clone()
            });
            let square = image(1).narrow(3, 0, 16).unwrap();
            let far = Tensor::zeros((1, 1, 8, 16), square.dtype(), &Device::Cpu).unwrap();
            let changed = Tensor::cat(&[&square.narrow(2, 0, 8).unwrap(), &far], 2).unwrap();
            let first = |image: &Tensor| {
                let step = StepContext::inference();
                let encoded = swin
                    .encode(image, Masking::None, &EncodeOptions::default(), &step)
                    .unwrap();
                values(&encoded.tokens.narrow(1, 0, 1).unwrap())
            };
            assert_eq!(
                first(&square) != first(&changed),
                reaches,
                "window {window_size}"
            );
        }
    }

    #[test]
    fn refuses_unsupported_options() {
        let (_, swin) = swin(&config());
        let mask = Mask::from_bits(PatchGrid::new(4, 8), &[0u8; 64]).unwrap();
        let fails = |masking, want: EncodeOptions, part: &str| {
            let error = encode(&swin, masking, &want).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        fails(
            Masking::Drop(&mask),
            EncodeOptions::default(),
            "MaskMode::Replace",
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
        let odd = Mask::from_bits(PatchGrid::new(3, 8), &[0u8; 48]).unwrap();
        fails(Masking::Replace(&odd), EncodeOptions::default(), "3x8");
        let error = swin.grid((8, 16)).unwrap_err().to_string();
        for part in ["4x4 tokens in stage 1", "16x32", "2x2 at 8x16 pixels"] {
            assert!(error.contains(part), "{error}");
        }
        let error = swin.grid((16, 40)).unwrap_err().to_string();
        assert!(error.contains("4x10 of stage 1"), "{error}");
        let (_, bare) = super::tests::swin(&SwinConfig {
            mask_token: false,
            ..config()
        });
        let error = encode(&bare, Masking::Replace(&mask), &EncodeOptions::default()).unwrap_err();
        assert!(error.to_string().contains("mask_token = true"), "{error}");
    }

    #[test]
    fn padding_allows_any_size_and_does_nothing_if_not_needed() {
        let pad = SwinConfig {
            pad: true,
            ..config()
        };
        let (store, padded) = swin(&pad);
        let (_, plain) = swin(&config());
        let tokens = |swin: &Swin| {
            let encoded = encode(swin, Masking::None, &EncodeOptions::default()).unwrap();
            values(&encoded.tokens)
        };
        assert_eq!(tokens(&padded), tokens(&plain));
        // 5x7 patches, then 3x4 tokens; nothing is a multiple of the window of 4.
        let small = image(2).narrow(2, 0, 10).unwrap().narrow(3, 0, 14).unwrap();
        let step = StepContext::inference();
        let encoded = padded
            .encode(&small, Masking::None, &EncodeOptions::default(), &step)
            .unwrap();
        assert_eq!(encoded.grid, PatchGrid::new(3, 4));
        assert_eq!(encoded.tokens.dims(), [2, 12, 8]);
        let loss = encoded.tokens.sqr().unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        for (name, var) in store.trainable() {
            assert_eq!(grads.get(&var).is_some(), name != "mask_token", "{name}");
        }
        let odd = SwinConfig {
            image_size: 20.into(),
            ..pad
        };
        // 10x10, then 5x5 tokens in windows of 4, made for the image size.
        let (_, odd) = swin(&odd);
        let square = Tensor::zeros((1, 1, 20, 20), small.dtype(), &Device::Cpu).unwrap();
        let encoded = odd
            .encode(&square, Masking::None, &EncodeOptions::default(), &step)
            .unwrap();
        assert_eq!(encoded.grid, PatchGrid::new(5, 5));
    }

    #[test]
    fn stochastic_depth_drops_whole_images() {
        let (_, swin) = swin(&SwinConfig {
            drop_path_rate: 0.9,
            ..config()
        });
        let tokens = |step: &StepContext| {
            let encoded = swin
                .encode(&image(2), Masking::None, &EncodeOptions::default(), step)
                .unwrap();
            values(&encoded.tokens)
        };
        assert_eq!(tokens(&StepContext::new(3)), tokens(&StepContext::new(3)));
        assert_ne!(
            tokens(&StepContext::new(3)),
            tokens(&StepContext::inference())
        );
    }
}
