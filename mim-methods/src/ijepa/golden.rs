//! The golden cases of I-JEPA.

use candle_core::{Device, Tensor};
use mim_core::{Mask, PatchGrid};
use mim_masking::{BlockSizes, MultiBlockMaskerConfig, MultiBlocks};

use super::IJepaConfig;
use crate::parity::golden::{
    CONSTANT_MOMENTUM, Golden, Made, Masks, Output, Plain, Setting, VIT, same,
};
use crate::parity::{Case, Result};
use Output::{By, HiddenOfEach, Trace};
use Setting::{Fixed, Informs, Renamed, Same};

pub(crate) const GOLDEN: Golden<IJepaConfig> = Golden {
    settings: &[
        VIT,
        Fixed("target_norm_eps", Plain::Float(1e-5)),
        CONSTANT_MOMENTUM,
        Renamed("smooth_l1_beta", "beta"),
        Renamed("mask.pred_mask_scale", "masker.target_scale"),
        Renamed("mask.aspect_ratio", "masker.target_aspect"),
        Renamed("mask.enc_mask_scale", "masker.context_scale"),
        Renamed("mask.num_pred_masks", "masker.targets"),
        Renamed("mask.num_enc_masks", "masker.contexts"),
        Same("mask", "masker", &["min_keep", "allow_overlap"]),
        Same("", "predictor", &["mlp_ratio", "norm_eps"]),
        Same(
            "decoder",
            "predictor",
            &["embed_dim", "depth", "num_heads", "mlp_ratio"],
        ),
        Informs(&["grid"]),
    ],
    masks: Masks::By(mask),
    outputs: &[
        ("block_sizes", By(|made, _| size_row(drawn(made)?.0))),
        ("context_len", By(|made, _| lengths(&drawn(made)?.1))),
        (
            "context",
            // Equal contexts of an image are encoded once.
            By(|made, recorded| {
                let tokens = recorded.get("latent")?;
                let times = made.images * made.config.masker.contexts / tokens.dim(0)?;
                Ok(Tensor::cat(&vec![&tokens; times], 0)?)
            }),
        ),
        ("target_raw", Trace("teacher.latent")),
        ("target", HiddenOfEach("target.features")),
        ("pred", Trace("pred.feature")),
    ],
    ..Golden::new("ijepa", |config| config.encoder.grid())
};

/// The mask from the recorded draws. It must have the recorded ids.
fn mask(case: &Case, config: &IJepaConfig, grid: PatchGrid) -> Result<Mask> {
    let images = case.needs("batch")?;
    let (_, blocks) = replay(case, &config.masker, (grid, images), "")?;
    let mask = blocks.mask(grid)?;
    let blocks = (images, config.masker.contexts);
    same(case, "input.context_ids", &ids(&mask, blocks, false)?)?;
    same(case, "input.target_ids", &ids(&mask, blocks, true)?)?;
    Ok(mask)
}

fn drawn(made: &Made<IJepaConfig>) -> Result<(BlockSizes, MultiBlocks)> {
    let (config, grid) = (&made.config.masker, made.mask()?.grid());
    replay(&made.case, config, (grid, made.images), "")
}

/// Sizes and blocks of recorded draws, whose names end with `suffix`.
pub(crate) fn replay(
    case: &Case,
    config: &MultiBlockMaskerConfig,
    (grid, images): (PatchGrid, usize),
    suffix: &str,
) -> Result<(BlockSizes, MultiBlocks)> {
    let masker = config.build()?;
    let sizes: Vec<f32> = case.flat(&format!("input.size_draws{suffix}"))?;
    let two = || case.bad("there are not two draws of sizes".to_owned());
    let sizes = <[f32; 2]>::try_from(sizes.as_slice()).map_err(|_| two())?;
    let sizes = masker.sizes(grid, sizes)?;
    // Image, kind, block, top and left of each attempt.
    let rows: Vec<f64> = case.flat(&format!("input.block_draws{suffix}"))?;
    let places: Vec<f64> = rows.chunks(5).flat_map(|row| row[3..].to_vec()).collect();
    let blocks = masker.from_draws(grid, sizes, images, &places)?;
    Ok((sizes, blocks))
}

/// Height and width of targets, then of contexts.
pub(crate) fn size_row(sizes: BlockSizes) -> Result<Tensor> {
    let (target, context) = (sizes.target, sizes.context);
    let row = [target.0, target.1, context.0, context.1];
    Ok(Tensor::new(&row.map(|side| side as f64), &Device::Cpu)?)
}

/// Number of patches of each context before contexts are cut to equal length, `[images, contexts]`.
pub(crate) fn lengths(blocks: &MultiBlocks) -> Result<Tensor> {
    let row = |contexts: &Vec<Vec<u32>>| -> Vec<f64> {
        contexts.iter().map(|block| block.len() as f64).collect()
    };
    let rows: Vec<Vec<f64>> = blocks.contexts.iter().map(row).collect();
    Ok(Tensor::new(rows, &Device::Cpu)?)
}

/// The ids of all blocks of a kind, `[images, blocks, patches]`, as the mask has them.
pub(crate) fn ids(mask: &Mask, (images, contexts): (usize, usize), hidden: bool) -> Result<Tensor> {
    let targets = mask.rows() / images / contexts;
    let blocks = if hidden { targets } else { contexts };
    let row = |image: usize, block: usize| match hidden {
        true => mask.hidden(block * contexts * images + image),
        false => mask.visible(block * images + image),
    };
    let all = (0..images).flat_map(|image| (0..blocks).flat_map(move |block| row(image, block)));
    let all: Vec<f64> = all.map(|&id| f64::from(id)).collect();
    Ok(Tensor::from_vec(all, (images, blocks, ()), &Device::Cpu)?)
}
