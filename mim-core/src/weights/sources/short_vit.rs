//! A ViT with short names: layers of a block without `attn` and `mlp`, a linear `head`.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    [
        ("patch_embed.{p}", "patch_embed.proj.{p}"),
        ("blocks.{i}.qkv.{p}", "blocks.{i}.attn.qkv.{p}"),
        ("blocks.{i}.proj.{p}", "blocks.{i}.attn.proj.{p}"),
        ("blocks.{i}.fc1.{p}", "blocks.{i}.mlp.fc1.{p}"),
        ("blocks.{i}.fc2.{p}", "blocks.{i}.mlp.fc2.{p}"),
        ("head.{p}", "decoder_pred.{p}"),
    ]
    .map(|(theirs, ours)| Rule::rename(theirs, ours))
    .into()
}
