//! OpenGVLab/Siamese-Image-Modeling @ bbdec30: our names, except layer scale; the teacher has the prefix `mm_`.

use crate::weights::Rule;

pub(super) fn rules() -> Vec<Rule> {
    let mut rules = vec![Rule::ignore("*.num_batches_tracked")];
    for (theirs, ours) in [("", ""), ("mm_", "teacher.")] {
        rules.extend([1, 2].map(|layer| {
            Rule::rename(
                format!("{theirs}blocks.{{i}}.ls{layer}.gamma"),
                format!("{ours}blocks.{{i}}.gamma_{layer}"),
            )
        }));
    }
    let kept = [
        "blocks.{i}.{m}.{p}",
        "blocks.{i}.{m}.{l}.{p}",
        "projector_decoder_blocks.{i}.{m}.{p}",
        "projector_decoder_blocks.{i}.{m}.{l}.{p}",
        "cls_token",
        "mask_token",
        "decoder_embed.{p}",
        "patch_embed.proj.{p}",
    ];
    rules.extend(kept.map(|name| Rule::rename(format!("mm_{name}"), format!("teacher.{name}"))));
    rules
}
