//! One row per image, from the mean of its patch tokens.

use serde::{Deserialize, Serialize};

use super::{DecoderSettings, DecoderShape};
use crate::nn::Linear;
use crate::params::Params;
use crate::parts::Part;
use crate::{DecodeContext, Decoder, Error, Prediction, Result, Rows};

/// Settings of [`MeanMlp`]; `Default` is MimCo's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeanMlpConfig {
    /// Width between the two layers. Default 4096.
    pub hidden_dim: usize,
}

impl Default for MeanMlpConfig {
    fn default() -> Self {
        Self { hidden_dim: 4096 }
    }
}

impl Part for MeanMlpConfig {
    const ABOUT: &'static str =
        "one row per image, from the mean of its patch tokens, by two layers";
    const PAPER: &'static str = "MimCo: Zhou et al., ACM Multimedia 2022, arXiv 2209.03063";
    const SMALL: &'static str = "hidden_dim = 256";
}

impl DecoderSettings for MeanMlpConfig {
    fn build(&self, params: &Params, shape: DecoderShape) -> Result<Box<dyn Decoder>> {
        let (inputs, outputs) = (shape.inputs, shape.outputs);
        Ok(Box::new(MeanMlp::new(params, self, (inputs, outputs))?))
    }
}

/// Predicts `fc2(gelu(fc1(mean of the patch tokens)))` for each image. The mean is over the patches in the encoder's
/// output, without the class token.
#[derive(Debug, Clone)]
pub struct MeanMlp {
    fc1: Linear,
    fc2: Linear,
}

impl MeanMlp {
    /// Parameters `fc1`, `fc2`, for tokens of `inputs` values and rows of `outputs`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the hidden layer is empty.
    pub fn new(
        params: &Params,
        config: &MeanMlpConfig,
        (inputs, outputs): (usize, usize),
    ) -> Result<Self> {
        let hidden = config.hidden_dim;
        if hidden == 0 {
            let why = "the hidden layer would be empty";
            return Err(Error::config(
                "decoder",
                "hidden_dim",
                hidden,
                why,
                "use 4096",
            ));
        }
        Ok(Self {
            fc1: Linear::new(&params.pp("fc1"), inputs, hidden)?,
            fc2: Linear::new(&params.pp("fc2"), hidden, outputs)?,
        })
    }
}

impl Decoder for MeanMlp {
    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        let mean = cx.encoded.patches()?.mean(1)?;
        Ok(Prediction {
            values: self.fc2.forward(&self.fc1.forward_gelu(&mean)?)?,
            rows: Rows::Image,
            grid: cx.mask.grid(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::testing::{mask, noise};
    use crate::{Batch, Encoded, ParamStore, StepContext, View};
    use candle_core::{DType, Device, Tensor};

    #[test]
    fn gradients_arrive_and_the_class_token_is_ignored() {
        let store = ParamStore::cpu(0);
        let config = MeanMlpConfig { hidden_dim: 5 };
        let decoder = MeanMlp::new(&store.root(), &config, (4, 3)).unwrap();
        let pixels = Tensor::zeros((2, 3, 4, 6), DType::F32, &Device::Cpu).unwrap();
        let batch = Batch::single(View::new(pixels, vec![]).unwrap());
        let (mask, step) = (mask(), StepContext::new(0));
        let decode = |cls: u64| {
            let tokens = [noise(&[2, 1, 4], cls), noise(&[2, 6, 4], 3)];
            let encoded = Encoded {
                tokens: Tensor::cat(&tokens, 1).unwrap(),
                prefix: 1,
                layers: vec![],
                cls_attention: None,
                grid: mask.grid(),
            };
            let cx = DecodeContext {
                encoded: &encoded,
                mask: &mask,
                batch: &batch,
                step: &step,
            };
            decoder.decode(&cx).unwrap()
        };
        let made = decode(1);
        assert_eq!((made.rows, made.values.dims()), (Rows::Image, &[2, 3][..]));
        let values = |xs: &Tensor| xs.to_vec2::<f32>().unwrap();
        assert_eq!(values(&made.values), values(&decode(2).values));
        let loss = made.values.sqr().unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        for (name, var) in store.trainable() {
            let gradient = gradients.get(&var).unwrap().abs().unwrap();
            let sum: f32 = gradient.sum_all().unwrap().to_scalar().unwrap();
            assert!(sum > 0., "{name}");
        }
        let none = MeanMlpConfig { hidden_dim: 0 };
        assert!(MeanMlp::new(&ParamStore::cpu(0).root(), &none, (4, 3)).is_err());
    }
}
