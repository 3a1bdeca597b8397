//! CAE's regressor: latents of hidden patches from the visible ones.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{DecoderSettings, DecoderShape, LatentDecoder, TokensNeeded};
use crate::nn::{
    LayerNorm, Linear, Placed, PosEmbed, PosEmbedKind, RegressorBlock, RegressorBlockConfig,
};
use crate::params::Params;
use crate::parts::Part;
use crate::{
    DecodeContext, Decoder, Encoded, Error, Mask, PatchGrid, Prediction, Result, StepContext,
};

const NAME: &str = "latent regressor";
/// First random stream of the blocks, so that their draws differ from those of the encoder's blocks.
const BLOCKS: u32 = 1000;

/// Settings of [`LatentRegressor`] and [`LatentDecoder`]; `Default` is CAE's with ViT-B.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatentRegressorConfig {
    /// Width of the latents; a multiple of 4. Default 768.
    pub embed_dim: usize,
    /// Blocks of the regressor. Default 4.
    pub depth: usize,
    /// Blocks of the decoder. Default 4.
    pub decoder_depth: usize,
    /// Attention heads of both, each `embed_dim / num_heads` wide, rounded down. Default 12.
    pub num_heads: usize,
    /// Hidden width of a block's MLP as a multiple of `embed_dim`. Default 4.
    pub mlp_ratio: f64,
    /// Epsilon of all norms. Default 1e-6.
    pub norm_eps: f64,
    /// Initial layer scale of both. Default 0.1.
    pub layer_scale_init: f64,
    /// Stochastic depth rate of the last block of each, rising linearly from 0. Default 0.
    pub drop_path_rate: f64,
}

impl Default for LatentRegressorConfig {
    fn default() -> Self {
        Self {
            embed_dim: 768,
            depth: 4,
            decoder_depth: 4,
            num_heads: 12,
            mlp_ratio: 4.,
            norm_eps: 1e-6,
            layer_scale_init: 0.1,
            drop_path_rate: 0.,
        }
    }
}

impl LatentRegressorConfig {
    fn check(&self) -> Result<()> {
        let bad = |field: &'static str, value: String, why: String, fix: &'static str| {
            Err(Error::config(NAME, field, value, why, fix))
        };
        if self.num_heads == 0 || self.num_heads > self.embed_dim {
            let why = format!("it must be between 1 and embed_dim = {}", self.embed_dim);
            return bad("num_heads", self.num_heads.to_string(), why, "use fewer");
        }
        if self.depth == 0 {
            let why = "it needs at least one block".to_owned();
            return bad("depth", "0".to_owned(), why, "use 1 or more");
        }
        if self.norm_eps.is_nan() || self.norm_eps <= 0. {
            let why = "it must be positive".to_owned();
            return bad("norm_eps", self.norm_eps.to_string(), why, "use 1e-6");
        }
        let hidden = self.mlp_ratio * self.embed_dim as f64;
        if hidden.is_nan() || hidden < 1. {
            let why = "the hidden layer would be empty".to_owned();
            return bad("mlp_ratio", self.mlp_ratio.to_string(), why, "use 4");
        }
        if !(0. ..1.).contains(&self.drop_path_rate) {
            let why = "it must be in [0, 1)".to_owned();
            let (value, fix) = (
                self.drop_path_rate.to_string(),
                "use 0 for no stochastic depth",
            );
            return bad("drop_path_rate", value, why, fix);
        }
        Ok(())
    }

    /// The stochastic depth rate of block `index` of `depth`.
    pub(super) fn drop_path(&self, index: usize, depth: usize) -> f64 {
        self.drop_path_rate * index as f64 / (depth.max(2) - 1) as f64
    }
}

impl Part for LatentRegressorConfig {
    const ABOUT: &'static str =
        "hidden patches from their latents, which attend to the visible patches";
    const PAPER: &'static str =
        "CAE: Chen et al., IJCV 2023, arXiv 2202.03026; Atten4Vis/CAE @ a7fd162";
    const SMALL: &'static str = r#"
embed_dim = 128
depth = 2
decoder_depth = 2
num_heads = 4
"#;
}

impl DecoderSettings for LatentRegressorConfig {
    fn tokens(&self) -> TokensNeeded {
        TokensNeeded::Visible
    }

    fn build(&self, params: &Params, shape: DecoderShape) -> Result<Box<dyn Decoder>> {
        let regressor = LatentRegressor::new(params, self, shape.grid, shape.inputs)?;
        let decoder = LatentDecoder::new(params, self, &regressor, shape.outputs)?;
        Ok(Box::new(Regressing { regressor, decoder }))
    }
}

