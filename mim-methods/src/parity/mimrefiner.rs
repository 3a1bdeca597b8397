//! Golden cases of MIM-Refiner.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use mim_core::encoders::VitConfig;
use mim_core::objectives::NeighbourContrastConfig;
use mim_core::weights::Source;
use mim_core::{Batch, Pooling, StepContext, View};
use serde::Deserialize;

use super::beit::traced;
use super::run::Extract;
use super::{Case, Problem, Result, Rounding, Setup, mae};
use crate::{CropsConfig, MethodConfig, MimRefinerConfig};

/// A head of a case.
#[derive(Deserialize)]
struct Head {
    block: Option<usize>,
    pooling: String,
}

/// Blocks with a head, and what stands for an image.
fn heads(case: &Case) -> Result<(Vec<usize>, Pooling)> {
    let heads: BTreeMap<String, Head> = case.needs("heads")?;
    let mut poolings = heads.values().map(|head| head.pooling.as_str());
    let first = poolings.next().unwrap_or_default();
    let pooling = match first {
        _ if poolings.any(|other| other != first) => None,
        "class_token" => Some(Pooling::Cls),
        "mean_patch" => Some(Pooling::Mean),
        _ => None,
    };
    let unknown = || Problem::unknown("MIM-Refiner with other heads than on class tokens or means");
    let pooling = pooling.ok_or_else(unknown)?;
    Ok((
        heads.values().filter_map(|head| head.block).collect(),
        pooling,
    ))
}

fn config(case: &Case) -> Result<MimRefinerConfig> {
    let defaults = MimRefinerConfig::default();
    let (blocks, pooling) = heads(case)?;
    let crops = CropsConfig {
        global: case.setting_or("num_global", defaults.crops.global)?,
        local: case.setting_or("num_local", defaults.crops.local)?,
        local_size: case.setting_or("local_size", defaults.crops.local_size)?,
        ..defaults.crops
    };
    Ok(MimRefinerConfig {
        freeze_encoder: case.setting_or("encoder_frozen", false)?,
        blocks,
        pooling,
        proj_hidden_dim: case.setting_or("proj_hidden_dim", defaults.proj_hidden_dim)?,
        pred_hidden_dim: case.setting_or("pred_hidden_dim", defaults.pred_hidden_dim)?,
        out_dim: case.setting_or("output_dim", defaults.out_dim)?,
        queue_size: case.setting_or("queue_size", defaults.queue_size)?,
        topk: case.setting_or("topk", defaults.topk)?,
        objective: NeighbourContrastConfig {
            temperature: case.needs("temperature")?,
            ..defaults.objective
        },
        crops,
        encoder: VitConfig {
            resize_positions: true,
            ..mae::vit(case, defaults.encoder)?
        },
        ..MimRefinerConfig::default()
    })
}

fn batch(case: &Case, crops: &CropsConfig, device: &Device) -> Result<Batch> {
    let view = |name: String| Ok(View::new(case.on(&name, device)?, vec![])?);
    let globals = (0..crops.global).map(|index| view(format!("input.global_{index}")));
    let locals = (0..crops.local).map(|index| view(format!("input.local_{index}")));
    let views = globals.chain(locals).collect::<Result<Vec<_>>>()?;
    let indices: Vec<u32> = case.flat("input.index")?;
    // Classes are written into the queue and not recorded otherwise: images have those of their order.
    let labels: Vec<u32> = (0u32..).take(indices.len()).collect();
    Ok(Batch {
        labels: Some(Tensor::new(labels, device)?),
        indices,
        views: views.clone(),
        ..Batch::single(views[0].clone())
    })
}

/// Names of the recorded outputs of heads, known to the program for as long as it runs.
const NAMES: [&str; 15] = [
    "features.main",
    "projected.main",
    "neighbours.main",
    "predicted.main",
    "loss.main",
    "features.cls1",
    "projected.cls1",
    "neighbours.cls1",
    "predicted.cls1",
    "loss.cls1",
    "features.avg0",
    "projected.avg0",
    "neighbours.avg0",
    "predicted.avg0",
    "loss.avg0",
];

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let mut method = config.build(&config.store(device, 0))?;
    let mut names = Vec::new();
    for head in &mut method.heads {
        let choice = format!("input.choice.{}", head.name);
        if case.tensor(&choice).is_some() {
            let ranks: Vec<i64> = case.flat(&choice)?;
            let ranks = ranks
                .into_iter()
                .filter_map(|rank| usize::try_from(rank).ok());
            head.ranks = Some(ranks.collect());
        }
        names.push(head.name.clone());
    }
    let mut outputs: Vec<(&'static str, Extract)> =
        NAMES.into_iter().map(|name| (name, traced(name))).collect();
    outputs.push((
        "loss_all_local_views",
        Box::new(move |recorded| {
            let losses = names
                .iter()
                .map(|name| recorded.get(&format!("{name}.loss_all_local_views")));
            let losses = losses.collect::<Result<Vec<_>>>()?;
            Ok(Tensor::stack(&losses, 0)?.sum(0)?)
        }),
    ));
    Ok(Setup {
        rounding: Rounding::default(),
        batch: batch(case, &config.crops, device)?,
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "mimrefiner".to_owned())?)?,
        step: StepContext::new(0),
        outputs,
    })
}
