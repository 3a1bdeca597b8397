//! The vision transformer with rotary positions.

mod config;

use candle_core::{Device, Tensor};

pub use config::{RegisterCoordinates, RopeVitConfig};

use super::check;
use crate::nn::{Coordinates, PatchEmbed, Placed, RmsNorm, RopeBlock};
use crate::params::Params;
use crate::{
    EncodeOptions, Encoded, Encoder, Error, Mask, Masking, PatchGrid, Result, StepContext,
};

/// A vision transformer with registers, rotary positions and RMS norms; only the patch embedding has a bias
/// (CAPI, Darcet et al., TMLR 2025).
///
/// Hidden patches are dropped; visible ones are in the mask's order. Registers are the first tokens of the output.
#[derive(Debug, Clone)]
pub struct RopeVit {
    config: RopeVitConfig,
    patch_embed: PatchEmbed,
    registers: Option<Tensor>,
    coordinates: Coordinates,
    blocks: Vec<RopeBlock>,
    norm: RmsNorm,
}

impl RopeVit {
    /// Builds the network under `params`: `registers`, `patch_embed`, `blocks.N`; the final norm has no weight.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(params: &Params, config: &RopeVitConfig) -> Result<Self> {
        config.validate()?;
        let (dim, blocks) = (config.embed_dim, params.pp("blocks"));
        let block = |index: usize| {
            let number = u32::try_from(index).unwrap_or(u32::MAX / 8);
            RopeBlock::new(&blocks.pp(index), &config.block(), number)
        };
        let patches = params.pp("patch_embed");
        Ok(Self {
            coordinates: config.coordinates()?,
            registers: match config.num_registers {
                0 => None,
                count => Some(params.weight(&[1, count, dim], "registers")?),
            },
            patch_embed: PatchEmbed::new(&patches, config.patch_size, config.in_channels, dim)?,
            blocks: (0..config.depth).map(block).collect::<Result<_>>()?,
            norm: RmsNorm::plain(config.norm_eps),
            config: config.clone(),
        })
    }

    /// Coordinates of the output tokens, `[rows, registers + patches, 2]`: for the visible patches of `mask`, or for
    /// all patches of `images` images.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the number of visible patches differs between rows.
    pub fn places(
        &self,
        grid: PatchGrid,
        (mask, images): (Option<&Mask>, usize),
        device: &Device,
    ) -> Result<Tensor> {
        self.coordinates.of(grid, (mask, images), device)
    }
}

impl Encoder for RopeVit {
    fn dim(&self) -> usize {
        self.config.embed_dim
    }

    fn in_channels(&self) -> Option<usize> {
        Some(self.config.in_channels)
    }

    fn trunk(&self) -> &dyn Encoder {
        self
    }

    fn grid(&self, image: (usize, usize)) -> Result<PatchGrid> {
        self.patch_embed.grid(image)
    }