/// Predicts the latents that an encoder would give hidden patches: in each block, mask tokens attend to each other and
/// to the encoder's visible patches, which stay unchanged.
///
/// The class token is not used. CAE (Chen et al., IJCV 2023), Sec. 3.2.
#[derive(Debug, Clone)]
pub struct LatentRegressor {
    embed: Option<(Linear, LayerNorm)>,
    mask_token: Tensor,
    pub(super) pos_embed: PosEmbed,
    blocks: Vec<RegressorBlock>,
    norm: LayerNorm,
}

impl LatentRegressor {
    /// Parameters under `regressor`: `mask_token`, `pos_embed`, `blocks.N`, `norm` and, if the encoder's width
    /// `inputs` differs, `embed` and `embed_norm`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(
        params: &Params,
        config: &LatentRegressorConfig,
        grid: PatchGrid,
        inputs: usize,
    ) -> Result<Self> {
        config.check()?;
        let (params, dim) = (params.pp("regressor"), config.embed_dim);
        let norm = |name: &str| LayerNorm::new(&params.pp(name), dim, config.norm_eps);
        let embed = match inputs == dim {
            true => None,
            false => Some((
                Linear::new(&params.pp("embed"), inputs, dim)?,
                norm("embed_norm")?,
            )),
        };
        let block = |index: usize| {
            let config = RegressorBlockConfig {
                dim,
                num_heads: config.num_heads,
                mlp_ratio: config.mlp_ratio,
                norm_eps: config.norm_eps,
                layer_scale_init: config.layer_scale_init,
                drop_path: config.drop_path(index, config.depth),
            };
            let number = BLOCKS + u32::try_from(index).unwrap_or(u32::MAX / 8);
            RegressorBlock::new(&params.pp("blocks").pp(index), &config, number)
        };
        let kind = PosEmbedKind::SincosRowFirst;
        let pos_embed = PosEmbed::new(&params, "pos_embed", kind, dim, (grid, 1))?;
        Ok(Self {
            embed,
            mask_token: params.weight(&[1, 1, dim], "mask_token")?,
            pos_embed: pos_embed.ok_or_else(|| {
                Error::unsupported(NAME, "it has no positions", "report this as a bug")
            })?,
            blocks: (0..config.depth).map(block).collect::<Result<_>>()?,
            norm: norm("norm")?,
        })
    }

    /// Maps the encoder's tokens `[.., inputs]` to the regressor's width.
    ///
    /// # Errors
    ///
    /// If a shape does not fit.
    pub fn embed(&self, tokens: &Tensor) -> Result<Tensor> {
        match &self.embed {
            Some((embed, norm)) => norm.forward(&embed.forward(tokens)?),
            None => Ok(tokens.clone()),
        }
    }

    /// Latents of the hidden patches in the mask's order, `[rows, hidden, embed_dim]`, from an encoder's output for
    /// the visible ones.
    ///
    /// # Errors
    ///
    /// If encoder and mask do not match.
    pub fn latents(&self, encoded: &Encoded, mask: &Mask, step: &StepContext) -> Result<Tensor> {
        let visible = self.embed(&encoded.patches()?)?;
        let device = visible.device();
        let (kept, hidden) = (mask.ids_keep(device)?, mask.ids_masked(device)?);
        let kept = self.pos_embed.select(mask, &kept)?;
        let hidden = self.pos_embed.select(mask, &hidden)?;
        let places = Tensor::cat(&[&kept, &hidden], 1)?;
        let mut xs = self.mask_token.broadcast_as(hidden.shape())?.contiguous()?;
        for block in &self.blocks {
            let context = Tensor::cat(&[&visible, &xs], 1)?;
            let context = Placed {
                tokens: &context,
                positions: &places,
            };
            let own = Placed {
                tokens: &xs,
                positions: &hidden,
            };
            xs = block.forward(own, context, step)?;
        }
        self.norm.forward(&xs)
    }
}

/// Regressor and decoder after a plain encoder.
struct Regressing {
    regressor: LatentRegressor,
    decoder: LatentDecoder,
}

