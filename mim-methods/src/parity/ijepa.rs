//! Golden cases of I-JEPA: steps, and its masks.

use candle_core::{Device, Tensor};
use mim_core::decoders::PredictorConfig;
use mim_core::rng::stream;
use mim_core::schedule::Schedule;
use mim_core::weights::Source;
use mim_core::{Mask, Method, PatchGrid, Purpose, StepContext};
use mim_masking::{BlockSizes, MaskRequest, Masker, MultiBlockMaskerConfig, MultiBlocks};
use serde::Deserialize;

use super::beit::{hidden, traced};
use super::mae::{self, Decoder};
use super::run::Extract;
use super::{Case, Given, Problem, Recorded, Result, Rounding, Setup};
use crate::{IJepaConfig, MethodConfig};

/// How far frequencies of recorded draws may be off, as the case says.
const RATE: f64 = 0.05;

/// `mask` of a step, or one of the settings of the masks.
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

/// Sizes and blocks of recorded draws, whose names end with `suffix`.
fn replay(
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
    // Image, kind, block, top and left of each try.
    let rows: Vec<f64> = case.flat(&format!("input.block_draws{suffix}"))?;
    let places: Vec<f64> = rows.chunks(5).flat_map(|row| row[3..].to_vec()).collect();
    let blocks = masker.from_draws(grid, sizes, images, &places)?;
    Ok((sizes, blocks))
}

/// Height and width of targets, then of contexts.
fn size_row(sizes: BlockSizes) -> Result<Tensor> {
    let (target, context) = (sizes.target, sizes.context);
    let row = [target.0, target.1, context.0, context.1];
    Ok(Tensor::new(&row.map(|side| side as f64), &Device::Cpu)?)
}

/// Patches of each context before they are made equally long, `[images, contexts]`.
fn lengths(blocks: &MultiBlocks) -> Result<Tensor> {
    let row = |contexts: &Vec<Vec<u32>>| -> Vec<f64> {
        contexts.iter().map(|block| block.len() as f64).collect()
    };
    let rows: Vec<Vec<f64>> = blocks.contexts.iter().map(row).collect();
    Ok(Tensor::new(rows, &Device::Cpu)?)
}

/// The ids of all blocks of a kind, `[images, blocks, patches]`, as the mask has them.
fn ids(mask: &Mask, (images, contexts): (usize, usize), hidden: bool) -> Result<Tensor> {
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

fn config(case: &Case) -> Result<IJepaConfig> {
    #[derive(Deserialize)]
    struct Momentum {
        momentum: f64,
        when: String,
    }
    case.fixed("target_norm_eps", 1e-5)?;
    let defaults = IJepaConfig::default();
    let encoder = mae::vit(case, defaults.encoder)?;
    let found: Decoder = case.needs("decoder")?;
    let momentum = match case.setting::<Momentum>("ema")? {
        Some(Momentum { momentum, when }) if when == "after_step" => Schedule::constant(momentum),
        Some(Momentum { when, .. }) => {
            return Err(Problem::unknown(format!("I-JEPA's copy moved {when}")));
        }
        None => defaults.momentum,
    };
    Ok(IJepaConfig {
        masker: case.needs::<Settings>("mask")?.config(),
        beta: case.setting_or("smooth_l1_beta", defaults.beta)?,
        momentum,
        predictor: PredictorConfig {
            embed_dim: found.embed_dim,
            depth: found.depth,
            num_heads: found.num_heads,
            mlp_ratio: found.mlp_ratio.unwrap_or(encoder.mlp_ratio),
            norm_eps: encoder.norm_eps,
        },
        encoder,
        ..IJepaConfig::default()
    })
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    case.informs(&["grid"]);
    let config = config(case)?;
    let (grid, images) = (config.encoder.grid()?, case.needs("batch")?);
    let (sizes, blocks) = replay(case, &config.masker, (grid, images), "")?;
    let mask = blocks.mask(grid)?;
    for (name, hidden) in [("context_ids", false), ("target_ids", true)] {
        let ours = ids(&mask, (images, config.masker.contexts), hidden)?;
        let ours: Vec<f64> = ours.flatten_all()?.to_vec1()?;
        if ours != case.flat::<f64>(&format!("input.{name}"))? {
            let what = format!("the masker gives other {name} for the recorded draws");
            return Err(case.bad(what).into());
        }
    }
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(mask.clone())?;
    let (rows, count) = (mask.rows(), mask.hidden_total() / mask.rows());
    let target = hidden("target.features", &mask);
    let target: Extract =
        Box::new(move |recorded: &Recorded| Ok(target(recorded)?.reshape((rows, count, ()))?));
    // Equal contexts of an image are encoded once.
    let encoded = images * config.masker.contexts;
    let context: Extract = Box::new(move |recorded: &Recorded| {
        let tokens = recorded.get("latent")?;
        let times = encoded / tokens.dim(0)?;
        Ok(Tensor::cat(&vec![&tokens; times], 0)?)
    });
    let (sizes, lengths) = (size_row(sizes)?, lengths(&blocks)?);
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "ijepa".to_owned())?)?,
        step: StepContext::new(0),
        batch: mae::batch(case, device)?,
        outputs: vec![
            ("block_sizes", Box::new(move |_| Ok(sizes.clone()))),
            ("context_len", Box::new(move |_| Ok(lengths.clone()))),
            ("context", context),
            ("target_raw", traced("teacher.latent")),
            ("target", target),
            ("pred", traced("pred.feature")),
        ],
    })
}

/// I-JEPA's masks: recorded draws, and how often fresh ones have each patch.
pub(super) fn masks(case: &Case, _device: &Device) -> Result<Given> {
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

/// How often each patch is in the context, and in any target, of fresh masks with one context.
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
