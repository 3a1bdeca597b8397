//! Parts of CAPI: its masks, its clustering head and its blocks.

use candle_core::{Device, Tensor};
use mim_core::encoders::RopeVitConfig;
use mim_core::nn::{OnlineClusteringConfig, Placed, RopeBlock, RopeBlockConfig};
use mim_core::params::{Init, ParamStore};
use mim_core::weights::Source;
use mim_core::{PatchGrid, StepContext};
use mim_masking::InverseBlockMaskerConfig;
use serde::Deserialize;

use super::super::golden::unseen;
use super::super::{Case, Problem, Result};
use super::Given;
use crate::capi::golden::{ids, replay};

/// CAPI's masks.
pub(super) fn masks(case: &Case, _device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Setting {
        grid: [usize; 2],
        batch: usize,
        mask_ratio: f64,
        prediction_subsampling: f64,
        roll: bool,
        min_aspect: f64,
        max_aspect: Option<f64>,
        generator: String,
    }
    let mut given = Given::default();
    for (index, setting) in case.needs::<Vec<Setting>>("cases")?.into_iter().enumerate() {
        let config = InverseBlockMaskerConfig {
            mask_ratio: setting.mask_ratio,
            pred_ratio: setting.prediction_subsampling,
            min_aspect: setting.min_aspect,
            max_aspect: setting.max_aspect,
            roll: setting.roll,
            inverse: match setting.generator.as_str() {
                "InverseBlock" => true,
                "Block" => false,
                other => return Err(Problem::unknown(format!("CAPI's masks of {other}"))),
            },
        };
        let grid = PatchGrid::new(setting.grid[0], setting.grid[1]);
        let suffix = format!("_{index}");
        let mask = replay(case, &config, (grid, setting.batch), &suffix)?;
        let name = format!("mask{suffix}");
        let theirs = case.required(&format!("expect.{name}"))?;
        let bits = Tensor::new(unseen(&mask), &Device::Cpu)?.reshape(theirs.dims())?;
        given.expect(&name, bits);
        for (name, hidden) in [("visible_indices", false), ("predict_indices", true)] {
            let ids = ids(&mask, hidden)?;
            let name = format!("{name}{suffix}");
            let theirs = case.required(&format!("expect.{name}"))?;
            given.expect(&name, ids.reshape(theirs.dims())?);
        }
    }
    Ok(given)
}

/// A store with the parameters of setting `index`, and their gradients by name after `loss`.
fn gradients(given: &mut Given, store: &ParamStore, prefix: &str, loss: &Tensor) -> Result<()> {
    let grads = loss.backward()?;
    let source = Source::named("capi")?;
    for (name, var) in store.trainable() {
        if let Some(grad) = grads.get(&var) {
            // The names of a block in a backbone, without their prefix.
            let ours = format!("blocks.0.{name}");
            let one = [(ours, grad.clone())].into_iter().collect();
            for (theirs, grad) in source.export(&one)?.iter() {
                let theirs = theirs.strip_prefix("backbone.encoder.blocks.0.");
                let name = theirs.unwrap_or(&name);
                given.grad(&format!("{prefix}.{name}"), grad.clone());
            }
        }
    }
    Ok(())
}

fn load(case: &Case, store: &ParamStore, prefix: &str) -> Result<()> {
    let source = Source::named("capi")?;
    let own = case.group(&format!("param.{prefix}."));
    let theirs = own.iter().map(|(name, tensor)| {
        let name = format!("backbone.encoder.blocks.0.{name}");
        (name, tensor.clone())
    });
    let ours = source.import(&theirs.collect())?;
    let ours = ours.iter().map(|(name, tensor)| {
        let name = name.strip_prefix("backbone.encoder.").unwrap_or(name);
        let name = name.strip_prefix("blocks.0.").unwrap_or(name);
        (name.to_owned(), tensor.clone())
    });
    store.load(&ours.collect())?;
    Ok(())
}

/// CAPI's clustering head.
pub(super) fn clustering(case: &Case, device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Setting {
        bias: bool,
        n_sk_iter: usize,
        target_temp: f64,
        pred_temp: f64,
        positionwise_sk: bool,
        dim: usize,
        num_clusters: usize,
    }
    let mut given = Given::default();
    for (index, setting) in case.needs::<Vec<Setting>>("cases")?.into_iter().enumerate() {
        let config = OnlineClusteringConfig {
            num_clusters: setting.num_clusters,
            bias: setting.bias,
            target_temp: setting.target_temp,
            pred_temp: setting.pred_temp,
            iterations: setting.n_sk_iter,
            by_position: setting.positionwise_sk,
        };
        let store = ParamStore::new(device, 0, Init::Capi.build(1));
        let head = config.build(&store.root(), setting.dim)?;
        load(case, &store, &index.to_string())?;
        let features = case.on(&format!("input.features_{index}"), device)?;
        let clustered = head.forward(&features, &StepContext::new(0))?;
        gradients(&mut given, &store, &index.to_string(), &clustered.loss)?;
        given.expect(&format!("logits_{index}"), clustered.logits);
        given.expect(&format!("assignments_{index}"), clustered.assignments);
        given.expect(&format!("loss_{index}"), clustered.loss);
    }
    Ok(given)
}

/// One block of CAPI with recorded permutations of the rows.
pub(super) fn drop_path(case: &Case, device: &Device) -> Result<Given> {
    #[derive(Deserialize)]
    struct Setting {
        dim: usize,
        num_heads: usize,
        drop_path: f64,
        context_dim: Option<usize>,
        n_keep: usize,
    }
    let norm_eps: f64 = case.needs("norm_eps")?;
    let defaults = RopeVitConfig::default().block();
    let mut given = Given::default();
    for (index, setting) in case.needs::<Vec<Setting>>("cases")?.into_iter().enumerate() {
        let config = RopeBlockConfig {
            dim: setting.dim,
            context_dim: setting.context_dim,
            num_heads: setting.num_heads,
            norm_eps,
            drop_path: setting.drop_path,
            ..defaults
        };
        let store = ParamStore::new(device, 0, Init::Capi.build(1));
        let block = RopeBlock::new(&store.root(), &config, 0)?;
        load(case, &store, &index.to_string())?;
        let input = |name: &str| case.on(&format!("input.{name}_{index}"), device);
        let (tokens, positions) = (input("x")?, input("coords")?);
        let own = Placed {
            tokens: &tokens,
            positions: &positions,
        };
        let seen = match setting.context_dim {
            Some(_) => Some((input("context")?, input("context_coords")?)),
            None => None,
        };
        let context = seen
            .as_ref()
            .map(|(tokens, positions)| Placed { tokens, positions });
        let permutations: Vec<u32> = case.flat(&format!("input.permutations_{index}"))?;
        let (first, second) = permutations.split_at(permutations.len() / 2);
        let kept = [first, second].map(|order| order.get(..setting.n_keep));
        let ys = block.forward_keeping(own, context, kept)?;
        let loss = ys.sqr()?.mean_all()?;
        gradients(&mut given, &store, &index.to_string(), &loss)?;
        given.expect(&format!("y_{index}"), ys);
        given.expect(&format!("loss_{index}"), loss);
    }
    Ok(given)
}
