//! The golden cases of PeCo's tokenizer.

use candle_core::{Device, Tensor};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::nn::PosEmbedKind;
use mim_core::weights::WeightMap;
use mim_core::{Encoder, Norm, ParamStore, PatchGrid};
use serde::Deserialize;

use super::PecoTokenizerConfig;
use crate::MethodConfig;
use crate::parity::golden::{Golden, Masks, Output, Pixels, Plain, Setting, Views, read};
use crate::parity::{Case, Problem, Result};
use Output::{By, ChannelsFirst, Part, Trace};
use Setting::{Fixed, Informs, Renamed, Same, Set};

pub(super) const GOLDEN: Golden<PecoTokenizerConfig> = Golden {
    settings: &[
        Same("", "", &["image_size", "pixel_loss", "perceptual_weight"]),
        Renamed("commitment_beta", "commitment_weight"),
        Same("", "network", &["in_channels", "hidden_dim"]),
        Renamed("downsample_levels", "network.levels"),
        Renamed("codebook_size", "network.codebook.size"),
        Renamed("codebook_dim", "network.codebook.dim"),
        Set("network.codebook.decay", Plain::Float(0.99)),
        Renamed("codebook_ema.momentum", "network.codebook.decay"),
        Renamed("codebook_ema.eps", "network.codebook.metric.eps"),
        Fixed("teacher.kind", Plain::Text("vit")),
        Same("teacher.input_norm", "target.norm", &["mean", "std"]),
        // The margin of the nearest code.
        Informs(&["min_code_gap"]),
    ],
    also: |case, config| {
        let blocks: Vec<usize> = case.needs("teacher.layers")?;
        // Their blocks count from 1.
        config.layers = blocks.iter().map(|block| block.saturating_sub(1)).collect();
        case.fixed("patch_size", config.network.stride())?;
        let own: Option<InputNorm> = case.setting("input_norm")?;
        match own.is_none_or(|own| own.norm() == config.network.norm()) {
            true => Ok(()),
            false => Err(Problem::unknown(
                "PeCo's tokenizer on other values than [-1, 1]",
            )),
        }
    },
    build: |case, config, device| {
        let critic = teacher(case, config, device)?;
        let store = config.store(device, 0);
        Ok(Box::new(config.compose(&store, Some(critic))?))
    },
    views: Views::Several(&[Pixels::Unit("image01")]),
    masks: Masks::None,
    outputs: &[
        ("latent", ChannelsFirst("latent")),
        (
            "codes",
            By(|made, recorded| Ok(recorded.get("codes")?.reshape((made.images, ()))?)),
        ),
        (
            "quantized",
            By(|_, recorded| {
                let map = recorded.get("latent")?;
                channels_first(&recorded.get("quantized")?.reshape(map.shape())?)
            }),
        ),
        ("reconstruction", Trace("reconstruction")),
        ("pixel_*", Trace("loss.*")),
        ("commitment", Trace("loss.commitment")),
        ("perceptual_per_layer", Trace("teacher.perceptual")),
        ("perceptual", Trace("loss.perceptual")),
        (
            "teacher_feature_layer*",
            Part(|made, recorded, block| {
                let number: Option<usize> = block.parse().ok();
                let index = number.and_then(|number| number.checked_sub(1));
                let none = || made.case.bad(format!("there is no block `{block}`"));
                recorded.get(&format!("teacher.layer{}", index.ok_or_else(none)?))
            }),
        ),
    ],
    // It has our names, which are also MAE's.
    ..Golden::new("mae", |config| {
        PatchGrid::of_image(config.image_size.into(), config.network.stride())
    })
};

#[derive(Deserialize)]
struct InputNorm {
    mean: Vec<f64>,
    std: Vec<f64>,
}

impl InputNorm {
    fn norm(self) -> Norm {
        Norm {
            mean: self.mean,
            std: self.std,
            ..Norm::imagenet()
        }
    }
}

/// The recorded frozen network.
fn teacher(case: &Case, config: &PecoTokenizerConfig, device: &Device) -> Result<Box<dyn Encoder>> {
    let norm: InputNorm = case.needs("teacher.input_norm")?;
    let base = VitConfig {
        image_size: config.image_size,
        in_channels: norm.mean.len(),
        pos_embed: PosEmbedKind::Learned,
        final_norm: false,
        ..VitConfig::default()
    };
    let sizes = Same(
        "",
        "",
        &["patch_size", "embed_dim", "depth", "num_heads", "norm_eps"],
    );
    let config: VitConfig = read(&case.table("teacher")?, &base, &[sizes])?;
    let store = ParamStore::teacher(device);
    let vit = Vit::new(&store.root(), &config)?;
    let weights = case.group("teacher.");
    let weights: WeightMap = weights
        .iter()
        .map(|(name, tensor)| (renamed(name), tensor.clone()))
        .collect();
    store.load(&weights)?;
    Ok(Box::new(vit))
}

/// Our name of a parameter of the recorded transformer.
fn renamed(name: &str) -> String {
    let name = match name {
        "cls" => "cls_token".to_owned(),
        "pos" => "pos_embed".to_owned(),
        _ => name.replacen("patch.", "patch_embed.proj.", 1),
    };
    let inner = [
        (".qkv.", ".attn.qkv."),
        (".proj.", ".attn.proj."),
        (".fc1.", ".mlp.fc1."),
        (".fc2.", ".mlp.fc2."),
    ];
    match name.starts_with("blocks.") {
        true => inner
            .iter()
            .fold(name, |name, (theirs, ours)| name.replacen(theirs, ours, 1)),
        false => name,
    }
}

/// A map `[batch, rows, cols, dim]` with the channels moved to the front.
fn channels_first(map: &Tensor) -> Result<Tensor> {
    Ok(map.permute((0, 3, 1, 2))?.contiguous()?)
}
