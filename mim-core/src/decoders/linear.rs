//! One linear layer on the encoder's tokens.

use serde::{Deserialize, Serialize};

use super::{DecoderSettings, DecoderShape};
use crate::nn::Linear;
use crate::ops::PatchOrder;
use crate::params::Params;
use crate::parts::Part;
use crate::{DecodeContext, Decoder, Error, Prediction, Result, Rows, ops};

/// Settings of [`LinearDecoder`]; it has none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearDecoderConfig {}

impl Part for LinearDecoderConfig {
    const ABOUT: &'static str = "each hidden patch from its own token, by one linear layer";
    const PAPER: &'static str = "SimMIM: Xie et al., CVPR 2022, arXiv 2111.09886; BEiT: Bao et al., ICLR 2022, arXiv 2106.08254";
}

impl DecoderSettings for LinearDecoderConfig {
    fn build(&self, params: &Params, shape: DecoderShape) -> Result<Box<dyn Decoder>> {
        let decoder = LinearDecoder::new(params, shape.inputs, shape.outputs)?;
        Ok(Box::new(match shape.cells {
            Some((order, channels)) => decoder.pixels(order, channels),
            None => decoder,
        }))
    }
}

/// Predicts each hidden patch from its own token by one linear layer (SimMIM, BEiT).
#[derive(Debug, Clone)]
pub struct LinearDecoder {
    pred: Linear,
    pixels: Option<(PatchOrder, usize)>,
}

impl LinearDecoder {
    /// Parameters `decoder_pred.weight` `[outputs, inputs]`, `decoder_pred.bias`.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self {
            pred: Linear::new(&params.pp("decoder_pred"), inputs, outputs)?,
            pixels: None,
        })
    }

    /// Declares that the outputs are the pixels of a patch, in this order and with this many channels.
    ///
    /// Then, under a mask finer than the encoder's output, the prediction is split into the mask's cells.
    #[must_use]
    pub fn pixels(mut self, order: PatchOrder, channels: usize) -> Self {
        self.pixels = Some((order, channels));
        self
    }
}

impl Decoder for LinearDecoder {
    fn decode(&self, cx: &DecodeContext<'_>) -> Result<Prediction> {
        cx.needs_all("a linear decoder")?;
        let tokens = cx.encoded.patches()?;
        let (grid, finer) = (cx.encoded.grid, cx.mask.grid());
        if grid == finer && cx.step.trace.is_none() {
            let ids = cx.mask.flat(true, tokens.dim(0)?, tokens.device())?;
            let hidden = ops::gather_rows(&tokens.flatten(0, 1)?, &ids)?;
            return Ok(Prediction {
                values: self.pred.forward(&hidden)?,
                rows: Rows::Masked,
                grid,
            });
        }
        let whole = Prediction {
            values: self.pred.forward(&tokens)?,
            rows: Rows::Patches,
            grid,
        };
        match self.pixels {
            _ if grid == finer => Ok(whole),
            Some((order, channels)) => whole.regroup(finer, order, channels),
            None => Err(Error::unsupported(
                format!("a linear prediction on the grid {grid} under a mask on {finer}"),
                "only pixels can be split into finer cells",
                "draw masks on the encoder's grid, or call LinearDecoder::pixels",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, Encoded, Mask, ParamStore, PatchGrid, StepContext, View};
    use candle_core::{DType, Device, Tensor};

    #[test]
    fn predicts_hidden_tokens_or_the_cells_of_a_finer_mask() {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let encoded = Encoded {
            tokens: zeros(&[1, 2, 4]),
            prefix: 0,
            layers: vec![],
            cls_attention: None,
            grid: PatchGrid::new(1, 2),
        };
        let batch = Batch::single(View::new(zeros(&[1, 3, 2, 4]), vec![]).unwrap());
        let plain = LinearDecoder::new(&ParamStore::cpu(0).root(), 4, 12).unwrap();
        let pixels = plain.clone().pixels(PatchOrder::ChannelsThenPixels, 3);
        let decode = |decoder: &LinearDecoder, grid: PatchGrid| {
            let bits: Vec<u8> = (0..grid.len()).map(|id| u8::from(id == 1)).collect();
            decoder.decode(&DecodeContext {
                encoded: &encoded,
                mask: &Mask::from_bits(grid, &bits).unwrap(),
                batch: &batch,
                step: &StepContext::new(0),
            })
        };
        let hidden = decode(&plain, encoded.grid).unwrap();
        assert_eq!(
            (hidden.rows, hidden.values.dims()),
            (Rows::Masked, &[1, 12][..])
        );
        let finer = PatchGrid::new(2, 4);
        let cells = decode(&pixels, finer).unwrap();
        assert_eq!((cells.rows, cells.grid), (Rows::Patches, finer));
        assert_eq!(cells.values.dims(), [1, 8, 3]);
        let error = decode(&plain, finer).unwrap_err().to_string();
        assert!(error.contains("LinearDecoder::pixels"), "{error}");
    }
}
