//! ConvMAE: a hybrid of masked convolutions and a transformer.

mod config;
mod init;

use candle_core::Tensor;

pub use config::ConvMaeConfig;
pub use init::ConvMaeInit;

use super::check;
use crate::nn::{Block, Conv, ConvBlock, LayerNorm, Linear, PosEmbed, PosEmbedKind};
use crate::params::Params;
use crate::{
    EncodeOptions, Encoded, Encoder, Error, Mask, Masking, PatchGrid, Result, StepContext, ops,
};

/// ConvMAE's encoder (Gao et al., NeurIPS 2022, arXiv 2205.03892; Alpha-VL/ConvMAE @ 4c97b4c): two stages
/// of masked convolutions on the full map, then a transformer on the visible tokens. The outputs of both
/// convolution stages are cut into tokens and added before the final norm.
///
/// There is no class token. Hidden pixels do not reach the output.
#[derive(Debug, Clone)]
pub struct ConvMae {
    config: ConvMaeConfig,
    embeds: [StageEmbed; 3],
    token_embed: Linear,
    stages: [Vec<ConvBlock>; 2],
    fusion: [Conv; 2],
    pos_embed: Option<PosEmbed>,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

/// A patch convolution, a norm and GELU.
#[derive(Debug, Clone)]
struct StageEmbed {
    proj: Conv,
    norm: LayerNorm,
}

impl StageEmbed {
    fn new(params: &Params, sizes: [usize; 3], eps: f64) -> Result<Self> {
        let [inputs, outputs, side] = sizes;
        Ok(Self {
            proj: Conv::patches(&params.pp("proj"), inputs, outputs, side)?,
            norm: LayerNorm::new(&params.pp("norm"), outputs, eps)?,
        })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(ops::gelu(&self.norm.forward(&self.proj.forward(xs)?)?)?)
    }
}

impl ConvMae {
    /// Builds the network under `params`: `patch_embed1` to `patch_embed4`, `blocks1.N` to
    /// `blocks3.N`, `stage1_output_decode`, `stage2_output_decode`, `pos_embed`, `norm`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(params: &Params, config: &ConvMaeConfig) -> Result<Self> {
        config.validate()?;
        let ConvMaeConfig {
            embed_dims: dims,
            patch_sizes: sides,
            ..
        } = *config;
        let embed = |stage: usize, inputs: usize| {
            let params = params.pp(format!("patch_embed{}", stage + 1));
            StageEmbed::new(
                &params,
                [inputs, dims[stage], sides[stage]],
                config.conv_norm_eps,
            )
        };
        let stage = |stage: usize| -> Result<Vec<ConvBlock>> {
            let params = params.pp(format!("blocks{}", stage + 1));
            let hidden = config.hidden_dim(stage);
            let block = |index| {
                ConvBlock::new(&params.pp(index), dims[stage], hidden, config.conv_norm_eps)
            };
            (0..config.depths[stage]).map(block).collect()
        };
        let fusion = |stage: usize, side: usize| {
            let params = params.pp(format!("stage{}_output_decode", stage + 1));
            Conv::patches(&params, dims[stage], dims[2], side)
        };
        let block = |index: usize| {
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            Block::new(&params.pp("blocks3").pp(index), &config.block(), number)
        };
        Ok(Self {
            embeds: [
                embed(0, config.in_channels)?,
                embed(1, dims[0])?,
                embed(2, dims[1])?,
            ],
            token_embed: Linear::new(&params.pp("patch_embed4"), dims[2], dims[2])?,
            stages: [stage(0)?, stage(1)?],
            fusion: [fusion(0, sides[1] * sides[2])?, fusion(1, sides[2])?],
            pos_embed: PosEmbed::new(
                params,
                "pos_embed",
                PosEmbedKind::Sincos,
                dims[2],
                (config.grid()?, 0),
            )?,
            blocks: (0..config.depths[2]).map(block).collect::<Result<_>>()?,
            norm: LayerNorm::new(&params.pp("norm"), dims[2], config.norm_eps)?,
            config: config.clone(),
        })
    }

    /// The settings that this was built from.
    pub fn config(&self) -> &ConvMaeConfig {
        &self.config
    }

