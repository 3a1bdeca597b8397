//! AttMask: What to Hide from Your Students (Kakogeorgiou et al., ECCV 2022, arXiv 2203.12719): iBOT with masks guided
//! by the attention of its teacher.

use mim_masking::{AttentionDraws, AttentionMaskerConfig};

use crate::ibot::golden;
use crate::parity::golden::{Golden, Masks, Setting};
use crate::parity::{self, Case};
use crate::registry::Entry;
use crate::{DistillationConfig, MethodConfig};
use Setting::{Informs, Same, Word};

/// Settings of AttMask.
pub type AttMaskConfig = DistillationConfig<AttentionMaskerConfig>;

/// Its golden cases: those of iBOT, with masks by attention from recorded draws.
const GUIDED: Golden<AttMaskConfig> = Golden {
    settings: &[
        golden::SETTINGS,
        Word(
            "pred_shape",
            "masker.mode",
            &[
                ("attmask_hint", "hint"),
                ("attmask_high", "high"),
                ("attmask_low", "low"),
            ],
        ),
        Same("", "masker", &["masking_prob", "show_max"]),
    ],
    build: |case, config, device| {
        let mut method = config.build(&config.store(device, 0))?;
        let masker = config.masker.build()?.with_draws(draws(case, config)?);
        method.masker = Box::new(masker);
        Ok(Box::new(method))
    },
    masks: Masks::None,
    ..AttMaskConfig::GOLDEN
};

/// Those with masks that do not depend on attention.
const RECORDED: Golden<AttMaskConfig> = Golden {
    settings: &[golden::SETTINGS, Informs(&["pred_shape"])],
    ..AttMaskConfig::GOLDEN
};

fn golden_of(case: &Case) -> &'static Golden<AttMaskConfig> {
    match case.setting::<String>("pred_shape") {
        Ok(Some(shape)) if ["block", "rand"].contains(&shape.as_str()) => &RECORDED,
        _ => &GUIDED,
    }
}

fn draws(case: &Case, config: &AttMaskConfig) -> parity::Result<AttentionDraws> {
    let reveal_ids = match case.tensor("input.reveal_ids") {
        Some(_) => case.flat("input.reveal_ids")?,
        None => vec![],
    };
    Ok(AttentionDraws {
        masking_ratio: case.setting_or("masking_ratio", 0.)?,
        show_ratio: config.masker.show_max * case.setting_or("show_ratio_draw", 0.)?,
        uniforms: case.flat("input.rand_mask")?,
        reveal_ids,
    })
}

/// Registry entry.
pub(crate) const ENTRY: Entry = Entry {
    title: "What to Hide from Your Students: Attention-Guided Masked Image Modeling",
    paper: "Kakogeorgiou et al., ECCV 2022, arXiv 2203.12719",
    reference: "gkakogeorgiou/attmask @ 9f62061",
    archs: &["vit_tiny", "vit_small", "vit_base", "vit_large"],
    about: crate::registry::About {
        hidden: "the patches that the teacher attends to most",
        predicted: "as in iBOT",
        by: "as in iBOT",
        loss: "as in iBOT",
        choose: "iBOT that learns faster in short trainings.",
    },
    status: "exact: masks, forward, losses, centres, gradients, step, teacher",
    recipes: recipes!("attmask_32px", "attmask_small"),
    parity: |case, device| golden_of(case).setup(case, device),
    ..Entry::new::<AttMaskConfig>("attmask")
};
