//! ggjy/FastMIM.pytorch @ d4eea0d: the same names as ours; Swin's index and mask buffers are recomputed.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    vec![
        Rule::ignore("*.relative_position_index"),
        Rule::ignore("*.attn_mask"),
    ]
}
