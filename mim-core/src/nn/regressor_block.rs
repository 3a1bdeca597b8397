//! The block that updates tokens from a fixed context.

use candle_core::Tensor;

use super::{CrossAttention, DropPath, LayerNorm, Mlp};
use crate::params::Params;
use crate::{Result, StepContext};

/// Settings of a [`RegressorBlock`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RegressorBlockConfig {
    /// Width of tokens and context.
    pub dim: usize,
    /// Attention heads, each `dim / num_heads` wide, rounded down.
    pub num_heads: usize,
    /// Width of the hidden layer as a multiple of `dim`.
    pub mlp_ratio: f64,
    /// Epsilon of all norms.
    pub norm_eps: f64,
    /// Initial layer scale.
    pub layer_scale_init: f64,
    /// Stochastic depth rate.
    pub drop_path: f64,
}

/// Tokens and their positions, both `[rows, tokens, dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'a> {
    /// The tokens.
    pub tokens: &'a Tensor,
    /// Their positions.
    pub positions: &'a Tensor,
}

/// `x += g1 * attn(norm1_q(x + p), norm1_k(c + pc), norm1_v(c)); x = norm2(x); x += g2 * mlp(x)` with a context `c`,
/// positions `p`, `pc` and layer scale `g`: the output of the second norm replaces the tokens.
///
/// CAE (Chen et al., IJCV 2023), Atten4Vis/CAE @ a7fd162, `models/modeling_cae_helper.py`.
#[derive(Debug, Clone)]
pub struct RegressorBlock {
    query: LayerNorm,
    key: LayerNorm,
    value: LayerNorm,
    attn: CrossAttention,
    norm2: LayerNorm,
    mlp: Mlp,
    gamma: [Tensor; 2],
    drop_path: [DropPath; 2],
}

impl RegressorBlock {
    /// Parameters `norm1_q`, `norm1_k`, `norm1_v`, `attn`, `norm2`, `mlp`, `gamma_1`, `gamma_2`.
    ///
    /// `index` is the block's number in its network.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, config: &RegressorBlockConfig, index: u32) -> Result<Self> {
        let RegressorBlockConfig { dim, norm_eps, .. } = *config;
        let norm = |name: &str| LayerNorm::new(&params.pp(name), dim, norm_eps);
        let gamma = |name: &str| params.filled(&[dim], name, config.layer_scale_init);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a layer's width"
        )]
        let hidden = (dim as f64 * config.mlp_ratio) as usize;
        Ok(Self {
            query: norm("norm1_q")?,
            key: norm("norm1_k")?,
            value: norm("norm1_v")?,
            attn: CrossAttention::apart(&params.pp("attn"), (dim, dim), config.num_heads)?,
            norm2: norm("norm2")?,
            mlp: Mlp::new(&params.pp("mlp"), dim, hidden)?,
            gamma: [gamma("gamma_1")?, gamma("gamma_2")?],
            drop_path: [0, 1].map(|branch| DropPath::new(config.drop_path, 2 * index + branch)),
        })
    }

    /// Maps tokens to the same shape.
    ///
    /// # Errors
    ///
    /// If a shape does not fit.
    pub fn forward(
        &self,
        xs: Placed<'_>,
        context: Placed<'_>,
        step: &StepContext,
    ) -> Result<Tensor> {
        let query = self.query.forward(&(xs.tokens + xs.positions)?)?;
        let keys = self.key.forward(&(context.tokens + context.positions)?)?;
        let values = self.value.forward(context.tokens)?;
        let branch = self.attn.forward_apart(&query, &keys, &values)?;
        let branch = branch.broadcast_mul(&self.gamma[0])?;
        let xs = (xs.tokens + self.drop_path[0].forward(branch, step)?)?;
        let xs = self.norm2.forward(&xs)?;
        let branch = self.mlp.forward(&xs)?.broadcast_mul(&self.gamma[1])?;
        Ok((&xs + self.drop_path[1].forward(branch, step)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use crate::objectives::testing::noise;

    #[test]
    fn the_second_norm_replaces_the_tokens_and_gradients_arrive() {
        let store = ParamStore::cpu(3);
        let config = RegressorBlockConfig {
            dim: 8,
            num_heads: 2,
            mlp_ratio: 2.,
            norm_eps: 1e-6,
            layer_scale_init: 0.,
            drop_path: 0.,
        };
        let block = RegressorBlock::new(&store.root(), &config, 0).unwrap();
        let (tokens, context) = (noise(&[2, 3, 8], 1), noise(&[2, 5, 8], 2));
        let (here, there) = (noise(&[2, 3, 8], 3), noise(&[2, 5, 8], 4));
        let step = StepContext::new(0);
        let forward = || {
            let xs = Placed {
                tokens: &tokens,
                positions: &here,
            };
            let context = Placed {
                tokens: &context,
                positions: &there,
            };
            block.forward(xs, context, &step).unwrap()
        };
        // Without its branches, the block is its second norm.
        let values = |ys: &Tensor| ys.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let normal = crate::ops::normalize(&tokens, 1e-6).unwrap();
        let apart = values(&(forward() - normal).unwrap());
        assert!(apart.iter().all(|v| v.abs() < 1e-5));
        for name in ["gamma_1", "gamma_2"] {
            let var = store.var(name).unwrap();
            var.set(&(var.as_tensor() + 0.5).unwrap()).unwrap();
        }
        let grads = forward()
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        for (name, var) in store.vars() {
            let grad = values(grads.get(&var).unwrap());
            let largest = grad.iter().fold(0f32, |most, v| most.max(v.abs()));
            // Softmax ignores a constant added to all keys.
            assert!(largest > 1e-6 || name == "norm1_k.bias", "{name}");
        }
    }
}
