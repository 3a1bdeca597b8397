//! One row per image: a pooled MAE decoder with two heads.

use crate::nn::ProjectionHead;
use crate::{DecodeContext, Decoder, Prediction, Result, Rows};

use super::MaeDecoder;

/// Predicts one row per image: `predictor(projector(mean over all patches of decoder))`.
///
/// The mean covers visible and hidden patches, but not the class token. Traces `tokens`
/// `[rows, tokens, outputs]`, the decoder's output in image order, and `projection` `[rows, C]`.
/// CMAE's feature branch (Huang et al., TPAMI 2023, section 3.2).
#[derive(Debug, Clone)]
pub struct PooledDecoder {
    decoder: MaeDecoder,
    projector: ProjectionHead,
    predictor: ProjectionHead,
}

impl PooledDecoder {
    /// Joins a decoder and its heads; the projector takes the decoder's output.
    pub fn new(decoder: MaeDecoder, projector: ProjectionHead, predictor: ProjectionHead) -> Self {
        Self {
            decoder,
            projector,
            predictor,
        }
    }
}

impl Decoder for PooledDecoder {
    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        let tokens = self.decoder.tokens(cx)?;
        cx.step
            .trace("tokens", || self.decoder.image(&tokens, cx))?;
        // The last layer is linear, so its output for the mean is the mean of its outputs.
        let mean = self.decoder.patches(&tokens, cx)?.mean(1)?;
        let pooled = self.decoder.output(&mean)?;
        let projection = self.projector.forward(&pooled, cx.step)?;
        cx.step.trace("projection", || Ok(projection.clone()))?;
        Ok(Prediction {
            values: self.predictor.forward(&projection, cx.step)?,
            rows: Rows::Image,
            grid: cx.mask.grid(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use candle_core::{Device, Tensor};

    use super::*;
    use crate::decoders::{DecoderShape, MaeDecoderConfig};
    use crate::nn::ProjectionHeadConfig;
    use crate::objectives::testing::noise;
    use crate::{Batch, Encoded, Mask, ParamStore, PatchGrid, StepContext, TraceSink, View};

    const GRID: PatchGrid = PatchGrid { rows: 2, cols: 2 };

    fn decoder() -> (ParamStore, PooledDecoder) {
        let store = ParamStore::cpu(0);
        let config = MaeDecoderConfig {
            embed_dim: 8,
            depth: 1,
            num_heads: 2,
            ..MaeDecoderConfig::default()
        };
        let root = store.root();
        let decoder =
            MaeDecoder::new(&root.pp("feature"), &config, DecoderShape::new(GRID, 4, 6)).unwrap();
        let head = ProjectionHeadConfig {
            hidden_dim: 5,
            out_dim: 3,
            ..ProjectionHeadConfig::default()
        };
        let projector = head.build(&root.pp("projector"), 6).unwrap();
        let predictor = head.build(&root.pp("predictor"), 3).unwrap();
        (store, PooledDecoder::new(decoder, projector, predictor))
    }

    #[derive(Default)]
    struct Tokens(Mutex<Option<Tensor>>);

    impl TraceSink for Tokens {
        fn record(&self, name: &str, value: &Tensor) -> Result<()> {
            if name == "tokens" {
                *self.0.lock().unwrap() = Some(value.clone());
            }
            Ok(())
        }
    }

    /// Class token and two visible patches of three images.
    fn decode(decoder: &PooledDecoder, mask: &Mask, tokens: &Tensor, step: &StepContext) -> Tensor {
        let encoded = Encoded {
            tokens: tokens.clone(),
            prefix: 1,
            layers: vec![],
            cls_attention: None,
            grid: GRID,
        };
        let pixels = Tensor::zeros((3, 3, 2, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        let batch = Batch::single(View::new(pixels, vec![]).unwrap());
        let cx = DecodeContext {
            encoded: &encoded,
            mask,
            batch: &batch,
            step,
        };
        let prediction = decoder.decode(&cx).unwrap();
        assert_eq!(prediction.rows, Rows::Image);
        prediction.values
    }

    #[test]
    fn the_row_is_the_mean_of_all_patches_with_and_without_trace() {
        let (store, decoder) = decoder();
        let order = vec![3, 0, 1, 2, 0, 1, 2, 3, 2, 1, 0, 3];
        let mask = Mask::new(GRID, order, vec![2; 3]).unwrap();
        let tokens = noise(&[3, 3, 4], 1);
        let sink = Arc::new(Tokens::default());
        let traced = StepContext {
            trace: Some(sink.clone()),
            ..StepContext::new(0)
        };
        let (step, flat) = (StepContext::new(0), |xs: &Tensor| {
            xs.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        });
        let row = decode(&decoder, &mask, &tokens, &traced);
        assert_eq!(flat(&row), flat(&decode(&decoder, &mask, &tokens, &step)));
        let seen = sink.0.lock().unwrap().clone().unwrap();
        assert_eq!(seen.dims(), [3, 4, 6]);
        let projection = decoder.projector.forward(&seen.mean(1).unwrap(), &step);
        let again = decoder.predictor.forward(&projection.unwrap(), &step);
        for (a, b) in flat(&row).iter().zip(flat(&again.unwrap())) {
            assert!((a - b).abs() < 1e-4, "{a} against {b}");
        }
        let gradients = row.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        for (name, var) in store.trainable() {
            assert!(gradients.get(&var).is_some(), "{name}");
        }
    }
}
