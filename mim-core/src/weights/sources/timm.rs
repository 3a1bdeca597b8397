//! timm's vision transformers (`vit_base_patch16_224.mae`): the same encoder names as ours; there is no decoder.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    vec![Rule::ignore("head.weight"), Rule::ignore("head.bias")]
}
