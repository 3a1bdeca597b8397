//! ZhichengHuang/CMAE @ e786a52: OpenMMLab's names, with momentum networks next to the trained ones.
//!
//! Files for fine-tuning hold only the encoder, without `backbone.`; both kinds are read.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = vec![Rule::ignore("*.num_batches_tracked")];
    rules.extend(encoder("target_backbone.", "teacher."));
    rules.push(rename(
        "target_projector.{m}.{p}",
        "teacher.projector.{m}.{p}",
    ));
    rules.push(rename("head.predictor.{m}.{p}", "predictor.{m}.{p}"));
    for (theirs, ours) in [("pixel_decoder.", ""), ("feature_decoder.", "feature.")] {
        for token in ["mask_token", "decoder_pos_embed"] {
            rules.push(rename(format!("{theirs}{token}"), format!("{ours}{token}")));
        }
        for (their, our) in [
            ("decoder_embed", "decoder_embed"),
            ("ln1", "decoder_norm"),
            ("decoder_pred", "decoder_pred"),
        ] {
            rules.push(rename(
                format!("{theirs}{their}.{{p}}"),
                format!("{ours}{our}.{{p}}"),
            ));
        }
        let blocks = "decoder_blocks";
        rules.extend(block(
            &format!("{theirs}{blocks}"),
            &format!("{ours}{blocks}"),
        ));
    }
    rules.extend(encoder("backbone.", ""));
    rules.extend(encoder("", ""));
    rules
}

fn rename(theirs: impl Into<String>, ours: impl Into<String>) -> Rule {
    Rule::rename(theirs, ours)
}

/// An encoder; the momentum encoder has no `ln1` after its blocks.
pub(super) fn encoder(theirs: &str, ours: &str) -> Vec<Rule> {
    let mut rules: Vec<_> = [
        ("cls_token", "cls_token"),
        ("pos_embed", "pos_embed"),
        ("patch_embed.projection.{p}", "patch_embed.proj.{p}"),
        ("ln1.{p}", "norm.{p}"),
    ]
    .map(|(their, our)| rename(format!("{theirs}{their}"), format!("{ours}{our}")))
    .into();
    rules.extend(block(&format!("{theirs}layers"), &format!("{ours}blocks")));
    rules
}

fn block(theirs: &str, ours: &str) -> Vec<Rule> {
    [
        ("ln1", "norm1"),
        ("attn.qkv", "attn.qkv"),
        ("attn.proj", "attn.proj"),
        ("ln2", "norm2"),
        ("ffn.layers.0.0", "mlp.fc1"),
        ("ffn.layers.1", "mlp.fc2"),
    ]
    .map(|(their, our)| {
        rename(
            format!("{theirs}.{{i}}.{their}.{{p}}"),
            format!("{ours}.{{i}}.{our}.{{p}}"),
        )
    })
    .into()
}
