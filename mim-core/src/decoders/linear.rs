//! One linear layer on the encoder's tokens.

use crate::nn::Linear;
use crate::params::Params;
use crate::{DecodeContext, Decoder, Prediction, Result, Rows, ops};

/// Predicts each hidden patch from its own token by one affine map (SimMIM, BEiT).
#[derive(Debug, Clone)]
pub struct LinearDecoder {
    pred: Linear,
}

impl LinearDecoder {
    /// Parameters `decoder_pred.weight` `[outputs, inputs]`, `decoder_pred.bias`.
    ///
    /// # Errors
    ///
    /// If a name is taken by another shape.
    pub fn new(params: &Params, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self {
            pred: Linear::new(&params.pp("decoder_pred"), inputs, outputs)?,
        })
    }
}

impl Decoder for LinearDecoder {
    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        let tokens = cx.encoded.patches()?;
        let grid = cx.encoded.grid;
        if cx.step.trace.is_some() {
            return Ok(Prediction {
                values: self.pred.forward(&tokens)?,
                rows: Rows::Patches,
                grid,
            });
        }
        let ids = cx.mask.flat(true, tokens.dim(0)?, tokens.device())?;
        let hidden = ops::gather_rows(&tokens.flatten(0, 1)?, &ids)?;
        Ok(Prediction {
            values: self.pred.forward(&hidden)?,
            rows: Rows::Masked,
            grid,
        })
    }
}
