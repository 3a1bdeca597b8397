//! The transformer block with rotary positions.

use candle_core::{D, Tensor};
use rand::seq::SliceRandom;

use super::{Linear, Mlp, Placed, RmsNorm, Rope};
use crate::params::Params;
use crate::{Error, Purpose, Result, StepContext, ops};

/// Settings of a [`RopeBlock`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeBlockConfig {
    /// Width of the tokens.
    pub dim: usize,
    /// Width of the context; `None` for self-attention.
    pub context_dim: Option<usize>,
    /// Attention heads; they divide `dim`.
    pub num_heads: usize,
    /// Width of the hidden layer as a multiple of `dim`.
    pub mlp_ratio: f64,
    /// Epsilon of both norms.
    pub norm_eps: f64,
    /// Share of the rows that each half of the block skips in training.
    pub drop_path: f64,
    /// Largest and smallest frequency of the positions, in turns.
    pub freqs: (f64, f64),
}

impl RopeBlockConfig {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] naming the setting of `component`.
    pub fn validate(&self, component: &'static str) -> Result<()> {
        let (field, value, why) =
            if self.num_heads == 0 || self.dim == 0 || !self.dim.is_multiple_of(self.num_heads) {
                let why = format!("embed_dim = {} must be a multiple of it", self.dim);
                ("num_heads", self.num_heads.to_string(), why)
            } else if self.mlp_ratio.is_nan() || self.dim as f64 * self.mlp_ratio < 1. {
                let why = "the hidden layer would be empty".to_owned();
                ("mlp_ratio", self.mlp_ratio.to_string(), why)
            } else if self.norm_eps.is_nan() || self.norm_eps <= 0. {
                let why = "it must be positive".to_owned();
                ("norm_eps", self.norm_eps.to_string(), why)
            } else if !(0. ..1.).contains(&self.drop_path) {
                let why = "it must be in [0, 1)".to_owned();
                ("drop_path_rate", self.drop_path.to_string(), why)
            } else {
                return Ok(());
            };
        let fix = format!("change {component}.{field}");
        Err(Error::config(component, field, value, why, fix))
    }
}

/// Attention with rotary positions and without biases.
#[derive(Debug, Clone)]
struct RopeAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    proj: Linear,
    rope: Rope,
    heads: usize,
}

impl RopeAttention {
    fn new(params: &Params, config: &RopeBlockConfig) -> Result<Self> {
        let RopeBlockConfig {
            dim,
            num_heads: heads,
            ..
        } = *config;
        let context = config.context_dim.unwrap_or(dim);
        let map = |name: &str, inputs: usize| Linear::no_bias(&params.pp(name), inputs, dim);
        Ok(Self {
            q: map("q_proj", dim)?,
            k: map("k_proj", context)?,
            v: map("v_proj", context)?,
            proj: map("proj", dim)?,
            rope: Rope::new(&params.pp("rope"), dim / heads, config.freqs)?,
            heads,
        })
    }

    fn forward(&self, xs: Placed<'_>, context: Placed<'_>) -> Result<Tensor> {
        let turned = |xs: Tensor, places: &Tensor| -> Result<Tensor> {
            let (rows, tokens, dim) = xs.dims3()?;
            let heads = xs.reshape((rows, tokens, self.heads, dim / self.heads))?;
            Ok(self
                .rope
                .forward(&heads, places)?
                .reshape((rows, tokens, dim))?)
        };
        let q = turned(self.q.forward(xs.tokens)?, xs.positions)?;
        let k = turned(self.k.forward(context.tokens)?, context.positions)?;
        let kv = Tensor::cat(&[&k, &self.v.forward(context.tokens)?], D::Minus1)?;
        let scale = ((q.dim(D::Minus1)? / self.heads) as f64).powf(-0.5);
        self.proj
            .forward(&ops::cross_attention(&q, &kv, self.heads, scale)?)
    }
}

