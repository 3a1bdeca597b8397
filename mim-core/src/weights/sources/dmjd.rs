//! mx-mark/DMJD @ 881b21d: ConvMAE's names, and a head for visible patches.

use super::convmae;
use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = convmae::rules();
    rules.push(Rule::rename("predictor.0.{p}", "predictor.{p}"));
    rules
}
