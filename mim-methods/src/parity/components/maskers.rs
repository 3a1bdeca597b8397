//! Maskers other than block maskers: recorded draws give the recorded masks.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use mim_core::rng::stream;
use mim_core::{Mask, PatchGrid, Purpose, StepContext};
use mim_masking::{
    AttentionDraws, AttentionMaskerConfig, AttentionMode, CellMaskerConfig, CellRounding,
    DisjointMaskerConfig, Guide, MaskRequest, Masker, WeightedMaskerConfig,
};
use serde::Deserialize;

use super::super::{Case, Problem, Result};
use super::Given;
use super::sampled::{bits, square};

/// AttMask's masker. The masker draws hints itself, so its own tests check how often they are shown.
pub(super) fn attmask(case: &Case, _device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Settings {
        mode: String,
        masking_prob: f64,
        masking_ratio: f64,
        show_ratio: f64,
        show_max: f64,
        n_reveal: usize,
    }
    case.informs(&["hint_frequency"]);
    let scores: Vec<f32> = case.flat("input.attention")?;
    let (_, tokens) = case.required("input.attention")?.dims2()?;
    let mut given = Given::default();
    for (name, settings) in case.needs::<BTreeMap<String, Settings>>("cases")? {
        let config = AttentionMaskerConfig {
            mode: mode(&settings.mode)?,
            masking_prob: settings.masking_prob,
            show_max: settings.show_max,
            ..AttentionMaskerConfig::default()
        };
        let draws = AttentionDraws {
            masking_ratio: settings.masking_ratio,
            show_ratio: settings.show_ratio,
            uniforms: case.flat(&format!("input.{name}.rand"))?,
            reveal_ids: match settings.n_reveal {
                0 => vec![],
                _ => case.flat(&format!("input.{name}.reveal_ids"))?,
            },
        };
        let grid = square(tokens.isqrt());
        let mask = config.build()?.from_draws(grid, &scores, &draws)?;
        let name = format!("{name}.mask");
        given.expect(&name, bits(case, &name, &mask)?);
    }
    Ok(given)
}

/// DMJD's masker.
pub(super) fn dmjd(case: &Case, device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Settings {
        mask_type: String,
        grid: usize,
        mask_ratio: f64,
        pred_ratio: f64,
    }
    let (images, views): (usize, usize) = (case.needs("images")?, case.needs("views")?);
    let block: usize = case.needs("block_unit")?;
    let counts: Vec<BTreeMap<String, usize>> = case.needs("expect_counts")?;
    let mut given = Given::default();
    for (index, settings) in case.needs::<Vec<Settings>>("cases")?.iter().enumerate() {
        let unit = match settings.mask_type.as_str() {
            "rand" => 1,
            "block" => block,
            other => return Err(Problem::unknown(format!("DMJD's masks of type {other}"))),
        };
        let config = DisjointMaskerConfig {
            mask_ratio: settings.mask_ratio,
            pred_ratio: settings.pred_ratio,
            unit,
            views,
        };
        let input = |name: &str| format!("input.{index}.{name}");
        let draw = (
            case.flat(&input("perm_disjoint"))?,
            case.flat(&input("perm_joint"))?,
        );
        let noise: Vec<f32> = case.flat(&input("noise"))?;
        let grid = square(settings.grid);
        let mask = config.build()?.from_draws(grid, &noise, &[draw])?;
        let name = format!("{index}.mask");
        given.expect(&name, bits(case, &name, &mask)?);
        given.expect(&format!("{index}.ids_keep"), mask.ids_keep(device)?);
        given.expect(&format!("{index}.ids_restore"), mask.ids_restore(device)?);
        let theirs = counts.get(index);
        let theirs = theirs.ok_or_else(|| case.bad(format!("no counts of case {index}")))?;
        for (what, count) in hidden(&mask, images) {
            if let Some(&theirs) = theirs.get(what) {
                let name = format!("config.expect_counts.{index}.{what}");
                given.number(&name, count, theirs as f64, 0.)?;
            }
        }
    }
    Ok(given)
}

