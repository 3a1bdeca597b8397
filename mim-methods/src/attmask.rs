//! AttMask: What to Hide from Your Students (Kakogeorgiou et al., ECCV 2022, arXiv 2203.12719): iBOT with masks guided
//! by the attention of its teacher.

use mim_masking::AttentionMaskerConfig;

use crate::DistillationConfig;
use crate::registry::Entry;

/// Settings of AttMask.
pub type AttMaskConfig = DistillationConfig<AttentionMaskerConfig>;

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "What to Hide from Your Students: Attention-Guided Masked Image Modeling",
    paper: "Kakogeorgiou et al., ECCV 2022, arXiv 2203.12719",
    reference: "gkakogeorgiou/attmask @ 9f62061",
    archs: &["vit_tiny", "vit_small", "vit_base", "vit_large"],
    about: crate::registry::About {
        hidden: "the most attended patches of the teacher",
        predicted: "as iBOT",
        by: "as iBOT",
        loss: "as iBOT",
        choose: "iBOT that learns faster in short trainings.",
    },
    status: "exact: masks, forward, losses, centres, gradients, step, teacher",
    recipes: recipes!("attmask_32px", "attmask_small"),
    parity: crate::parity::attmask::setup,
    ..Entry::new::<AttMaskConfig>("attmask")
};
