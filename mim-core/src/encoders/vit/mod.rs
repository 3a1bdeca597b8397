//! The plain vision transformer, with all variants that the methods use.

mod clip;
mod config;
mod of_weights;
mod rules;

use candle_core::Tensor;

pub use config::{RelPosBiasKind, VitConfig};

use super::check;
use crate::nn::{
    Block, LayerNorm, Linear, MaskToken, PatchEmbed, PosEmbed, RelPosBias, causal_bias,
};
use crate::params::Params;
use crate::{EncodeOptions, Encoded, Encoder, Error, Masking, PatchGrid, Result, StepContext};

/// A vision transformer with one class token, several or none (Dosovitskiy et al., 2021), with the parameter names of
/// timm and MAE.
#[derive(Debug, Clone)]
pub struct Vit {
    config: VitConfig,
    patch_embed: PatchEmbed,
    cls_token: Option<Tensor>,
    mask_token: Option<MaskToken>,
    pos_embed: Option<PosEmbed>,
    shared_bias: Option<RelPosBias>,
    blocks: Vec<(Block, Option<RelPosBias>)>,
    norm_pre: Option<LayerNorm>,
    norm: Option<LayerNorm>,
    proj: Option<Linear>,
}

/// Output of the blocks: the last tokens, those of requested blocks, and the attention of the class token.
type Blocks = (Tensor, Vec<(usize, Tensor)>, Option<Tensor>);