/// Numbers of patches hidden by the first, the second, both, any and none of two views.
fn hidden(mask: &Mask, images: usize) -> [(&'static str, f64); 5] {
    let bits = mask.to_bits();
    let (first, second) = bits.split_at(images * mask.grid().len());
    let count = |rule: fn(u8, u8) -> bool| {
        let pairs = first.iter().zip(second);
        pairs.filter(|(a, b)| rule(**a, **b)).count() as f64 / images as f64
    };
    [
        ("masked_view1", count(|a, _| a == 1)),
        ("masked_view2", count(|_, b| b == 1)),
        ("masked_both", count(|a, b| a + b == 2)),
        ("masked_union", count(|a, b| a + b > 0)),
        ("never_masked", count(|a, b| a + b == 0)),
    ]
}

/// CMAE's masker; the order of patches within a cell is arbitrary, so ids are compared as sets.
pub(super) fn cmae(case: &Case, device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Settings {
        grid: usize,
        ratio: f64,
    }
    let unit: usize = case.needs("unit")?;
    let sorted = |ids: &Tensor| -> Result<Tensor> {
        let rows = ids.to_dtype(DType::U32)?.to_vec2::<u32>()?;
        let sorted = rows.into_iter().map(|mut row| {
            row.sort_unstable();
            row
        });
        Ok(Tensor::new(sorted.collect::<Vec<_>>(), &Device::Cpu)?)
    };
    let mut given = Given::default();
    for (name, settings) in case.needs::<BTreeMap<String, Settings>>("cases")? {
        let config = CellMaskerConfig {
            mask_patch_size: unit,
            patch_size: 1,
            mask_ratio: settings.ratio,
            rounding: CellRounding::VisibleDown,
        };
        let noise: Vec<f32> = case.flat(&format!("input.{name}.noise"))?;
        let mask = config.build()?.from_noise(square(settings.grid), &noise)?;
        let keep = format!("{name}.ids_keep");
        let theirs = sorted(case.required(&format!("expect.{keep}"))?)?;
        given.same(&keep, sorted(&mask.ids_keep(device)?)?, theirs);
        let name = format!("{name}.mask");
        given.expect(&name, bits(case, &name, &mask)?);
    }
    Ok(given)
}

/// MILAN's masker.
pub(super) fn milan(case: &Case, device: &Device) -> Result<Given> {
    let config = WeightedMaskerConfig {
        mask_ratio: case.needs("mask_ratio")?,
    };
    let masker = config.build()?;
    let scores: Vec<f32> = case.flat("input.importance")?;
    let noise: Vec<f32> = case.flat("input.exp_noise")?;
    case.fixed("tokens", scores.len())?;
    let grid = PatchGrid::new(1, scores.len());
    let rows = noise.len() / scores.len();
    let mask = masker.from_draws(grid, &scores.repeat(rows), &noise)?;
    case.fixed("n_keep", mask.exact_keep()?)?;
    let mut given = Given::default();
    given.expect("ids_shuffle_given_noise", mask.ids_order(device)?);
    let (draws, step): (usize, _) = (case.needs("draws")?, StepContext::new(0));
    let all = scores.repeat(draws);
    let rq = MaskRequest {
        images: draws,
        grid,
        guide: Guide::Scores(&all),
        step: &step,
    };
    let mask = masker.sample(&rq, &mut stream(0, Purpose::Mask, [0, 0]))?;
    let (mut kept, mut first) = (vec![0f64; grid.len()], vec![0f64; grid.len()]);
    for row in 0..draws {
        for (place, &id) in mask.visible(row).iter().enumerate() {
            kept[id as usize] += 1. / draws as f64;
            if place == 0 {
                first[id as usize] += 1. / draws as f64;
            }
        }
    }
    given.sampled("keep_freq", Tensor::new(kept, device)?, draws);
    given.sampled("first_freq", Tensor::new(first, device)?, draws);
    Ok(given)
}

/// Which patches are hidden, by the authors' name.
fn mode(name: &str) -> Result<AttentionMode> {
    match name {
        "attmask_high" => Ok(AttentionMode::High),
        "attmask_hint" => Ok(AttentionMode::Hint),
        "attmask_low" => Ok(AttentionMode::Low),
        other => Err(Problem::unknown(format!("AttMask's {other}"))),
    }
}
