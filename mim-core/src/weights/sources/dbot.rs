//! liuxingbin/dbot @ db3b15e: MAE's names, except the last layer.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    vec![Rule::rename("decoder_predp.{p}", "decoder_pred.{p}")]
}