    fn encode(
        &self,
        image: &Tensor,
        masking: Masking<'_>,
        want: &EncodeOptions,
        step: &StepContext,
    ) -> Result<Encoded> {
        let grid = self.grid(check::image_size(image, self.config.in_channels)?)?;
        check::mask_on(grid, masking)?;
        if matches!(masking, Masking::Replace(_) | Masking::Causal(_)) || want.cls_attention {
            return Err(Error::unsupported(
                "a mask token or class-token attention in rope_vit",
                "it has neither",
                "drop hidden patches (MaskMode::Drop), or use a vit",
            ));
        }
        let patches = match masking.mask() {
            Some(mask) => self.patch_embed.forward_visible(image, mask)?,
            None => self.patch_embed.forward(image)?,
        };
        let rows = patches.dim(0)?;
        let mut xs = match &self.registers {
            Some(registers) => {
                let shape = (rows, self.config.num_registers, self.config.embed_dim);
                Tensor::cat(&[registers.broadcast_as(shape)?, patches], 1)?
            }
            None => patches,
        };
        let places = self.places(grid, (masking.mask(), rows), xs.device())?;
        step.trace("coords", || Ok(places.clone()))?;
        let mut layers = Vec::with_capacity(want.layers.len());
        if want.layers.contains(&EncodeOptions::INPUT) {
            layers.push((EncodeOptions::INPUT, xs.clone()));
        }
        for (index, block) in self.blocks.iter().enumerate() {
            let placed = Placed {
                tokens: &xs,
                positions: &places,
            };
            xs = block.forward(placed, None, step)?;
            if want.layers.contains(&index) {
                layers.push((index, xs.clone()));
            }
        }
        let tokens = match want.skip_norm {
            true => xs,
            false => self.norm.forward(&xs)?,
        };
        step.trace("latent", || Ok(tokens.clone()))?;
        Ok(Encoded {
            tokens,
            prefix: self.config.num_registers,
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
    use crate::objectives::testing::noise;

    fn config() -> RopeVitConfig {
        RopeVitConfig {
            image_size: 16.into(),
            patch_size: 4,
            embed_dim: 16,
            depth: 2,
            num_heads: 2,
            num_registers: 4,
            drop_path_rate: 0.,
            ..RopeVitConfig::default()
        }
    }

    #[test]
    fn visible_patches_keep_their_coordinates_and_gradients_arrive() {
        let store = ParamStore::cpu(0);
        let vit = RopeVit::new(&store.root(), &config()).unwrap();
        let (image, step) = (noise(&[2, 3, 16, 16], 1), StepContext::new(0));
        let want = EncodeOptions {
            layers: vec![0, EncodeOptions::INPUT],
            ..EncodeOptions::default()
        };
        let grid = PatchGrid::new(4, 4);
        let bits: Vec<u8> = (0..32).map(|i| u8::from(i % 4 == 1)).collect();
        let mask = Mask::from_bits(grid, &bits).unwrap();
        let encoded = vit
            .encode(&image, Masking::Drop(&mask), &want, &step)
            .unwrap();
        assert_eq!(
            (encoded.tokens.dims(), encoded.prefix),
            (&[2, 16, 16][..], 4)
        );
        assert_eq!(encoded.layers.len(), 2);
        let grads = encoded
            .tokens
            .sin()
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        for (name, var) in store.trainable() {
            assert!(grads.get(&var).is_some(), "{name}");
        }
        let none = Mask::from_bits(grid, &[0; 32]).unwrap();
        let all = |masking| {
            let encoded = vit.encode(&image, masking, &EncodeOptions::default(), &step);
            let tokens = encoded.unwrap().tokens.flatten_all().unwrap();
            tokens.to_vec1::<f32>().unwrap()
        };
        assert_eq!(all(Masking::None), all(Masking::Drop(&none)));
        assert!(
            vit.encode(&image, Masking::Replace(&mask), &want, &step)
                .is_err()
        );
        // Other sizes have other coordinates.
        let wide = vit.encode(&noise(&[1, 3, 8, 24], 1), Masking::None, &want, &step);
        assert_eq!(wide.unwrap().tokens.dims(), [1, 4 + 12, 16]);
    }

    #[test]
    fn bad_settings_are_named() {
        type Wrong = (&'static str, fn(&mut RopeVitConfig));
        let wrong: [Wrong; 5] = [
            ("`num_registers` is 6", |c| c.num_registers = 6),
            ("`head_dim` is 2", |c| c.num_heads = 8),
            ("`depth` is 0", |c| c.depth = 0),
            ("`image_size` is 18x18", |c| c.image_size = 18.into()),
            ("`min_freq` is 0 to 7", |c| c.min_freq = 0.),
        ];
        for (what, spoil) in wrong {
            let mut config = config();
            spoil(&mut config);
            let error = RopeVit::new(&ParamStore::cpu(0).root(), &config).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}
