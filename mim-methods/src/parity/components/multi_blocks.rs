//! I-JEPA's masks: recorded draws, and how often new masks contain each patch.

use candle_core::{Device, Tensor};
use mim_core::rng::stream;
use mim_core::{PatchGrid, Purpose, StepContext};
use mim_masking::{MaskRequest, Masker, MultiBlockMaskerConfig};
use serde::Deserialize;

use super::super::{Case, Result};
use super::Given;
use crate::ijepa::golden::{ids, lengths, replay, size_row};

/// How far frequencies of recorded draws may be off, as the case says.
const RATE: f64 = 0.05;

/// One of the settings of the masks.
#[derive(Deserialize)]
struct Settings {
    enc_mask_scale: [f64; 2],
    pred_mask_scale: [f64; 2],
    aspect_ratio: [f64; 2],
    num_enc_masks: usize,
    num_pred_masks: usize,
    allow_overlap: bool,
    min_keep: usize,
}

impl Settings {
    fn config(&self) -> MultiBlockMaskerConfig {
        MultiBlockMaskerConfig {
            target_scale: self.pred_mask_scale,
            target_aspect: self.aspect_ratio,
            context_scale: self.enc_mask_scale,
            targets: self.num_pred_masks,
            contexts: self.num_enc_masks,
            min_keep: self.min_keep,
            allow_overlap: self.allow_overlap,
        }
    }
}

/// I-JEPA's masks.
pub(super) fn outputs(case: &Case, _device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Setting {
        grid: [usize; 2],
        batch: usize,
        #[serde(flatten)]
        blocks: Settings,
    }
    #[derive(Deserialize)]
    struct Statistics {
        #[serde(flatten)]
        setting: Setting,
        batches: usize,
    }
    let mut given = Given::default();
    for (index, setting) in case.needs::<Vec<Setting>>("cases")?.iter().enumerate() {
        let (config, images) = (setting.blocks.config(), setting.batch);
        let grid = PatchGrid::new(setting.grid[0], setting.grid[1]);
        let suffix = format!("_{index}");
        let (sizes, blocks) = replay(case, &config, (grid, images), &suffix)?;
        let mask = blocks.mask(grid)?;
        given.expect(&format!("block_sizes{suffix}"), size_row(sizes)?);
        given.expect(&format!("context_len{suffix}"), lengths(&blocks)?);
        for (name, hidden) in [("context_ids", false), ("target_ids", true)] {
            let ids = ids(&mask, (images, config.contexts), hidden)?;
            given.expect(&format!("{name}{suffix}"), ids);
        }
    }
    let all: Vec<Statistics> = case.needs("expect_statistics")?;
    for (index, Statistics { setting, batches }) in all.iter().enumerate() {
        let grid = PatchGrid::new(setting.grid[0], setting.grid[1]);
        let masker = setting.blocks.config().build()?;
        let rates = rates(&masker, (grid, setting.batch, *batches))?;
        for (name, rate) in ["context_rate", "target_rate"].into_iter().zip(rates) {
            let rate = Tensor::from_vec(rate, (grid.rows, grid.cols), &Device::Cpu)?;
            given.within(&format!("{name}_{index}"), rate, RATE);
        }
    }
    Ok(given)
}

/// How often each patch is in the context, and in any target, of new masks with one context.
fn rates(
    masker: &dyn Masker,
    (grid, images, batches): (PatchGrid, usize, usize),
) -> Result<[Vec<f64>; 2]> {
    let mut rates = [vec![0.; grid.len()], vec![0.; grid.len()]];
    let share = 1. / (images * batches) as f64;
    for batch in 0..batches {
        let step = StepContext {
            iter: batch,
            iters_per_epoch: batches,
            ..StepContext::new(0)
        };
        let rq = MaskRequest {
            images,
            grid,
            guide: mim_masking::Guide::None,
            step: &step,
        };
        let mut rng = stream(0, Purpose::Mask, [batch as u64, 0]);
        let mask = masker.sample(&rq, &mut rng)?;
        for image in 0..images {
            let rows = (image..mask.rows()).step_by(images);
            let mut targets = vec![false; grid.len()];
            for id in rows.flat_map(|row| mask.hidden(row)) {
                targets[*id as usize] = true;
            }
            for id in mask.visible(image) {
                rates[0][*id as usize] += share;
            }
            for (rate, target) in rates[1].iter_mut().zip(targets) {
                *rate += if target { share } else { 0. };
            }
        }
    }
    Ok(rates)
}