    fn check(&self, image: &Tensor, masking: Masking<'_>) -> Result<PatchGrid> {
        let size = check::image_size(image, self.config.in_channels)?;
        check::no_order("ConvMAE's encoder", masking)?;
        if matches!(masking, Masking::Replace(_)) {
            return Err(Error::unsupported(
                "replacing hidden patches in ConvMAE's encoder",
                "it has no mask token",
                "drop them (MaskMode::Drop)",
            ));
        }
        let grid = self.grid(size)?;
        check::mask_on(grid, masking)?;
        Ok(grid)
    }

    /// Runs the first two stages: the map before the third stage, and the windows of both for fusion.
    fn convolve(
        &self,
        image: &Tensor,
        mask: Option<&Mask>,
        step: &StepContext,
    ) -> Result<(Tensor, [Tensor; 2])> {
        let mut xs = self.embeds[0].forward(&image.permute((0, 2, 3, 1))?)?;
        step.trace("patch_embed1", || Ok(xs.clone()))?;
        if let Some(mask) = mask {
            let copies = mask.copies(xs.dim(0)?)?;
            if copies > 1 {
                xs = Tensor::cat(&vec![&xs; copies], 0)?;
            }
        }
        let mut fused = Vec::with_capacity(2);
        for (stage, blocks) in self.stages.iter().enumerate() {
            let (_, height, width, _) = xs.dims4()?;
            let visible = mask
                .map(|mask| visible_map(mask, PatchGrid::new(height, width), xs.device()))
                .transpose()?;
            for block in blocks {
                xs = block.forward(&xs, visible.as_ref())?;
            }
            step.trace(&format!("stage{}", stage + 1), || Ok(xs.clone()))?;
            fused.push(self.fusion[stage].windows(&xs)?);
            xs = self.embeds[stage + 1].forward(&xs)?;
            step.trace(&format!("patch_embed{}", stage + 2), || Ok(xs.clone()))?;
        }
        let [first, second] = <[Tensor; 2]>::try_from(fused).map_err(|_| {
            Error::unsupported(
                "fusing stages",
                "there are not two of them",
                "report this as a bug",
            )
        })?;
        Ok((xs, [first, second]))
    }
}

/// 1 at visible positions of a map, `[rows, height, width, 1]`.
fn visible_map(mask: &Mask, map: PatchGrid, device: &candle_core::Device) -> Result<Tensor> {
    let hidden = mask.upsample(map)?.bits(device)?;
    Ok((1. - hidden)?.reshape((mask.rows(), map.rows, map.cols, 1))?)
}

