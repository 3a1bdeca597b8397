//! ggjy/FastMIM.pytorch @ d4eea0d: our names are theirs; Swin's index and mask buffers are made anew.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    vec![
        Rule::ignore("*.relative_position_index"),
        Rule::ignore("*.attn_mask"),
    ]
}
