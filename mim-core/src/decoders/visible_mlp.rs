//! DMJD's projection of visible tokens.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::nn::{LayerNorm, Linear};
use crate::params::Params;
use crate::{DecodeContext, Decoder, Error, Prediction, Result, Rows, ops};

/// Settings of [`VisibleMlp`]; `Default` is DMJD's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VisibleMlpConfig {
    /// Width of the hidden layers. Default 512.
    pub dim: usize,
    /// Epsilon of the norms. Default 1e-6.
    pub norm_eps: f64,
}

impl Default for VisibleMlpConfig {
    fn default() -> Self {
        Self {
            dim: 512,
            norm_eps: 1e-6,
        }
    }
}

/// Predicts each visible patch from its own token: three linear layers, each followed by a norm (the last
/// one without weights), with GELU between them, then the head.
///
/// DMJD (Ma et al., arXiv 2301.00230), section III-C; mx-mark/DMJD @ 881b21d, `models_dmjd.py`.
#[derive(Debug, Clone)]
pub struct VisibleMlp {
    layers: [Linear; 3],
    norms: [LayerNorm; 2],
    head: Linear,
    norm_eps: f64,
}

impl VisibleMlp {
    /// Parameters `proj_embed.{0,1,3,4,6}` and `predictor`; `inputs` is the encoder's width.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a setting is invalid.
    pub fn new(
        params: &Params,
        config: &VisibleMlpConfig,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self> {
        let VisibleMlpConfig { dim, norm_eps } = *config;
        if dim == 0 || norm_eps.is_nan() || norm_eps <= 0. {
            return Err(Error::config(
                "visible decoder",
                "dim, norm_eps",
                format!("{dim}, {norm_eps}"),
                "both must be positive",
                "use 512 and 1e-6",
            ));
        }
        let part = |index: usize| params.pp("proj_embed").pp(index);
        Ok(Self {
            layers: [
                Linear::new(&part(0), inputs, dim)?,
                Linear::new(&part(3), dim, dim)?,
                Linear::new(&part(6), dim, dim)?,
            ],
            norms: [
                LayerNorm::new(&part(1), dim, norm_eps)?,
                LayerNorm::new(&part(4), dim, norm_eps)?,
            ],
            head: Linear::new(&params.pp("predictor"), dim, outputs)?,
            norm_eps,
        })
    }

    fn predict(&self, xs: &Tensor) -> Result<Tensor> {
        let mut xs = xs.clone();
        let [first, second, third] = &self.layers;
        for (layer, norm) in [first, second].into_iter().zip(&self.norms) {
            xs = ops::gelu(&norm.forward(&layer.forward(&xs)?)?)?;
        }
        let xs = ops::normalize(&third.forward(&xs)?, self.norm_eps)?;
        self.head.forward(&xs)
    }
}

impl Decoder for VisibleMlp {
    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        let visible = cx.encoded.patches()?;
        cx.needs_visible("a decoder of visible patches")?;
        Ok(Prediction {
            values: self.predict(&visible)?,
            rows: Rows::Visible,
            grid: cx.mask.grid(),
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::objectives::testing::noise;
    use crate::{Batch, Encoded, Mask, ParamStore, PatchGrid, StepContext, View};

    fn decode(tokens: &Tensor, mask: &Mask) -> Result<Prediction> {
        let config = VisibleMlpConfig {
            dim: 6,
            ..VisibleMlpConfig::default()
        };
        let decoder = VisibleMlp::new(&ParamStore::cpu(3).root(), &config, 4, 5)?;
        let encoded = Encoded {
            tokens: tokens.clone(),
            prefix: 0,
            layers: vec![],
            cls_attention: None,
            grid: mask.grid(),
        };
        let pixels = Tensor::zeros((1, 3, 2, 2), candle_core::DType::F32, &Device::Cpu)?;
        decoder.decode(&DecodeContext {
            encoded: &encoded,
            mask,
            batch: &Batch::single(View::new(pixels, vec![])?),
            step: &StepContext::new(0),
        })
    }

    #[test]
    fn each_row_depends_only_on_its_token() {
        let mask = Mask::new(PatchGrid::new(2, 2), vec![3, 0, 1, 2], vec![3]).unwrap();
        let tokens = noise(&[1, 3, 4], 1);
        let whole = decode(&tokens, &mask).unwrap();
        assert_eq!(
            (whole.rows, whole.values.dims()),
            (Rows::Visible, &[1, 3, 5][..])
        );
        let swapped = tokens.index_select(&Tensor::new(&[2u32, 1, 0], &Device::Cpu).unwrap(), 1);
        let swapped = decode(&swapped.unwrap(), &mask).unwrap().values;
        let rows = |xs: &Tensor| xs.squeeze(0).unwrap().to_vec2::<f32>().unwrap();
        let (whole, swapped) = (rows(&whole.values), rows(&swapped));
        assert_eq!(whole[0], swapped[2]);
        assert_eq!(whole[1], swapped[1]);
        assert_ne!(whole[0], whole[1]);
    }

    #[test]
    fn refuses_full_views_and_empty_layers() {
        let mask = Mask::new(PatchGrid::new(2, 2), vec![3, 0, 1, 2], vec![3]).unwrap();
        let error = decode(&noise(&[1, 4, 4], 1), &mask).unwrap_err();
        assert!(error.to_string().contains("MaskMode::Drop"), "{error}");
        for (dim, norm_eps) in [(0, 1e-6), (8, 0.)] {
            let config = VisibleMlpConfig { dim, norm_eps };
            assert!(VisibleMlp::new(&ParamStore::cpu(0).root(), &config, 4, 5).is_err());
        }
    }
}
