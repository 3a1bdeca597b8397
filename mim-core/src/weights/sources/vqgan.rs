//! The VQGAN with Gumbel softmax that provides mc-BEiT's tokens (CompVis/taming-transformers).

use crate::weights::Rule;

/// The authors' names are ours; the image decoder and the training losses are skipped.
pub(super) fn rules() -> Vec<Rule> {
    [
        "decoder.*",
        "post_quant_conv.*",
        "quantize.embed.*",
        "loss.*",
    ]
    .map(Rule::ignore)
    .into()
}