/// `x += attn(norm1(x), context); x += mlp(norm2(x))` with rotary positions, RMS norms, and
/// no bias. The context is `norm1(x)` itself, or a given context, used without a norm.
///
/// Stochastic depth skips whole rows before the computation: of n rows, `max(floor(n (1 - rate)), 1)` random ones get
/// `n / kept` times the branch. CAPI (Darcet et al., TMLR 2025); facebookresearch/capi @ 98b4fa1.
#[derive(Debug, Clone)]
pub struct RopeBlock {
    norm1: RmsNorm,
    attn: RopeAttention,
    norm2: RmsNorm,
    mlp: Mlp,
    drop_path: f64,
    index: u32,
}

impl RopeBlock {
    /// Parameters `norm1`, `attn.{q_proj,k_proj,v_proj,proj}`, `attn.rope.freqs`, `norm2`, `mlp`. `index` is the
    /// block's number in its network.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, config: &RopeBlockConfig, index: u32) -> Result<Self> {
        let norm = |name: &str| RmsNorm::new(&params.pp(name), config.dim, config.norm_eps);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a layer's width"
        )]
        let hidden = (config.dim as f64 * config.mlp_ratio) as usize;
        Ok(Self {
            norm1: norm("norm1")?,
            attn: RopeAttention::new(&params.pp("attn"), config)?,
            norm2: norm("norm2")?,
            mlp: Mlp::no_bias(&params.pp("mlp"), config.dim, hidden)?,
            drop_path: config.drop_path,
            index,
        })
    }

    /// Maps tokens to the same shape; positions are coordinates `[rows, tokens, 2]`.
    ///
    /// # Errors
    ///
    /// If a shape does not fit.
    pub fn forward(
        &self,
        xs: Placed<'_>,
        context: Option<Placed<'_>>,
        step: &StepContext,
    ) -> Result<Tensor> {
        let rows = xs.tokens.dim(0)?;
        let kept = [0, 1].map(|half| self.kept(rows, half, step));
        self.forward_keeping(xs, context, [0, 1].map(|half| kept[half].as_deref()))
    }

    /// [`RopeBlock::forward`] that changes only the given rows in its first and second half; `None` for all rows.
    ///
    /// # Errors
    ///
    /// If a shape does not match, or a listed row does not exist.
    pub fn forward_keeping(
        &self,
        xs: Placed<'_>,
        context: Option<Placed<'_>>,
        kept: [Option<&[u32]>; 2],
    ) -> Result<Tensor> {
        let places = xs.positions;
        let tokens = residual(&[xs.tokens, places], context, kept[0], |own, context| {
            let normed = self.norm1.forward(&own[0])?;
            let own = Placed {
                tokens: &normed,
                positions: &own[1],
            };
            match context {
                [tokens, positions] => self.attn.forward(own, Placed { tokens, positions }),
                _ => self.attn.forward(own, own),
            }
        })?;
        residual(&[&tokens], None, kept[1], |own, _| {
            self.mlp.forward(&self.norm2.forward(&own[0])?)
        })
    }

    /// The rows that a half block changes in this step; `None` for all.
    fn kept(&self, rows: usize, half: u32, step: &StepContext) -> Option<Vec<u32>> {
        if self.drop_path == 0. || !step.training || !step.stochastic_depth {
            return None;
        }
        let mut order: Vec<u32> = (0u32..).take(rows).collect();
        order.shuffle(&mut step.rng(Purpose::DropPath, 2 * self.index + half));
        order.truncate(kept_rows(rows, self.drop_path));
        Some(order)
    }
}

/// Number of rows kept at this rate of stochastic depth.
fn kept_rows(rows: usize, rate: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of the rows"
    )]
    let kept = (rows as f64 * (1. - rate)) as usize;
    kept.max(1)
}

