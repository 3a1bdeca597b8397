//! The settings trait of decoders.

use crate::ops::PatchOrder;
use crate::params::Params;
use crate::parts::Settings;
use crate::{Decoder, PatchGrid, Result};

/// Input and output sizes of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderShape {
    /// Width of the encoder's tokens.
    pub inputs: usize,
    /// Number of values per predicted token.
    pub outputs: usize,
    /// The encoder's output grid.
    pub grid: PatchGrid,
    /// If the values of a token are cells (pixels, histograms): their order and number of channels.
    pub cells: Option<(PatchOrder, usize)>,
}

impl DecoderShape {
    /// A decoder of tokens of `inputs` values on `grid`, with `outputs` values per token that are not cells.
    pub fn new(grid: PatchGrid, inputs: usize, outputs: usize) -> Self {
        Self {
            inputs,
            outputs,
            grid,
            cells: None,
        }
    }
}

/// Encoder tokens that a decoder reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokensNeeded {
    /// One per patch: the encoder replaces hidden patches.
    All,
    /// Only the visible patches: the encoder drops hidden patches.
    Visible,
}

/// Settings of a decoder, as named in a config.
pub trait DecoderSettings: Settings {
    /// Tokens that the decoder reads. Default: all.
    fn tokens(&self) -> TokensNeeded {
        TokensNeeded::All
    }

    /// Checks the settings and builds the decoder under `params`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) if a setting is invalid.
    fn build(&self, params: &Params, shape: DecoderShape) -> Result<Box<dyn Decoder>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use crate::decoders::decoders;

    #[test]
    fn the_type_selects_and_unknown_keys_are_refused() {
        let all = decoders();
        let read = |text: &str| all.read(text.parse().unwrap());
        let shape = DecoderShape::new(PatchGrid::new(2, 2), 8, 6);
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
            "type = \"prompt\"\ndpeth = 2",
            "type = \"none\"",
            "depth = 2",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
