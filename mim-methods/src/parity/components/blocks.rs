//! Block maskers: recorded draws give the recorded masks, and new draws the recorded frequencies.

use std::collections::BTreeMap;

use candle_core::Device;
use mim_core::PatchGrid;
use mim_masking::{
    BlockwiseMasker, BlockwiseMaskerConfig, HiddenCount, OnStuck, RolledBlockMaskerConfig,
};
use serde::Deserialize;

use super::super::{Case, Result};
use super::Given;
use super::sampled::{RATE, Sampled, bits, oblong, of_means, square};

/// Counts and sides of blocks.
fn patches(count: usize, min_block: usize, max_block: Option<usize>) -> BlockwiseMaskerConfig {
    BlockwiseMaskerConfig {
        hidden: HiddenCount::Patches { count },
        min_block,
        max_block,
        ..BlockwiseMaskerConfig::default()
    }
}

/// Settings of a whole case in BootMAE's and SIM's spelling.
fn of_case(case: &Case, when_stuck: OnStuck) -> Result<BlockwiseMaskerConfig> {
    Ok(BlockwiseMaskerConfig {
        min_aspect: case.needs("min_aspect")?,
        max_aspect: Some(case.needs("max_aspect")?),
        when_stuck,
        ..patches(
            case.needs("num_masking_patches")?,
            case.needs("min_num_patches")?,
            Some(case.needs("max_num_patches")?),
        )
    })
}

#[derive(Deserialize)]
struct Sizes {
    num_masking_patches: usize,
    min_num_patches: usize,
    max_num_patches: usize,
    min_aspect: f64,
    grid: [usize; 2],
}

impl Sizes {
    fn build(&self) -> Result<(BlockwiseMasker, PatchGrid)> {
        let max_block = Some(self.max_num_patches);
        let config = BlockwiseMaskerConfig {
            min_aspect: self.min_aspect,
            ..patches(self.num_masking_patches, self.min_num_patches, max_block)
        };
        Ok((config.build()?, oblong(self.grid)))
    }
}

#[derive(Deserialize)]
struct Trace {
    /// Kind, range and number of each draw.
    draws: Vec<(String, f64, f64, f64)>,
    mask: Vec<String>,
}

#[derive(Deserialize)]
struct Statistics {
    #[serde(flatten)]
    sizes: Sizes,
    draws: usize,
    count_mean: f64,
    count_std: f64,
    position_frequency_row_mean: Vec<f64>,
    position_frequency_col_mean: Vec<f64>,
}

/// BEiT's masker: traces, and statistics.
pub(super) fn beit(case: &Case, _device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Values {
        traces: BTreeMap<String, Vec<Trace>>,
        statistics: Vec<Statistics>,
    }
    let mut given = Given::default();
    let values: Values = case.values()?;
    let settings: BTreeMap<String, Sizes> = case.needs("traces")?;
    for (name, traces) in &values.traces {
        let sizes = settings.get(name);
        let sizes = sizes.ok_or_else(|| case.bad(format!("no settings of the trace {name}")))?;
        let (masker, grid) = sizes.build()?;
        for (index, trace) in traces.iter().enumerate() {
            let draws: Vec<f64> = trace.draws.iter().map(|(.., value)| *value).collect();
            let ours = masker.from_draws(grid, &draws)?.to_bits();
            let theirs = trace.mask.iter().flat_map(|row| row.bytes());
            let ours: Vec<f64> = ours.into_iter().map(f64::from).collect();
            let theirs: Vec<f64> = theirs.map(|digit| f64::from(digit) - 48.).collect();
            given.numbers(&format!("values.traces.{name}.{index}"), &ours, &theirs)?;
        }
    }
    for (index, theirs) in values.statistics.iter().enumerate() {
        statistics(&format!("values.statistics.{index}"), theirs, &mut given)?;
    }
    Ok(given)
}

fn statistics(name: &str, theirs: &Statistics, given: &mut Given) -> Result<()> {
    let (masker, grid) = theirs.sizes.build()?;
    let ours = Sampled::of(&masker, grid)?;
    let bound = of_means(theirs.count_std, theirs.draws);
    given.number(
        &format!("{name}.count_mean"),
        ours.mean,
        theirs.count_mean,
        bound,
    )?;
    for (axis, rates) in [
        (1, &theirs.position_frequency_row_mean),
        (0, &theirs.position_frequency_col_mean),
    ] {
        for (ours, theirs_here) in ours.along(axis)?.into_iter().zip(rates) {
            given.number(name, ours, *theirs_here, of_means(0.5, theirs.draws))?;
        }
    }
    Ok(())
}

