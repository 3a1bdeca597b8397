//! facebookresearch/mae: our names are theirs.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    Vec::new()
}
