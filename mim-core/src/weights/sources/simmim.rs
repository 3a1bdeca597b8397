//! microsoft/SimMIM @ d3e29bc: prefix `encoder.`, a 1x1 convolution as decoder, index and mask buffers.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    vec![
        Rule::ignore("*.relative_position_index"),
        Rule::ignore("*.attn_mask"),
        Rule::conv1x1("decoder.0.weight", "decoder_pred.weight"),
        Rule::rename("decoder.0.bias", "decoder_pred.bias"),
        Rule::rename("encoder.cls_token", "cls_token"),
        Rule::rename("encoder.mask_token", "mask_token"),
        Rule::rename("encoder.pos_embed", "pos_embed"),
        // proj; in Swin also norm.
        Rule::rename("encoder.patch_embed.{m}.{p}", "patch_embed.{m}.{p}"),
        Rule::rename("encoder.rel_pos_bias.{p}", "rel_pos_bias.{p}"),
        Rule::rename("encoder.norm.{p}", "norm.{p}"),
        // Swin: norms and tables; attn.qkv, attn.proj, mlp.fc1, mlp.fc2; downsample.norm, reduction.
        swin("blocks.{i}.{m}.{p}"),
        swin("blocks.{i}.{m}.{l}.{p}"),
        swin("downsample.{m}.{p}"),
        // ViT: gamma_1, gamma_2; norms; attn.q_bias, v_bias and tables; attn.qkv, attn.proj, mlp.fc1, mlp.fc2.
        Rule::rename("encoder.blocks.{i}.{p}", "blocks.{i}.{p}"),
        Rule::rename("encoder.blocks.{i}.{m}.{p}", "blocks.{i}.{m}.{p}"),
        Rule::rename("encoder.blocks.{i}.{m}.{l}.{p}", "blocks.{i}.{m}.{l}.{p}"),
    ]
}

/// A name inside a stage of Swin.
fn swin(name: &str) -> Rule {
    let ours = format!("layers.{{s}}.{name}");
    Rule::rename(format!("encoder.{ours}"), ours)
}
