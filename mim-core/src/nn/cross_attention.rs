//! Multi-head cross-attention.

use candle_core::{D, DType, Tensor};

use super::{Linear, QkvBias};
use crate::params::Params;
use crate::{Result, ops};

/// Cross-attention from tokens to a context (Vaswani et al., 2017), scaled by `head_dim^-0.5`.
#[derive(Debug, Clone)]
pub struct CrossAttention {
    q: Tensor,
    kv: Kv,
    bias: Bias,
    proj: Linear,
    heads: usize,
}

/// The layers for keys and values.
#[derive(Debug, Clone)]
enum Kv {
    Packed(Tensor),
    Apart { k: Tensor, v: Tensor },
}

#[derive(Debug, Clone)]
enum Bias {
    Full { q: Tensor, kv: Tensor },
    QV { q: Tensor, v: Tensor },
    None,
}

impl CrossAttention {
    /// Parameters `q.weight`, `kv.weight`, `proj` and, by `bias`, `q.bias`, `kv.bias` or `q_bias`,
    /// `v_bias`, for tokens of `dim` values and a context of `context_dim`.
    ///
    /// Heads are `dim / heads` wide, rounded down.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(
        params: &Params,
        (dim, context_dim): (usize, usize),
        heads: usize,
        bias: QkvBias,
    ) -> Result<Self> {
        let inner = dim / heads * heads;
        let bias = match bias {
            QkvBias::Full => Bias::Full {
                q: params.pp("q").weight(&[inner], "bias")?,
                kv: params.pp("kv").weight(&[2 * inner], "bias")?,
            },
            QkvBias::QV => Bias::qv(params, inner)?,
            QkvBias::None => Bias::None,
        };
        let kv = params
            .pp("kv")
            .weight(&[2 * inner, context_dim], "weight")?;
        Ok(Self {
            bias,
            q: params.pp("q").weight(&[inner, dim], "weight")?,
            kv: Kv::Packed(kv),
            proj: Linear::new(&params.pp("proj"), inner, dim)?,
            heads,
        })
    }

    /// As [`CrossAttention::new`], with parameters `k.weight` and `v.weight` in place of `kv.weight`, and biases
    /// `q_bias` and `v_bias` of query and value (CAE).
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn apart(
        params: &Params,
        (dim, context_dim): (usize, usize),
        heads: usize,
    ) -> Result<Self> {
        let inner = dim / heads * heads;
        let weight = |name: &str, inputs: usize| params.pp(name).weight(&[inner, inputs], "weight");
        Ok(Self {
            q: weight("q", dim)?,
            kv: Kv::Apart {
                k: weight("k", context_dim)?,
                v: weight("v", context_dim)?,
            },
            bias: Bias::qv(params, inner)?,
            proj: Linear::new(&params.pp("proj"), inner, dim)?,
            heads,
        })
    }

    /// Attends from `[rows, tokens, dim]` to `[rows, others, context_dim]`; returns `[rows, tokens, dim]`.
    ///
    /// # Errors
    ///
    /// If a shape does not fit.
    pub fn forward(&self, xs: &Tensor, context: &Tensor) -> Result<Tensor> {
        let Kv::Packed(weight) = &self.kv else {
            return self.forward_apart(xs, context, context);
        };
        let kv_bias = match &self.bias {
            Bias::Full { kv, .. } => Some(kv.clone()),
            Bias::QV { v, .. } => {
                let zero = Tensor::zeros(v.dims(), DType::F32, v.device())?;
                Some(Tensor::cat(&[&zero, v], 0)?)
            }
            Bias::None => None,
        };
        self.attend(xs, &ops::linear(context, weight, kv_bias.as_ref())?)
    }

    /// [`CrossAttention::forward`] with keys computed from `keys` and values from `values`, both
    /// `[rows, others, context_dim]`.
    ///
    /// # Errors
    ///
    /// If a shape does not fit.
    pub fn forward_apart(&self, xs: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
        let halves = |packed: &Tensor| -> Result<(Tensor, Tensor)> {
            let inner = packed.dim(0)? / 2;
            Ok((packed.narrow(0, 0, inner)?, packed.narrow(0, inner, inner)?))
        };
        let (k, v) = match &self.kv {
            Kv::Packed(kv) => halves(kv)?,
            Kv::Apart { k, v } => (k.clone(), v.clone()),
        };
        let (k_bias, v_bias) = match &self.bias {
            Bias::Full { kv, .. } => {
                let (k, v) = halves(kv)?;
                (Some(k), Some(v))
            }
            Bias::QV { v, .. } => (None, Some(v.clone())),
            Bias::None => (None, None),
        };
        let keys = ops::linear(keys, &k, k_bias.as_ref())?;
        let values = ops::linear(values, &v, v_bias.as_ref())?;
        self.attend(xs, &Tensor::cat(&[keys, values], D::Minus1)?)
    }

    /// Attends to packed keys and values.
    fn attend(&self, xs: &Tensor, kv: &Tensor) -> Result<Tensor> {
        let bias = match &self.bias {
            Bias::Full { q, .. } | Bias::QV { q, .. } => Some(q),
            Bias::None => None,
        };
        let q = ops::linear(xs, &self.q, bias)?;
        let scale = ((q.dim(D::Minus1)? / self.heads) as f64).powf(-0.5);
        self.proj
            .forward(&ops::cross_attention(&q, kv, self.heads, scale)?)
    }
}

impl Bias {
    fn qv(params: &Params, inner: usize) -> Result<Self> {
        Ok(Self::QV {
            q: params.weight(&[inner], "q_bias")?,
            v: params.weight(&[inner], "v_bias")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use crate::objectives::testing::noise;

    #[test]
    fn separate_keys_and_values_match_the_packed_ones() {
        for bias in [QkvBias::Full, QkvBias::QV, QkvBias::None] {
            let store = ParamStore::cpu(1);
            let attention = CrossAttention::new(&store.root(), (8, 6), 2, bias).unwrap();
            for (_, var) in store.vars() {
                var.set(&noise(var.dims(), 3)).unwrap();
            }
            let (xs, context) = (noise(&[2, 3, 8], 1), noise(&[2, 5, 6], 2));
            let values = |ys: Tensor| ys.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let packed = values(attention.forward(&xs, &context).unwrap());
            let apart = values(attention.forward_apart(&xs, &context, &context).unwrap());
            let pairs = packed.iter().zip(&apart);
            assert!(pairs.fold(0f32, |most, (a, b)| most.max((a - b).abs())) < 1e-5);
        }
    }
}
