//! facebookresearch/mae: the same names as ours.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    Vec::new()
}
