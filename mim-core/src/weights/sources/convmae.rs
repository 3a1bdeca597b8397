//! Alpha-VL/ConvMAE @ 4c97b4c: 1x1 convolutions in the first two stages, where we have matrices.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    let layers = ["conv1", "conv2", "mlp.fc1", "mlp.fc2"];
    let weights = ["blocks1", "blocks2"]
        .into_iter()
        .flat_map(|stage| layers.map(|layer| format!("{stage}.{{i}}.{layer}.weight")));
    weights
        .map(|name| Rule::conv1x1(name.clone(), name))
        .collect()
}
