//! ZrrSkywalker/I2P-MAE @ 7d4e519: linear layers are one-tap convolutions, and files also hold the frozen CLIP.
//!
//! Checkpoints of Point-M2AE have the same names, without CLIP and the 2D head.

use crate::weights::Rule;

/// Layers of a small PointNet, and which of them are linear.
const EMBED: [(&str, bool); 6] = [
    ("first_conv.0", true),
    ("first_conv.1", false),
    ("first_conv.3", true),
    ("second_conv.0", true),
    ("second_conv.1", false),
    ("second_conv.3", true),
];
/// Layers of a propagation.
const PROPAGATION: [(&str, bool); 6] = [
    ("fuse.net.0", true),
    ("fuse.net.1", false),
    ("extraction.operation.{j}.net1.0", true),
    ("extraction.operation.{j}.net1.1", false),
    ("extraction.operation.{j}.net2.0", true),
    ("extraction.operation.{j}.net2.1", false),
];

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = vec![
        Rule::ignore("*.num_batches_tracked"),
        Rule::ignore("clip_model.*"),
        Rule::unsqueeze("mask_token", "mask_token", 1),
    ];
    let parts = |theirs: &str, ours: &str, parts: &[(&str, bool)]| -> Vec<Rule> {
        let mut rules = Vec::new();
        for (part, is_map) in parts {
            if *is_map {
                rules.push(Rule::pointwise(
                    format!("{theirs}.{{i}}.{part}.weight"),
                    format!("{ours}.{{i}}.{part}.weight"),
                ));
            }
            rules.push(Rule::rename(
                format!("{theirs}.{{i}}.{part}.{{p}}"),
                format!("{ours}.{{i}}.{part}.{{p}}"),
            ));
        }
        rules
    };
    rules.extend(parts("h_encoder.token_embed", "token_embed", &EMBED));
    rules.extend(parts("token_prop", "token_prop", &PROPAGATION));
    for name in ["encoder_pos_embeds.{i}.{l}.{p}", "encoder_norms.{i}.{p}"] {
        rules.push(Rule::rename(format!("h_encoder.{name}"), name));
    }
    for part in [
        "norm1",
        "norm2",
        "attn.qkv",
        "attn.proj",
        "mlp.fc1",
        "mlp.fc2",
    ] {
        let block = format!("blocks.{{j}}.{part}.{{p}}");
        rules.push(Rule::rename(
            format!("h_encoder.encoder_blocks.{{i}}.{block}"),
            format!("encoder_blocks.{{i}}.{block}"),
        ));
    }
    for head in ["rec_head_3d", "rec_head_2d"] {
        let weight = format!("{head}.weight");
        rules.push(Rule::pointwise(weight.clone(), weight));
    }
    // The others have the same names as ours.
    rules
}
