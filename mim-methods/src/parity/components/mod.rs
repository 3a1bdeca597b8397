//! Golden cases of parts: the output of one part for recorded inputs.
//!
//! Each case is one function, in the file of its kind. [`Given`] holds the output of our parts and compares it.

mod augment;
mod blocks;
mod capi;
mod dvae;
mod ema_and_lr;
mod encoders;
mod finetuning;
mod given;
mod ibot_blocks;
mod maskers;
mod multi_blocks;
mod objectives;
mod optimizers;
mod points;
mod positions;
mod processes;
mod sampled;
mod schedules;
mod self_distillation;
mod semantic_parts;
mod targets;

use candle_core::Device;

pub use given::Given;

use super::report::Report;
use super::{Case, Problem, Result, Setup, Tolerance};
use crate::beit::golden::TRANSFORMERS;
use crate::finetune::golden::GOLDEN as FINETUNE;

/// Computes the output of our parts for a case.
pub type Outputs = fn(&Case, &Device) -> Result<Given>;

/// Prepares a case like one of a method.
type Prepare = fn(&Case, &Device) -> Result<Setup>;

/// The parts that `mim parity` knows, by the `method` of their cases. The program adds those of mim-eval.
const COMPONENTS: &[(&str, Outputs)] = &[
    ("attmask", maskers::attmask),
    ("beit_relative_position", positions::beit),
    ("beit_schedules", schedules::beit),
    ("blockwise_mask_bootmae", blocks::bootmae),
    ("blockwise_mask_sim", blocks::sim),
    ("blockwise_masker", blocks::beit),
    ("capi_block_drop_path", capi::drop_path),
    ("capi_clustering", capi::clustering),
    ("capi_inverse_block_mask", capi::masks),
    ("clip_visual", encoders::clip),
    ("cosine_schedule", schedules::mae),
    ("dbot_smooth_l1", objectives::dbot),
    ("dbot_stage_lr", schedules::dbot),
    ("dino_centering_and_schedules", self_distillation::outputs),
    ("dino_pos_embed_bicubic", positions::dino),
    ("dmjd_disjoint_masks", maskers::dmjd),
    ("dvae", dvae::outputs),
    ("ema_and_lr_schedules", ema_and_lr::outputs),
    ("eva_blockwise_mask", blocks::eva),
    ("eva_cosine_loss", objectives::eva),
    ("eva_lr_schedule", schedules::eva),
    ("hog", targets::hog),
    ("hog_dmjd", targets::dmjd),
    ("ibot_block_mask", ibot_blocks::outputs),
    ("ijepa_multiblock_mask", multi_blocks::outputs),
    ("infonce_cmae", objectives::cmae),
    ("layer_decay", finetuning::layer_decay),
    ("lars", optimizers::lars),
    ("linear_probe", optimizers::linear_probe),
    ("mask_2x2_cmae", maskers::cmae),
    ("milan_semantic_sampler", maskers::milan),
    ("mixup_cutmix_losses", finetuning::mixing),
    ("pixel_shift_cmae", augment::cmae),
    ("point_cloud_ops", points::outputs),
    ("rel_pos_geo", positions::resized_tables),
    ("relative_position_index", positions::indices),
    ("saim_attention_masks", targets::saim),
    ("sdae_multifold", targets::sdae),
    ("semmae_mask_sampler", semantic_parts::semmae),
    ("sim_relative_position", positions::sim),
    ("simmim_schedules", schedules::simmim),
    ("sincos_pos_embed", positions::sincos),
    ("swin_window_index_and_shift_mask", positions::swin),
    ("two_crop_resize", augment::resizes),
    ("unigrad_loss", objectives::uni_grad),
];

/// Parts whose cases record a whole training step except the optimizer.
const NETWORKS: &[(&str, Prepare)] = &[
    ("convmae_encoder", encoders::conv_mae),
    ("finetune", |case, device| FINETUNE.setup(case, device)),
    ("hf_beit_mim", |case, device| {
        TRANSFORMERS.setup(case, device)
    }),
];

/// The component called `name`, also one of `more`.
pub(super) fn find(name: &str, more: &[(&str, Outputs)]) -> Option<Outputs> {
    let mut all = COMPONENTS.iter().chain(more);
    all.find(|(known, _)| *known == name)
        .map(|(_, outputs)| *outputs)
}

/// How the network called `name` is prepared.
pub(super) fn network(name: &str) -> Option<Prepare> {
    let found = NETWORKS.iter().find(|(known, _)| *known == name);
    found.map(|(_, setup)| *setup)
}

/// For methods without recorded cases.
pub(crate) fn none(case: &Case, _device: &Device) -> Result<Setup> {
    Err(Problem::unknown(format!("a case of {}", case.method())))
}

/// Compares everything recorded.
pub(super) fn run(
    case: &Case,
    outputs: Outputs,
    tolerance: &Tolerance,
    device: &Device,
) -> Result<Report> {
    outputs(case, device)?.compare(case, tolerance)
}
