//! The golden cases of VQ-KD: the tokenizer within a case of BEiT v2.

use mim_targets::TargetGenerator;
use mim_targets::vqkd::VqKdTokenizerConfig;

use super::VqKdConfig;
use crate::MethodConfig;
use crate::parity::golden::{Golden, Known, Masks, Output, Pixels, Plain, Setting, VIT, Views};
use Output::Trace;
use Setting::{Fixed, Informs, Renamed};

pub(super) const GOLDEN: Golden<VqKdConfig> = Golden {
    settings: &[
        Fixed("qkv_bias", Plain::Text("q_and_v")),
        VIT,
        Renamed("embed_dim", "decoder.embed_dim"),
        Renamed("num_heads", "decoder.num_heads"),
        Renamed("decoder_depth", "decoder.depth"),
        Renamed("beta", "commitment_weight"),
        Renamed("n_embed", "codebook.size"),
        Renamed("code_dim", "codebook.dim"),
        Renamed("codebook_ema.momentum", "codebook.decay"),
        // Our method always uses [-1, 1].
        Informs(&["input_norm", "teacher_dim"]),
    ],
    also: |case, config| {
        config.encoder = VqKdTokenizerConfig::vit(config.encoder.clone());
        case.fixed("decay", config.codebook.decay)
    },
    build: |case, config, device| {
        let features = case.on("input.teacher_features", device)?;
        let values = features.dim(2)?;
        let target: Box<dyn TargetGenerator> = Box::new(Known(features));
        let store = config.store(device, 0);
        Ok(Box::new(config.compose(&store, Some((target, values)))?))
    },
    views: Views::Several(&[Pixels::Unit("tokenizer_image01")]),
    masks: Masks::None,
    outputs: &[
        ("tokens", Trace("codes")),
        ("pre_quant", Trace("pre_quant")),
        ("reconstruction", Trace("reconstruction")),
        ("quant_loss", Trace("loss.commitment")),
        ("rec_loss", Trace("loss.reconstruction")),
    ],
    ..Golden::new("vqkd", |config| config.encoder.grid())
};
