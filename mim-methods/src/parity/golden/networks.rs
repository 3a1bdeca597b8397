//! Frozen networks with recorded weights, and settings that several students share.

use candle_core::{Device, Tensor};
use mim_core::encoders::{ConvMaeConfig as HybridConfig, RelPosBiasKind, Vit, VitConfig};
use mim_core::nn::PosEmbedKind;
use mim_core::weights::Source;
use mim_core::{Encoder, ParamStore, Target};
use mim_targets::{TargetGenerator, TargetRequest};
use serde_json::Value as Json;
use toml::Value;

use super::super::{Case, Result};
use super::settings::{self, Plain, Setting, VIT, positive};
use Setting::{Converted, Fixed, Group, Renamed, Same, Set};

/// A ViT of BEiT's kind as `encoder`, except its positions and their biases.
pub const BEIT_VIT: Setting = Group(&[
    Fixed("qkv_bias", Plain::Text("q_and_v")),
    Fixed("drop_path", Plain::Float(0.)),
    Set("encoder.qkv_bias", Plain::Text("q_v")),
    Set("encoder.attn_drop_rate", Plain::Float(0.)),
    VIT,
    Converted("layer_scale_init", "encoder.layer_scale_init", positive),
]);

/// A Swin as `encoder`, whose `type` is already set.
pub const SWIN: Setting = Group(&[
    Fixed("ape", Plain::Bool(false)),
    Fixed("use_abs_pos_emb", Plain::Bool(false)),
    Set("encoder.mask_token", Plain::Bool(true)),
    Set("encoder.drop_path_rate", Plain::Float(0.)),
    settings::QKV_BIAS,
    Same(
        "",
        "encoder",
        &[
            "image_size",
            "patch_size",
            "in_channels",
            "embed_dim",
            "depths",
            "num_heads",
            "window_size",
            "mlp_ratio",
            "norm_eps",
            "drop_path_rate",
            "patch_norm",
        ],
    ),
]);

/// A tower of CLIP, in its own table.
pub const CLIP: &[Setting] = &[
    Same(
        "",
        "",
        &[
            "image_size",
            "patch_size",
            "mlp_ratio",
            "norm_eps",
            "activation",
        ],
    ),
    Renamed("width", "embed_dim"),
    Renamed("layers", "depth"),
    Renamed("heads", "num_heads"),
    Renamed("output_dim", "projection_dim"),
];

/// Which positions a ViT of BEiT's kind adds, and which tables of biases it has. Cases spell these flags in several
/// ways; an absent flag has its default value.
pub(crate) fn positions(case: &Case, encoder: &mut VitConfig) -> Result<()> {
    let flag = |keys: &[&str], default: bool| -> Result<bool> {
        let mut found = None;
        for key in keys {
            let own = case.setting(key)?;
            found = found.or(own);
        }
        Ok(found.unwrap_or(default))
    };
    let shared = flag(
        &["use_shared_rel_pos_bias", "shared_rel_pos_bias"],
        encoder.rel_pos_bias.is_shared(),
    )?;
    let own = [
        "use_rel_pos_bias_per_block",
        "use_rel_pos_bias",
        "rel_pos_bias",
    ];
    encoder.rel_pos_bias = match (shared, flag(&own, false)?) {
        (true, true) => RelPosBiasKind::Both,
        (true, false) => RelPosBiasKind::Shared,
        (false, true) => RelPosBiasKind::PerBlock,
        (false, false) => RelPosBiasKind::None,
    };
    let learned = encoder.pos_embed == PosEmbedKind::Learned;
    encoder.pos_embed = match flag(&["use_abs_pos_emb", "abs_pos_embed"], learned)? {
        true => PosEmbedKind::Learned,
        false => PosEmbedKind::None,
    };
    Ok(())
}

/// A frozen ViT with the weights under `teacher.` and the settings of the table `key`.
pub(crate) fn frozen_vit(
    case: &Case,
    (key, known): (&str, &[Setting]),
    base: VitConfig,
    source: &str,
    device: &Device,
) -> Result<Box<dyn Encoder>> {
    let config: VitConfig = settings::read(&case.table(key)?, &base, known)?;
    let store = ParamStore::teacher(device);
    let vit = Vit::new(&store.root(), &config)?;
    store.load(&Source::named(source)?.import(&case.group("teacher."))?)?;
    Ok(Box::new(vit))
}

/// Recorded targets instead of a network that computes them.
pub(crate) struct Known(pub(crate) Tensor);

impl TargetGenerator for Known {
    fn generate(&self, _rq: &TargetRequest<'_>) -> mim_core::Result<Target> {
        Ok(Target::patches(self.0.clone()))
    }
}

/// ConvMAE's hybrid as `encoder`, and MAE's decoder; the ratio of the decoder's MLPs is that of the encoder's first stage.
pub const HYBRID: Setting = Group(&[
    Fixed("qkv_bias", Plain::Bool(true)),
    Converted("mlp_ratio", "encoder.mlp_ratios", thrice),
    Renamed("mlp_ratio", "decoder.mlp_ratio"),
    Renamed("norm_eps", "decoder.norm_eps"),
    Renamed("conv_norm_eps", "encoder.conv_norm_eps"),
    Renamed("conv_block_norm_eps", "encoder.conv_norm_eps"),
    Same(
        "",
        "encoder",
        &[
            "image_size",
            "in_channels",
            "patch_sizes",
            "embed_dims",
            "depths",
            "num_heads",
            "mlp_ratios",
            "norm_eps",
        ],
    ),
    Converted("mlp_ratios", "decoder.mlp_ratio", first),
    Same(
        "decoder",
        "decoder",
        &["embed_dim", "depth", "num_heads", "mlp_ratio"],
    ),
]);

/// Values that follow from the sizes of a hybrid.
pub(crate) fn hybrid(case: &Case, encoder: &HybridConfig) -> Result<()> {
    case.fixed("patch_size", encoder.patch_sizes[0])?;
    let stride: usize = encoder.patch_sizes.iter().product();
    case.fixed("output_stride", stride)
}

fn thrice(theirs: &Json) -> Result<Option<Value>> {
    Ok(Some(vec![settings::as_toml(theirs)?; 3].into()))
}

fn first(theirs: &Json) -> Result<Option<Value>> {
    theirs.get(0).map(settings::as_toml).transpose()
}
