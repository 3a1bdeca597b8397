//! Any of the decoders that need nothing but an encoder's output, as a setting.

use serde::{Deserialize, Serialize};

use super::{
    LightDecoder, LightDecoderConfig, LinearDecoder, MaeDecoder, MaeDecoderConfig, PromptDecoder,
    PromptOutput,
};
use crate::ops::PatchOrder;
use crate::params::Params;
use crate::{Decoder, PatchGrid, Result};

/// What a decoder of a [`DecoderConfig`] joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderShape {
    /// Width of the encoder's tokens.
    pub inputs: usize,
    /// Values of a predicted token.
    pub outputs: usize,
    /// The encoder's output grid.
    pub grid: PatchGrid,
    /// If the values of a token are cells (pixels, histograms): their order and their channels.
    pub cells: Option<(PatchOrder, usize)>,
}

/// A decoder by its `type`: `linear`, `mae`, `light` or `prompt`.
///
/// Under a mask finer than the encoder's output, `linear` and `light` split predictions of cells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum DecoderConfig {
    /// [`LinearDecoder`]: each hidden patch from its own token.
    Linear {},
    /// [`MaeDecoder`]: hidden patches from the visible ones, by self-attention.
    Mae(MaeDecoderConfig),
    /// [`LightDecoder`]: all patches from all tokens.
    Light(LightDecoderConfig),
    /// [`PromptDecoder`]: hidden patches from the visible ones, which stay as they are.
    Prompt(MaeDecoderConfig),
}

impl DecoderConfig {
    /// Checks the settings and builds the decoder under `params`.
    ///
    /// # Errors
    ///
    /// [`crate::Error::InvalidConfig`] if a setting does not hold.
    pub fn build(&self, params: &Params, shape: DecoderShape) -> Result<Box<dyn Decoder>> {
        let DecoderShape {
            inputs,
            outputs,
            grid,
            cells,
        } = shape;
        Ok(match self {
            Self::Linear {} => {
                let decoder = LinearDecoder::new(params, inputs, outputs)?;
                Box::new(match cells {
                    Some((order, channels)) => decoder.pixels(order, channels),
                    None => decoder,
                })
            }
            Self::Mae(config) => {
                Box::new(MaeDecoder::new(params, config, grid, (inputs, outputs))?)
            }
            Self::Light(config) => {
                let decoder = LightDecoder::new(params, config, inputs, outputs)?;
                Box::new(match cells {
                    Some((order, channels)) => decoder.cells(order, channels),
                    None => decoder,
                })
            }
            Self::Prompt(config) => Box::new(PromptDecoder::new(
                params,
                config,
                grid,
                (inputs, outputs),
                PromptOutput::Hidden,
            )?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;

    #[test]
    fn the_type_chooses_and_unknown_keys_are_refused() {
        let read = |text: &str| toml::from_str::<DecoderConfig>(text);
        let shape = DecoderShape {
            inputs: 8,
            outputs: 6,
            grid: PatchGrid::new(2, 2),
            cells: None,
        };
        let trained = |text: &str| {
            let store = ParamStore::cpu(0);
            read(text).unwrap().build(&store.root(), shape).unwrap();
            store.trainable().len()
        };
        let small = "embed_dim = 8\ndepth = 1\nnum_heads = 2";
        assert_eq!(trained("type = \"linear\""), 2);
        assert_eq!(
            trained(&format!("type = \"mae\"\n{small}")),
            2 + 1 + 12 + 2 + 2
        );
        assert_eq!(
            trained(&format!("type = \"light\"\n{small}")),
            2 + 12 + 2 + 2
        );
        assert_eq!(
            trained(&format!("type = \"prompt\"\n{small}")),
            2 + 1 + 14 + 2 + 2
        );
        for bad in [
            "type = \"linear\"\ndepth = 2",
            "type = \"none\"",
            "depth = 2",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
