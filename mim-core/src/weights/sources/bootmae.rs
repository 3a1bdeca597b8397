//! LightDXY/BootMAE @ d604b18: the same encoder names as ours, but different decoder names.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = vec![Rule::rename("de_pos_embed", "decoder_pos_embed")];
    // For the second decoder, of features, we use a prefix and they append a number.
    for (suffix, prefix, pred) in [("", "", "lm_head.proj"), ("_1", "feature.", "lm_head_1")] {
        rules.extend([
            Rule::rename(format!("mask_token{suffix}"), format!("{prefix}mask_token")),
            Rule::rename(
                format!("down{suffix}.{{p}}"),
                format!("{prefix}decoder_embed.{{p}}"),
            ),
            Rule::rename(
                format!("decode_norm{suffix}.{{p}}"),
                format!("{prefix}decoder_norm.{{p}}"),
            ),
            Rule::rename(
                format!("{pred}.{{p}}"),
                format!("{prefix}decoder_pred.{{p}}"),
            ),
        ]);
        // Norms and attention biases; then attn.qkv, attn.proj, c_attn.q, c_attn.kv, mlp.fc1, mlp.fc2.
        rules.extend(["{i}.{m}.{p}", "{i}.{m}.{l}.{p}"].map(|rest| {
            Rule::rename(
                format!("decode_blocks{suffix}.{rest}"),
                format!("{prefix}decoder_blocks.{rest}"),
            )
        }));
    }
    rules
}