impl Encoder for ConvMae {
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
        PatchGrid::of_image(image, self.config.stride())
    }

    fn encode(
        &self,
        image: &Tensor,
        masking: Masking<'_>,
        want: &EncodeOptions,
        step: &StepContext,
    ) -> Result<Encoded> {
        let grid = self.check(image, masking)?;
        if want.cls_attention {
            return Err(Error::unsupported(
                "the attention of the class token",
                "ConvMAE's encoder has none",
                "use a plain ViT",
            ));
        }
        let mask = masking.mask();
        let (map, fused) = self.convolve(image, mask, step)?;
        step.trace("patch_embed4", || self.token_embed.forward(&map))?;
        // Tokens [rows, tokens, values] of a map [rows, height, width, values]; visible ones only.
        let tokens = |map: &Tensor| -> Result<Tensor> {
            let all = map.flatten(1, 2)?;
            let Some(mask) = mask else { return Ok(all) };
            let ids = mask.flat(false, mask.rows(), all.device())?;
            let visible = ops::gather_rows(&all.flatten(0, 1)?, &ids)?;
            Ok(visible.reshape((mask.rows(), (), all.dim(2)?))?)
        };
        let mut xs = self.token_embed.forward(&tokens(&map)?)?;
        if let Some(table) = &self.pos_embed {
            xs = match mask {
                Some(mask) => (xs + table.select(mask, &mask.ids_keep(image.device())?)?)?,
                None => xs.broadcast_add(&table.patches(grid)?)?,
            };
        }
        let mut layers = Vec::with_capacity(want.layers.len());
        for (index, block) in self.blocks.iter().enumerate() {
            xs = block.forward(&xs, None, step)?;
            if want.layers.contains(&index) {
                layers.push((index, xs.clone()));
            }
        }
        for (stage, (fusion, windows)) in self.fusion.iter().zip(&fused).enumerate() {
            step.trace(&format!("stage{}_fused", stage + 1), || {
                fusion.apply(windows)
            })?;
            xs = (xs + fusion.apply(&tokens(windows)?)?)?;
        }
        if !want.skip_norm {
            xs = self.norm.forward(&xs)?;
        }
        step.trace("latent", || Ok(xs.clone()))?;
        Ok(Encoded {
            tokens: xs,
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
    use crate::ParamStore;
    use candle_core::{D, Device};

    fn tiny() -> ConvMae {
        let config = ConvMaeConfig {
            image_size: 32.into(),
            embed_dims: [4, 6, 8],
            depths: [1, 1, 1],
            num_heads: 2,
            ..ConvMaeConfig::default()
        };
        ConvMae::new(&ParamStore::cpu(1).root(), &config).unwrap()
    }

    fn images() -> Tensor {
        let values = Tensor::arange(0f32, 3. * 32. * 32., &Device::Cpu).unwrap();
        values.sin().unwrap().reshape((1, 3, 32, 32)).unwrap()
    }

    fn encode(image: &Tensor, masking: Masking<'_>) -> Tensor {
        let step = StepContext::inference();
        tiny()
            .encode(image, masking, &EncodeOptions::default(), &step)
            .unwrap()
            .tokens
    }

    fn difference(a: &Tensor, b: &Tensor) -> f32 {
        let all = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
        all.max(D::Minus1).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn an_empty_mask_equals_no_mask() {
        let mask = Mask::from_bits(PatchGrid::new(2, 2), &[0; 4]).unwrap();
        let (whole, masked) = (
            encode(&images(), Masking::None),
            encode(&images(), Masking::Drop(&mask)),
        );
        assert_eq!(masked.dims(), [1, 4, 8]);
        assert!(difference(&whole, &masked) < 1e-6);
    }

    #[test]
    fn only_visible_pixels_change_the_output() {
        let mask = Mask::from_bits(PatchGrid::new(2, 2), &[0, 1, 1, 0]).unwrap();
        let side = |top: usize, left: usize| -> Tensor {
            let spot = Tensor::ones((1, 3, 16, 16), candle_core::DType::F32, &Device::Cpu).unwrap();
            let spot = spot.pad_with_zeros(2, top, 16 - top).unwrap();
            (images() + spot.pad_with_zeros(3, left, 16 - left).unwrap()).unwrap()
        };
        let seen = |image: &Tensor| encode(image, Masking::Drop(&mask));
        assert_eq!(difference(&seen(&images()), &seen(&side(0, 16))), 0.);
        assert_eq!(difference(&seen(&images()), &seen(&side(16, 0))), 0.);
        assert!(difference(&seen(&images()), &seen(&side(16, 16))) > 1e-4);
    }

    #[test]
    fn several_masks_of_an_image_are_copy_major() {
        let bits = [0, 1, 1, 0, 1, 0, 0, 1];
        let both = Mask::from_bits(PatchGrid::new(2, 2), &bits).unwrap();
        let second = Mask::from_bits(PatchGrid::new(2, 2), &bits[4..]).unwrap();
        let tokens = encode(&images(), Masking::Drop(&both));
        assert_eq!(tokens.dims(), [2, 2, 8]);
        let alone = encode(&images(), Masking::Drop(&second));
        assert!(difference(&tokens.narrow(0, 1, 1).unwrap(), &alone) < 1e-6);
    }

    #[test]
    fn refuses_unsupported_options() {
        let mask = Mask::from_bits(PatchGrid::new(2, 2), &[0, 1, 1, 0]).unwrap();
        let step = StepContext::inference();
        let (encoder, want) = (tiny(), EncodeOptions::default());
        let replaced = encoder.encode(&images(), Masking::Replace(&mask), &want, &step);
        assert!(replaced.unwrap_err().to_string().contains("MaskMode::Drop"));
        let other = Mask::from_bits(PatchGrid::new(1, 2), &[0, 1]).unwrap();
        assert!(
            encoder
                .encode(&images(), Masking::Drop(&other), &want, &step)
                .is_err()
        );
        let config = ConvMaeConfig {
            image_size: 40.into(),
            ..ConvMaeConfig::default()
        };
        assert!(ConvMae::new(&ParamStore::cpu(0).root(), &config).is_err());
    }
}
