//! MaskFeat in open-mmlab/mmpretrain @ ee7f2e8: the zoo's ViT, a linear neck, the histograms' filters.

use super::cmae;
use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = vec![
        Rule::ignore("target_generator.{p}"),
        Rule::ignore("data_preprocessor.{p}"),
        Rule::rename("backbone.mask_token", "mask_token"),
        Rule::rename("neck.fc.{p}", "decoder_pred.{p}"),
    ];
    rules.extend(cmae::encoder("backbone.", ""));
    rules
}
