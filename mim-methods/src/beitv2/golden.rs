//! The golden cases of BEiT v2.

use candle_core::Device;
use mim_core::ParamStore;
use mim_core::encoders::VitConfig;
use mim_core::nn::CodebookConfig;
use mim_core::weights::{Source, WeightMap};
use mim_targets::TokenTarget;
use mim_targets::vqkd::{VqKdTokenizer, VqKdTokenizerConfig};

use super::BeitV2Config;
use crate::MethodConfig;
use crate::parity::golden::{BEIT_VIT, Golden, Output, Pixels, Setting, Views, positions, read};
use crate::parity::{Case, Result};
use crate::tokens::TokenView;
use Output::{Hidden, Trace};
use Setting::{Informs, Renamed, Same};

pub(super) const GOLDEN: Golden<BeitV2Config> = Golden {
    settings: &[
        BEIT_VIT,
        Renamed("head_layers", "aggregation.depth"),
        Renamed("shared_lm_head", "aggregation.shared_head"),
        // The mask is recorded.
        Informs(&["mask_ratio"]),
    ],
    also: |case, config| {
        let aggregation = &mut config.aggregation;
        // Theirs is a number of blocks.
        let early: usize = case.setting_or("early_layers", aggregation.layer + 1)?;
        aggregation.layer = early.saturating_sub(1);
        positions(case, &mut config.encoder)
    },
    build: |case, config, device| {
        let target = TokenTarget::new(tokenizer(case, &config.encoder, device)?, 1);
        let vocab_size = target.vocab_size();
        case.fixed("vocab_size", vocab_size)?;
        let view = TokenView {
            index: 1,
            size: config.encoder.image_size.into(),
        };
        let store = config.store(device, 0);
        Ok(Box::new(config.compose(
            &store,
            (target, vocab_size),
            view,
        )?))
    },
    views: Views::Several(&[
        Pixels::Normalized("image"),
        Pixels::Unit("tokenizer_image01"),
    ]),
    outputs: &[
        ("tokens", Trace("target.tokens")),
        ("logits", Hidden("pred.token")),
        ("logits_cls_pt", Hidden("pred.aggregation")),
        ("loss_mim", Trace("loss.token")),
        ("loss_cls_pt", Trace("loss.aggregation")),
    ],
    ..Golden::new("beit", |config| config.encoder.grid())
};

/// The recorded tokenizer of a student.
fn tokenizer(case: &Case, student: &VitConfig, device: &Device) -> Result<VqKdTokenizer> {
    let shared = VitConfig {
        image_size: student.image_size,
        patch_size: student.patch_size,
        in_channels: student.in_channels,
        mlp_ratio: student.mlp_ratio,
        norm_eps: student.norm_eps,
        ..VitConfig::default()
    };
    let base = VqKdTokenizerConfig {
        encoder: VqKdTokenizerConfig::vit(shared),
        codebook: CodebookConfig::default(),
    };
    let own = [
        Same("", "encoder", &["embed_dim", "depth", "num_heads"]),
        Renamed("code_dim", "codebook.dim"),
        Renamed("n_embed", "codebook.size"),
    ];
    let config = read(&case.table("vqkd")?, &base, &own)?;
    let store = ParamStore::teacher(device);
    let tokenizer = VqKdTokenizer::new(&store.root(), &config)?;
    let all = Source::named("vqkd")?.import(&case.group("teacher."))?;
    // The decoder is not needed for tokens.
    let own: WeightMap = all
        .iter()
        .filter(|(name, _)| store.var(name).is_some())
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect();
    store.load(&own)?;
    Ok(tokenizer)
}