impl Vit {
    /// Builds the network under `params`: `cls_token`, `pos_embed`, `patch_embed`, `blocks.N`, `norm`
    /// and, depending on the settings, `mask_token`, `norm_pre`, `proj`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(params: &Params, config: &VitConfig) -> Result<Self> {
        config.validate()?;
        let VitConfig {
            embed_dim: dim,
            num_heads,
            ..
        } = *config;
        let grid = config.grid()?;
        let bias = |params: Params, wanted: bool| match wanted {
            true => RelPosBias::new(&params, grid, num_heads).map(Some),
            false => Ok(None),
        };
        let block = |index: usize| {
            let params = params.pp("blocks").pp(index);
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            Ok((
                Block::new(&params, &config.block(index), number)?
                    .activation(config.activation)
                    .attn_drop(config.attn_drop_rate),
                bias(params.pp("attn"), config.rel_pos_bias.is_per_block())?,
            ))
        };
        let norm = |wanted: bool, name: &str| {
            wanted
                .then(|| LayerNorm::new(&params.pp(name), dim, config.norm_eps))
                .transpose()
        };
        let patches = (config.patch_size, config.in_channels);
        let classes = config.num_class_tokens;
        let rows = (grid, classes);
        let pos_embed = PosEmbed::new(params, "pos_embed", config.pos_embed, dim, rows)?;
        Ok(Self {
            cls_token: match classes {
                0 => None,
                _ => Some(params.weight(&[1, classes, dim], "cls_token")?),
            },
            mask_token: config
                .mask_token
                .then(|| MaskToken::new(params, dim))
                .transpose()?,
            pos_embed: match (config.resize_positions, config.any_size) {
                (true, _) => pos_embed.map(PosEmbed::resized),
                (false, true) => pos_embed.map(PosEmbed::for_any_grid),
                (false, false) => pos_embed,
            },
            patch_embed: match config.patch_bias {
                true => PatchEmbed::new(&params.pp("patch_embed"), patches.0, patches.1, dim)?,
                false => PatchEmbed::no_bias(&params.pp("patch_embed"), patches.0, patches.1, dim)?,
            },
            shared_bias: bias(params.pp("rel_pos_bias"), config.rel_pos_bias.is_shared())?,
            blocks: (0..config.depth).map(block).collect::<Result<_>>()?,
            norm_pre: norm(config.norm_pre, "norm_pre")?,
            norm: norm(config.final_norm, "norm")?,
            proj: config
                .projection_dim
                .map(|outputs| Linear::no_bias(&params.pp("proj"), dim, outputs))
                .transpose()?,
            config: config.clone(),
        })
    }

    /// Limits the network to its first `depth` blocks, possibly none.
    #[must_use]
    pub fn truncated(mut self, depth: usize) -> Self {
        self.blocks.truncate(depth);
        self
    }

    /// The settings that this was built from.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Patch tokens with positions, `[rows, tokens, dim]`: all, or only the visible ones.
    fn embed(&self, image: &Tensor, masking: Masking<'_>, grid: PatchGrid) -> Result<Tensor> {
        match masking {
            Masking::Drop(mask) => {
                let tokens = self.patch_embed.forward_visible(image, mask)?;
                match &self.pos_embed {
                    Some(table) => {
                        Ok((tokens + table.select(mask, &mask.ids_keep(image.device())?)?)?)
                    }
                    None => Ok(tokens),
                }
            }
            Masking::None | Masking::Replace(_) | Masking::Causal(_) => {
                let mut tokens = self.patch_embed.forward(image)?;
                if let Masking::Replace(mask) = masking {
                    let token = MaskToken::required(self.mask_token.as_ref())?;
                    tokens = token.replace(&tokens, mask)?;
                }
                match &self.pos_embed {
                    Some(table) => Ok(tokens.broadcast_add(&table.patches(grid)?)?),
                    None => Ok(tokens),
                }
            }
        }
    }

    /// Prepends the class tokens with their positions, if they are used.
    fn with_class_token(&self, patches: Tensor) -> Result<Tensor> {
        let (Some(token), true) = (&self.cls_token, self.config.class_token) else {
            return Ok(patches);
        };
        let cls = match &self.pos_embed {
            Some(table) => (token + table.prefix()?)?,
            None => token.clone(),
        };
        let (rows, dim) = (patches.dim(0)?, self.config.embed_dim);
        let cls = cls.broadcast_as((rows, self.config.prefix(), dim))?;
        Ok(Tensor::cat(&[&cls, &patches], 1)?)
    }

    /// Runs the blocks: the last tokens, those after the requested blocks, and the attention of the class token.
    /// `order` is added to the attention logits of all blocks.
    fn blocks(
        &self,
        mut xs: Tensor,
        order: Option<Tensor>,
        want: &EncodeOptions,
        step: &StepContext,
    ) -> Result<Blocks> {
        let bias = |bias: &RelPosBias| bias.forward(xs.device());
        let shared = match (self.shared_bias.as_ref().map(bias).transpose()?, order) {
            (Some(shared), Some(order)) => Some(order.broadcast_add(&shared)?),
            (shared, order) => order.or(shared),
        };
        let mut layers = Vec::with_capacity(want.layers.len());
        if want.layers.contains(&EncodeOptions::INPUT) {
            layers.push((EncodeOptions::INPUT, xs.clone()));
        }
        let mut cls_attention = None;
        for (index, (block, own)) in self.blocks.iter().enumerate() {
            let own = own.as_ref().map(|bias| bias.forward(xs.device()));
            let both = match (own.transpose()?, &shared) {
                (Some(own), Some(shared)) => Some(shared.broadcast_add(&own)?),
                (Some(own), None) => Some(own),
                (None, shared) => shared.clone(),
            };
            let bias = both.as_ref();
            if index + 1 == self.blocks.len() {
                step.trace("attention", || {
                    block.attention_weights(&xs, bias, xs.dim(1)?, step)
                })?;
                if want.cls_attention {
                    self.check_class_token()?;
                    let attention = block.attention_weights(&xs, bias, 1, step)?.squeeze(2)?;
                    let prefix = self.config.prefix();
                    cls_attention =
                        Some(attention.narrow(2, prefix, attention.dim(2)? - prefix)?);
                }
            }
            xs = block.forward(&xs, bias, step)?;
            if step.trace.is_some() {
                step.trace(&format!("block{index}"), || Ok(xs.clone()))?;
            }
            if want.layers.contains(&index) {
                layers.push((index, xs.clone()));
            }
        }
        Ok((xs, layers, cls_attention))
    }

    fn check_class_token(&self) -> Result<()> {
        if self.config.prefix() > 0 {
            return Ok(());
        }
        Err(Error::unsupported(
            "class-token attention",
            "this encoder has no class token",
            "set encoder.class_token = true and encoder.num_class_tokens = 1",
        ))
    }

    fn check(&self, image: &Tensor, masking: Masking<'_>) -> Result<PatchGrid> {
        let size = check::image_size(image, self.config.in_channels)?;
        let grid = self.grid(size)?;
        check::mask_on(grid, masking)?;
        if self.config.rel_pos_bias != RelPosBiasKind::None {
            if matches!(masking, Masking::Drop(_)) {
                return Err(Error::unsupported(
                    "dropping patches with a relative position bias",
                    "the bias is defined on the full grid",
                    "use rel_pos_bias = \"none\", or replace hidden patches",
                ));
            }
            if grid != self.config.grid()? {
                let (own, fix) = (
                    self.config.grid()?,
                    "give images of the configured image_size",
                );
                return Err(Error::shape(
                    "relative position bias",
                    format!("{own}"),
                    format!("{grid}"),
                    fix,
                ));
            }
        }
        Ok(grid)
    }
}

impl Encoder for Vit {
    fn dim(&self) -> usize {
        self.config.output_dim()
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
        let grid = self.check(image, masking)?;
        step.trace("patch_embed", || self.patch_embed.forward(image))?;
        let mut xs = self.with_class_token(self.embed(image, masking, grid)?)?;
        if let Some(norm) = &self.norm_pre {
            xs = norm.forward(&xs)?;
            step.trace("norm_pre", || Ok(xs.clone()))?;
        }
        let order = match masking {
            Masking::Causal(mask) => {
                // Repeat the image for its masks.
                xs = Tensor::cat(&vec![&xs; mask.copies(image.dim(0)?)?], 0)?;
                let prefix = usize::from(self.config.class_token);
                Some(causal_bias(mask, prefix, true, image.device())?)
            }
            _ => None,
        };
        let (xs, layers, cls_attention) = self.blocks(xs, order, want, step)?;
        let tokens = match (&self.norm, &self.proj) {
            (Some(norm), Some(proj)) if !want.skip_norm => proj.forward(&norm.forward(&xs)?)?,
            (Some(norm), None) if !want.skip_norm => norm.forward(&xs)?,
            _ => xs,
        };
        step.trace("latent", || Ok(tokens.clone()))?;
        Ok(Encoded {
            tokens,
            prefix: self.config.prefix(),
            layers,
            cls_attention,
            grid,
        })
    }
}