/// EVA's masker.
pub(super) fn eva(case: &Case, _device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Sizes {
        grid: [usize; 2],
        num_masking: usize,
        min_block: usize,
        max_block: Option<usize>,
        draws: Option<usize>,
        mean: Option<f64>,
        std: Option<f64>,
    }
    let (min_aspect, max_aspect) = (case.needs("min_aspect")?, case.needs("max_aspect")?);
    let build = |sizes: &Sizes| {
        let config = BlockwiseMaskerConfig {
            min_aspect,
            max_aspect: Some(max_aspect),
            ..patches(sizes.num_masking, sizes.min_block, sizes.max_block)
        };
        config.build()
    };
    let mut given = Given::default();
    for (index, sizes) in case.needs::<Vec<Sizes>>("cases")?.iter().enumerate() {
        // A position that was not drawn is -1.
        let mut draws: Vec<f64> = case.flat(&format!("input.draws_{index}"))?;
        draws.retain(|draw| *draw != -1.);
        let mask = build(sizes)?.from_draws(oblong(sizes.grid), &draws)?;
        let name = format!("mask_{index}");
        given.expect(&name, bits(case, &name, &mask)?);
    }
    let statistics: Vec<Sizes> = case.needs("expect_statistics")?;
    for (index, theirs) in statistics.iter().enumerate() {
        let ours = Sampled::of(&build(theirs)?, oblong(theirs.grid))?;
        given.within(&format!("mask_rate_{index}"), ours.rate.clone(), RATE);
        if let (Some(draws), Some(mean), Some(std)) = (theirs.draws, theirs.mean, theirs.std) {
            let bound = of_means(std, draws);
            given.number("config.expect_statistics.mean", ours.mean, mean, bound)?;
        }
    }
    Ok(given)
}

/// The blocks of BootMAE, and the order made from them.
pub(super) fn bootmae(case: &Case, _device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Tape {
        grid: [usize; 2],
        num: usize,
        max: usize,
        min: usize,
    }
    #[derive(Deserialize)]
    struct Order {
        roll: usize,
    }
    case.informs(&["draws"]);
    let (grid, blocks) = (square(case.needs("grid")?), of_case(case, OnStuck::Retry)?);
    let mut given = Given::default();
    for (index, tape) in case.needs::<Vec<Tape>>("tapes")?.iter().enumerate() {
        let config = BlockwiseMaskerConfig {
            when_stuck: OnStuck::Retry,
            ..patches(tape.num, tape.min, Some(tape.max))
        };
        let draws: Vec<f64> = case.flat(&format!("input.tape{index}"))?;
        let mask = config.build()?.from_draws(oblong(tape.grid), &draws)?;
        let name = format!("mask{index}");
        given.expect(&name, bits(case, &name, &mask)?);
    }
    let rolled = RolledBlockMaskerConfig {
        blocks: blocks.clone(),
        hidden: HiddenCount::Patches {
            count: case.needs("mask_num")?,
        },
        ..RolledBlockMaskerConfig::default()
    };
    let rolled = rolled.build()?;
    let (hidden, noise) = (
        case.flat("input.order.mask")?,
        case.flat("input.order.rand")?,
    );
    let roll = case.needs::<Order>("order")?.roll;
    let mask = rolled.from_draws(grid, &hidden, &noise, roll)?;
    given.expect("order.idx", mask.ids_order(&Device::Cpu)?);
    given.within(
        "freq_block",
        Sampled::of(&blocks.build()?, grid)?.rate,
        RATE,
    );
    given.within("freq_final", Sampled::of(&rolled, grid)?.rate, RATE);
    Ok(given)
}

/// SIM's masker, with a fixed and with a free count.
pub(super) fn sim(case: &Case, _device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Count {
        mean: f64,
        std: Option<f64>,
    }
    let (grid, draws) = (square(case.needs("grid")?), case.needs("draws")?);
    let counts: BTreeMap<String, Count> = case.needs("expect_statistics")?;
    let mut given = Given::default();
    for (name, when_stuck) in [("fixed", OnStuck::TopUp), ("free", OnStuck::Stop)] {
        let ours = Sampled::of(&of_case(case, when_stuck)?.build()?, grid)?;
        given.within(&format!("freq_{name}"), ours.rate.clone(), RATE);
        let theirs = counts.get(name);
        let theirs = theirs.ok_or_else(|| case.bad(format!("no statistics of {name} counts")))?;
        let bound = of_means(theirs.std.unwrap_or(0.), draws);
        given.number(
            &format!("mean count, {name}"),
            ours.mean,
            theirs.mean,
            bound,
        )?;
    }
    Ok(given)
}
