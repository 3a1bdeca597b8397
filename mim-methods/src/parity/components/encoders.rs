//! Encoders on their own.

use std::sync::Arc;

use candle_core::Device;
use mim_core::encoders::{Vit, VitConfig};
use mim_core::nn::Activation;
use mim_core::weights::Source;
use mim_core::{EncodeOptions, Encoder, Masking, ParamStore, StepContext};
use serde::Deserialize;

use super::super::{Case, Recorded, Result, Setup};
use super::Given;
use crate::convmae::GOLDEN;

#[derive(Deserialize)]
struct Clip {
    width: usize,
    layers: usize,
    heads: usize,
    output_dim: usize,
    patch_size: usize,
}

/// CLIP's visual tower, with its weights under both namings.
pub(super) fn clip(case: &Case, device: &Device) -> Result<Given> {
    let clip: Clip = case.needs("clip")?;
    let config = VitConfig {
        image_size: case.needs("image_size")?,
        in_channels: case.needs("in_channels")?,
        patch_size: clip.patch_size,
        embed_dim: clip.width,
        depth: clip.layers,
        num_heads: clip.heads,
        mlp_ratio: case.needs("mlp_ratio")?,
        norm_eps: case.needs("layer_norm_eps")?,
        activation: case.needs::<Activation>("hidden_act")?,
        projection_dim: Some(clip.output_dim),
        ..VitConfig::clip_base()
    };
    let mut given = Given::default();
    for (prefix, source) in [("param.", "openai_clip"), ("hf.", "hf_clip")] {
        let store = ParamStore::teacher(device);
        let tower = Vit::new(&store.root(), &config)?;
        let (theirs, source) = (case.group(prefix), Source::named(source)?);
        let ours = source.import(&theirs)?;
        store.load(&ours)?;
        let back = source.export(&ours)?;
        if !back.names().eq(theirs.names()) {
            let what = format!("`{prefix}*` come back under other names");
            return Err(case.bad(what).into());
        }
        let trace = Arc::new(Recorded::default());
        let step = StepContext {
            trace: Some(trace.clone()),
            ..StepContext::inference()
        };
        let (image, last) = (case.on("input.image", device)?, config.depth - 1);
        let want = EncodeOptions {
            layers: vec![last],
            ..EncodeOptions::default()
        };
        let encoded = tower.encode(&image, Masking::None, &want, &step)?;
        let attention = trace.get("attention")?;
        let no_class_token = || case.bad("the tower has no class token".to_owned());
        given.expect("tokens", encoded.tokens.clone());
        given.expect("image_embeds", encoded.cls()?.ok_or_else(no_class_token)?);
        given.expect("last_hidden_state", encoded.layer(last)?.clone());
        given.expect("ln_pre_out", trace.get("norm_pre")?);
        given.expect("attention", attention.mean(1)?);
        given.expect("attention_heads", attention);
    }
    Ok(given)
}

/// ConvMAE's encoder, in a whole step of the method.
pub(super) fn conv_mae(case: &Case, device: &Device) -> Result<Setup> {
    let renamed = [
        ("patch_size", "patch_sizes"),
        ("embed_dim", "embed_dims"),
        ("depth", "depths"),
        ("mlp_ratio", "mlp_ratios"),
    ];
    let setup = GOLDEN.setup(&case.renamed(&renamed), device)?;
    let (rows, size) = (
        case.needs::<usize>("grid")?,
        case.needs::<usize>("image_size")?,
    );
    case.fixed("output_stride", size / rows)?;
    Ok(setup)
}
