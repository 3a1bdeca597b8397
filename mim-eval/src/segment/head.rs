//! Segmentation heads: from encoder features to pixel classes.

use candle_core::{Device, Tensor};
use mim_core::nn::Linear;
use mim_core::params::{MaeInit, ParamStore, Params};
use mim_core::{Result, StepContext};
use serde::{Deserialize, Serialize};

use super::upernet::{UperNet, UperNetShape};

/// The head trained on the features of a frozen encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SegmentHead {
    /// A linear layer per patch, with logits interpolated to pixels.
    #[default]
    Linear,
    /// UPerNet (Xiao et al., ECCV 2018): pyramid pooling on the last of four layers, then a top-down pathway
    /// to maps of four resolutions.
    UperNet,
}

/// The network of a head.
pub(super) trait Head: Send + Sync {
    /// Logits `[batch, rows, cols, classes]` on the head's own grid, from the features `[batch, rows, cols, dim]` of
    /// each layer.
    fn logits(&self, levels: &[Tensor], step: &StepContext) -> Result<Tensor>;
}

/// A 1 x 1 convolution.
struct LinearHead(Linear);

impl Head for LinearHead {
    fn logits(&self, levels: &[Tensor], _step: &StepContext) -> Result<Tensor> {
        self.0.forward(&levels[0])
    }
}

impl SegmentHead {
    /// The head with its initial weights, and their store.
    pub(super) fn build(
        self,
        shape: UperNetShape,
        seed: u64,
        device: &Device,
    ) -> Result<(Box<dyn Head>, ParamStore)> {
        let store = ParamStore::new(device, seed, MaeInit { patch_values: 1 });
        let params: Params = store.root();
        let head: Box<dyn Head> = match self {
            Self::Linear => Box::new(LinearHead(Linear::new(&params, shape.dim, shape.classes)?)),
            Self::UperNet => Box::new(UperNet::new(&params, shape)?),
        };
        Ok((head, store))
    }
}
