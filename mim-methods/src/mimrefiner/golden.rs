//! The golden cases of MIM-Refiner.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use mim_core::{Batch, Method, Pooling, View};
use serde::Deserialize;

use super::{MimRefinerConfig, head_name};
use crate::CropsConfig;
use crate::MethodConfig;
use crate::parity::golden::{Golden, Made, Masks, Output, Plain, Setting, VIT, Views, several};
use crate::parity::{Case, Problem, Recorded, Result};
use Output::{By, Trace};
use Setting::{Renamed, Same, Set};

pub(super) const GOLDEN: Golden<MimRefinerConfig> = Golden {
    settings: &[
        VIT,
        Set("encoder.resize_positions", Plain::Bool(true)),
        Renamed("num_global", "crops.global"),
        Renamed("num_local", "crops.local"),
        Same("", "crops", &["local_size"]),
        Renamed("encoder_frozen", "freeze_encoder"),
        Same(
            "",
            "",
            &["proj_hidden_dim", "pred_hidden_dim", "queue_size", "topk"],
        ),
        Renamed("output_dim", "out_dim"),
        Same("", "objective", &["temperature"]),
    ],
    also: |case, config| {
        (config.blocks, config.pooling) = heads(case)?;
        Ok(())
    },
    build,
    views: Views::By(|case, config, device| batch(case, &config.crops, device)),
    masks: Masks::None,
    outputs: &[
        ("features.*", Trace("features.*")),
        ("projected.*", Trace("projected.*")),
        ("neighbours.*", Trace("neighbours.*")),
        ("predicted.*", Trace("predicted.*")),
        ("loss.*", Trace("loss.*")),
        ("loss_all_local_views", By(over_heads)),
    ],
    ..Golden::new("mimrefiner", |config| config.encoder.grid())
};

/// The method, which draws the recorded ranks among nearest neighbours.
fn build(case: &Case, config: &MimRefinerConfig, device: &Device) -> Result<Box<dyn Method>> {
    let mut method = config.build(&config.store(device, 0))?;
    for head in &mut method.heads {
        let choice = format!("input.choice.{}", head.name);
        if case.tensor(&choice).is_some() {
            let ranks: Vec<i64> = case.flat(&choice)?;
            let ranks = ranks
                .into_iter()
                .filter_map(|rank| usize::try_from(rank).ok());
            head.ranks = Some(ranks.collect());
        }
    }
    Ok(Box::new(method))
}

/// The sum of the losses of all heads.
fn over_heads(made: &Made<MimRefinerConfig>, recorded: &Recorded) -> Result<Tensor> {
    let (config, main) = (&made.config, std::iter::once("main".to_owned()));
    let blocks = config.blocks.iter();
    let names = main.chain(blocks.map(|block| head_name(config.pooling, *block)));
    let losses = names.map(|name| recorded.get(&format!("{name}.loss_all_local_views")));
    let losses = losses.collect::<Result<Vec<_>>>()?;
    Ok(Tensor::stack(&losses, 0)?.sum(0)?)
}

/// A head of a case.
#[derive(Deserialize)]
struct Head {
    block: Option<usize>,
    pooling: String,
}

/// Blocks with a head, and the pooling.
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

fn batch(case: &Case, crops: &CropsConfig, device: &Device) -> Result<Batch> {
    let view = |name: String| Ok(View::new(case.on(&name, device)?, vec![])?);
    let globals = (0..crops.global).map(|index| view(format!("input.global_{index}")));
    let locals = (0..crops.local).map(|index| view(format!("input.local_{index}")));
    let views = globals.chain(locals).collect::<Result<Vec<_>>>()?;
    let indices: Vec<u32> = case.flat("input.index")?;
    // Classes only enter the queue and are not recorded: image `i` gets class `i`.
    let labels: Vec<u32> = (0u32..).take(indices.len()).collect();
    Ok(Batch {
        labels: Some(Tensor::new(labels, device)?),
        indices,
        ..several(views)
    })
}