/// The first of `own`, plus the output of `branch` for the rows in `kept`; `branch` gets all of `own` and the context.
fn residual(
    own: &[&Tensor],
    context: Option<Placed<'_>>,
    kept: Option<&[u32]>,
    branch: impl Fn(&[Tensor], &[Tensor]) -> Result<Tensor>,
) -> Result<Tensor> {
    let context: Vec<&Tensor> = match context {
        Some(placed) => vec![placed.tokens, placed.positions],
        None => vec![],
    };
    let Some(kept) = kept else {
        let whole =
            |all: &[&Tensor]| -> Vec<Tensor> { all.iter().map(|xs| (*xs).clone()).collect() };
        return Ok((own[0] + branch(&whole(own), &whole(&context))?)?);
    };
    let (xs, rows) = (own[0], own[0].dim(0)?);
    if kept.is_empty() || kept.iter().any(|row| *row as usize >= rows) {
        return Err(Error::shape(
            "rows that stochastic depth keeps",
            format!("some of {rows}"),
            format!("{kept:?}"),
            "keep at least one",
        ));
    }
    let ids = ops::upload(kept.to_vec(), kept.len(), xs.device())?;
    let pick = |all: &[&Tensor]| -> Result<Vec<Tensor>> {
        let picked = all.iter().map(|xs| Ok(xs.index_select(&ids, 0)?));
        picked.collect()
    };
    let ys = (branch(&pick(own)?, &pick(&context)?)? * (rows as f64 / kept.len() as f64))?;
    // Skipped rows read a row of zeros after the last kept one.
    let mut places = vec![u32::try_from(kept.len()).unwrap_or(u32::MAX); rows];
    for (place, row) in (0u32..).zip(kept) {
        places[*row as usize] = place;
    }
    let places = ops::upload(places, rows, xs.device())?;
    let spread = ys.pad_with_zeros(0, 0, 1)?.index_select(&places, 0)?;
    Ok((xs + spread)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use crate::objectives::testing::noise;

    fn config(drop_path: f64) -> RopeBlockConfig {
        RopeBlockConfig {
            dim: 8,
            context_dim: None,
            num_heads: 2,
            mlp_ratio: 2.,
            norm_eps: 1e-5,
            drop_path,
            freqs: (7., 7e-4),
        }
    }

    #[test]
    fn whole_rows_are_skipped_and_gradients_arrive() {
        let store = ParamStore::cpu(1);
        let block = RopeBlock::new(&store.root(), &config(0.5), 0).unwrap();
        let (tokens, positions) = (noise(&[4, 3, 8], 1), noise(&[4, 3, 2], 2));
        let xs = Placed {
            tokens: &tokens,
            positions: &positions,
        };
        let ys = block
            .forward_keeping(xs, None, [Some(&[2]), Some(&[2])])
            .unwrap();
        let changed = |row: usize| -> f32 {
            let apart = (ys.get(row).unwrap() - tokens.get(row).unwrap()).unwrap();
            apart.abs().unwrap().sum_all().unwrap().to_scalar().unwrap()
        };
        assert_eq!([changed(0), changed(1), changed(3)], [0.; 3]);
        assert!(changed(2) > 0.1);
        let grads = ys.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        for (name, var) in store.trainable() {
            let grad = grads.get(&var).unwrap().abs().unwrap();
            assert!(
                grad.max_all().unwrap().to_scalar::<f32>().unwrap() > 1e-6,
                "{name}"
            );
        }
        assert_eq!((kept_rows(5, 0.3), kept_rows(4, 0.9)), (3, 1));
        let step = StepContext::new(0);
        assert_eq!(block.kept(4, 0, &step).unwrap().len(), 2);
        assert!(block.kept(4, 0, &StepContext::inference()).is_none());
        assert!(block.forward_keeping(xs, None, [Some(&[4]), None]).is_err());
    }

    #[test]
    fn bad_settings_are_named() {
        let wrong: [(&str, RopeBlockConfig); 4] = [
            (
                "`num_heads` is 3",
                RopeBlockConfig {
                    num_heads: 3,
                    ..config(0.)
                },
            ),
            ("`drop_path_rate` is 1", config(1.)),
            (
                "`norm_eps` is 0",
                RopeBlockConfig {
                    norm_eps: 0.,
                    ..config(0.)
                },
            ),
            (
                "`mlp_ratio` is 0",
                RopeBlockConfig {
                    mlp_ratio: 0.,
                    ..config(0.)
                },
            ),
        ];
        for (what, config) in wrong {
            let error = config.validate("encoder").unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
