//! The VQGAN with Gumbel softmax that mc-BEiT takes its tokens from (CompVis/taming-transformers).

use crate::weights::Rule;

/// The authors' names are ours; what draws images, and what it was trained with, is left out.
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