impl Decoder for Regressing {
    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        cx.needs_visible("a latent regressor")?;
        let latents = self.regressor.latents(cx.encoded, cx.mask, cx.step)?;
        cx.step.trace("regressed", || Ok(latents.clone()))?;
        self.decoder.predict(&latents, cx.mask, cx.step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoders::{Regressed, Vit, VitConfig};
    use crate::{Batch, EncodeOptions, Encoder, Masking, ParamStore, Rows, View};
    use candle_core::{DType, Device};

    fn config() -> LatentRegressorConfig {
        LatentRegressorConfig {
            embed_dim: 12,
            depth: 2,
            decoder_depth: 1,
            num_heads: 3,
            ..LatentRegressorConfig::default()
        }
    }

    fn vit(mask_token: bool) -> VitConfig {
        VitConfig {
            image_size: 8.into(),
            patch_size: 4,
            embed_dim: 8,
            depth: 1,
            num_heads: 2,
            mask_token,
            ..VitConfig::default()
        }
    }

    fn images() -> Batch {
        let images = Tensor::rand(0f32, 1f32, (2, 3, 8, 8), &Device::Cpu).unwrap();
        Batch::single(View::new(images, vec![]).unwrap())
    }

    #[test]
    fn latents_after_an_encoder_match_the_part_and_gradients_arrive() {
        let mask = Mask::from_bits(PatchGrid::new(2, 2), &[0, 1, 0, 1, 1, 0, 0, 1]).unwrap();
        let (store, batch, step) = (ParamStore::cpu(2), images(), StepContext::new(0));
        let pixels = batch.view(0).unwrap().pixels().clone();
        let root = store.root();
        let encoder = Vit::new(&root, &vit(false)).unwrap();
        let shape = DecoderShape {
            inputs: 8,
            outputs: 5,
            grid: mask.grid(),
            cells: None,
        };
        let part = DecoderSettings::build(&config(), &root, shape).unwrap();
        let want = EncodeOptions::default();
        let drop = Masking::Drop(&mask);
        let decode = |decoder: &dyn Decoder, encoder: &dyn Encoder, masking| {
            let encoded = encoder.encode(&pixels, masking, &want, &step)?;
            decoder.decode(&DecodeContext {
                encoded: &encoded,
                mask: &mask,
                batch: &batch,
                step: &step,
            })
        };
        let first = decode(part.as_ref(), &encoder, drop).unwrap();
        assert_eq!(
            (first.rows, first.values.dims()),
            (Rows::Masked, &[2, 2, 5][..])
        );
        let loss = first.values.sqr().unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        for (name, var) in store.trainable() {
            assert!(grads.get(&var).is_some(), "{name}");
        }
        let shared = root.shared();
        let regressor = LatentRegressor::new(&shared, &config(), mask.grid(), 8).unwrap();
        let decoder = LatentDecoder::new(&shared, &config(), &regressor, 5).unwrap();
        let regressed = Regressed::new(encoder.clone(), regressor);
        let second = decode(&decoder, &regressed, drop).unwrap();
        let values = |xs: &Tensor| -> Vec<f32> {
            let xs = xs.to_dtype(DType::F32).unwrap();
            xs.flatten_all().unwrap().to_vec1().unwrap()
        };
        assert_eq!(values(&first.values), values(&second.values));
        // Features come from the inner encoder.
        let whole = |encoder: &dyn Encoder| {
            let encoded = encoder.encode(&pixels, Masking::None, &want, &step);
            values(&encoded.unwrap().tokens)
        };
        assert_eq!(whole(&regressed), whole(&encoder));
        let error = decode(&decoder, &encoder, drop).unwrap_err().to_string();
        assert!(error.contains("encoders::Regressed"), "{error}");
        let other = Vit::new(&ParamStore::cpu(0).root(), &vit(true)).unwrap();
        let error = decode(part.as_ref(), &other, Masking::Replace(&mask)).unwrap_err();
        assert!(error.to_string().contains("MaskMode::Drop"), "{error}");
    }

    #[test]
    fn bad_settings_are_named() {
        type Wrong = (&'static str, fn(&mut LatentRegressorConfig));
        let wrong: [Wrong; 6] = [
            ("`num_heads` is 0", |c| c.num_heads = 0),
            ("`num_heads` is 13", |c| c.num_heads = 13),
            ("`depth` is 0", |c| c.depth = 0),
            ("`norm_eps` is 0", |c| c.norm_eps = 0.),
            ("`drop_path_rate` is 1", |c| c.drop_path_rate = 1.),
            ("`embed_dim` is 18", |c| c.embed_dim = 18),
        ];
        for (what, spoil) in wrong {
            let mut config = config();
            spoil(&mut config);
            let params = ParamStore::cpu(0).root();
            let built = LatentRegressor::new(&params, &config, PatchGrid::new(2, 2), 8);
            let error = built.unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
