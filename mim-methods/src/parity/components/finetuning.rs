//! Batches of fine-tuning, and its learning rates.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use mim_core::encoders::{EncoderConfig, SwinConfig, VitConfig};
use mim_core::optim::{LayerDecay, NoDecay};
use mim_core::weights::Source;
use mim_core::{Pooling, ops};
use serde::Deserialize;

use super::super::{Case, Result};
use super::Given;
use crate::{CutBox, FinetuneConfig, MethodConfig, Mix, SimMimConfig, mixed_targets};

/// Shares and smoothing of a target of a case.
#[derive(Deserialize)]
struct Mixed {
    lam: f64,
    smoothing: f64,
}

/// Targets and losses of mixed images, and a CutMix.
pub(super) fn mixing(case: &Case, device: &Device) -> Result<Given> {
    let (labels, classes) = (case.on("input.labels", device)?, case.needs("num_classes")?);
    let logits = case.on("input.logits", device)?;
    let targets = |lam: f64, smoothing: f64| mixed_targets(&labels, classes, (lam, smoothing));
    let loss = |targets: Tensor| -> Result<Tensor> {
        Ok(ops::soft_cross_entropy(&logits, &targets, 1.)?.mean_all()?)
    };
    let mut given = Given::default();
    let soft: String = case.needs("soft_ce_target")?;
    for Mixed { lam, smoothing } in case.needs::<Vec<Mixed>>("mixup")? {
        let name = format!("mixup_lam{lam:?}_s{smoothing:?}");
        let targets = targets(lam, smoothing)?;
        if soft == format!("expect.{name}") {
            given.expect("soft_ce", loss(targets.clone())?);
        }
        given.expect(&name, targets);
    }
    let smoothed = targets(1., case.needs("label_smoothing")?)?;
    given.expect("label_smoothing_ce", loss(smoothed)?);
    let cut: Vec<i64> = case.flat("input.cutmix_box")?;
    let side = |at: usize| usize::try_from(cut[at]).unwrap_or_default();
    let (height, width) = ((side(1) - side(0)), (side(3) - side(2)));
    let cut = CutBox {
        top: side(0),
        bottom: side(1),
        left: side(2),
        right: side(3),
    };
    let images = case.on("input.images", device)?;
    let size = (images.dim(2)?, images.dim(3)?);
    // The drawn share determines the box, unless an edge cuts it off.
    let drawn = CutBox::around(
        (size.0 / 2, size.1 / 2),
        case.needs("cutmix_lam_drawn")?,
        size,
    );
    if height > drawn.bottom - drawn.top || width > drawn.right - drawn.left {
        let what = format!("our box of {drawn:?} is smaller than the recorded one");
        return Err(case.bad(what).into());
    }
    let (mixed, lam) = Mix::CutMix { cut }.apply(&images)?;
    given.expect("cutmix_images", mixed);
    given.expect(
        "cutmix_lam",
        Tensor::new(lam, device)?.to_dtype(DType::F32)?,
    );
    Ok(given)
}

/// An encoder of a case, and its decay.
#[derive(Deserialize)]
struct Decay {
    backbone: Option<String>,
    depth: Option<usize>,
    depths: Option<Vec<usize>>,
    layer_decay: f64,
    global_pool: Option<bool>,
}

/// The recorded values of a parameter.
#[derive(Deserialize)]
struct Group {
    lr_scale: f64,
    weight_decay: f64,
    #[serde(rename = "group")]
    _group: Option<String>,
}

impl Decay {
    /// A small fine-tuned network with the recorded names, and its parameters without decay.
    fn network(&self) -> Result<(FinetuneConfig, &'static str, NoDecay)> {
        let pooling = match self.global_pool {
            Some(false) => Pooling::Cls,
            _ => Pooling::Mean,
        };
        let names = ["pos_embed", "cls_token", "mask_token"].map(str::to_owned);
        let mut no_decay = NoDecay {
            names: names.into(),
            ..NoDecay::default()
        };
        let small = |vit: VitConfig| VitConfig {
            embed_dim: 8,
            num_heads: 1,
            depth: self.depth.unwrap_or_default(),
            ..vit
        };
        let (mut encoder, source): (EncoderConfig, _) =
            match (self.backbone.as_deref(), &self.depths) {
                (_, Some(depths)) => {
                    no_decay.contains = vec!["relative_position_bias_table".to_owned()];
                    let swin = SwinConfig {
                        embed_dim: 4,
                        num_heads: vec![1; depths.len()],
                        depths: depths.clone(),
                        ..SwinConfig::default()
                    };
                    (swin.into(), "simmim")
                }
                (Some(_), None) => match SimMimConfig::arch("vit_base")?.encoder {
                    EncoderConfig::Vit(vit) => (small(vit).into(), "simmim"),
                    other => (other, "simmim"),
                },
                (None, None) => (small(VitConfig::default()).into(), "mae"),
            };
        FinetuneConfig::adapt(&mut encoder, pooling);
        let config = FinetuneConfig {
            num_classes: 2,
            pooling,
            encoder,
            ..FinetuneConfig::default()
        };
        Ok((config, source, no_decay))
    }
}

/// The factor of the learning rate and the weight decay of every parameter.
pub(super) fn layer_decay(case: &Case, device: &Device) -> Result<Given> {
    let weight_decay: f64 = case.needs("weight_decay")?;
    let recorded: BTreeMap<String, BTreeMap<String, Group>> = case.values()?;
    let mut given = Given::default();
    for (table, settings) in case.needs::<BTreeMap<String, Decay>>("tables")? {
        let (config, source, no_decay) = settings.network()?;
        let (store, source) = (config.store(device, 0), Source::named(source)?);
        config.build(&store)?;
        let trainable = store.trainable();
        let names = trainable.iter().map(|(name, _)| name.as_str());
        let layers = LayerDecay::of_names(settings.layer_decay, names);
        let theirs = recorded.get(&table);
        let mut left = theirs.map_or(0, BTreeMap::len);
        let (mut ours, mut wanted) = (Vec::new(), Vec::new());
        for (name, var) in trainable {
            let decays = !no_decay.holds(&name, var.dims());
            let one = std::iter::once((name.clone(), var.as_detached_tensor())).collect();
            for known in source.export(&one)?.names() {
                let known = known.strip_prefix("encoder.").unwrap_or(known);
                let Some(group) = theirs.and_then(|theirs| theirs.get(known)) else {
                    let what = format!("{table} has no `{known}`, which is our `{name}`");
                    return Err(case.bad(what).into());
                };
                ours.extend([layers.scale(&name), if decays { weight_decay } else { 0. }]);
                wanted.extend([group.lr_scale, group.weight_decay]);
                left -= 1;
            }
        }
        if left > 0 {
            let what = format!("{left} parameters of {table} are not ours");
            return Err(case.bad(what).into());
        }
        given.numbers(&format!("values.{table}"), &ours, &wanted)?;
    }
    Ok(given)
}
