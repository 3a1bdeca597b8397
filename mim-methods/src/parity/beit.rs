//! Golden cases of BEiT, and what its relatives share with them.

use candle_core::{D, DType, Device, Tensor};
use mim_core::encoders::{RelPosBiasKind, VitConfig};
use mim_core::nn::{PosEmbedKind, QkvBias};
use mim_core::params::ParamStore;
use mim_core::weights::Source;
use mim_core::{Batch, Mask, Method, StepContext, View};
use mim_masking::{BlockwiseMaskerConfig, HiddenCount};
use mim_targets::TokenTarget;
use mim_targets::dvae::{DvaeConfig, DvaeEncoder};
use serde::Deserialize;

use super::mae;
use super::run::Extract;
use super::{Case, Problem, Recorded, Result, Rounding, Setup};
use crate::tokens::TokenView;
use crate::{BeitConfig, MethodConfig};

/// A setting that cases spell in one of two ways.
fn flag(case: &Case, keys: [&str; 2], default: bool) -> Result<bool> {
    let first = case.setting(keys[0])?;
    let second = case.setting(keys[1])?;
    Ok(first.or(second).unwrap_or(default))
}

/// BEiT's kind of ViT of a case.
pub(crate) fn vit(case: &Case, defaults: VitConfig) -> Result<VitConfig> {
    case.fixed("qkv_bias", "q_and_v".to_owned())?;
    case.fixed("drop_path", 0.)?;
    let shared = defaults.rel_pos_bias.is_shared();
    let rel_pos_bias = match (
        flag(
            case,
            ["use_shared_rel_pos_bias", "shared_rel_pos_bias"],
            shared,
        )?,
        flag(case, ["use_rel_pos_bias_per_block", "rel_pos_bias"], false)?,
    ) {
        (true, true) => RelPosBiasKind::Both,
        (true, false) => RelPosBiasKind::Shared,
        (false, true) => RelPosBiasKind::PerBlock,
        (false, false) => RelPosBiasKind::None,
    };
    let learned = defaults.pos_embed == PosEmbedKind::Learned;
    let pos_embed = match flag(case, ["use_abs_pos_emb", "abs_pos_embed"], learned)? {
        true => PosEmbedKind::Learned,
        false => PosEmbedKind::None,
    };
    let init = defaults.layer_scale_init.unwrap_or(0.);
    let init: f64 = case.setting_or("layer_scale_init", init)?;
    Ok(VitConfig {
        qkv_bias: QkvBias::QV,
        rel_pos_bias,
        pos_embed,
        layer_scale_init: (init > 0.).then_some(init),
        attn_drop_rate: 0.,
        ..mae::vit(case, defaults)?
    })
}

/// `masker` of a case.
#[derive(Deserialize)]
struct Masker {
    kind: String,
    num_masking_patches: usize,
    min_num_patches: usize,
    max_num_patches: usize,
    min_aspect: f64,
}

fn masker(case: &Case, default: BlockwiseMaskerConfig) -> Result<BlockwiseMaskerConfig> {
    let Some(masker) = case.setting::<Masker>("masker")? else {
        return Ok(default);
    };
    if masker.kind != "blockwise" {
        return Err(Problem::unknown(format!("BEiT with {} masks", masker.kind)));
    }
    let count = masker.num_masking_patches;
    Ok(BlockwiseMaskerConfig {
        hidden: HiddenCount::Patches { count },
        min_block: masker.min_num_patches,
        max_block: Some(masker.max_num_patches),
        min_aspect: masker.min_aspect,
        ..default
    })
}

/// `tokenizer` of a case.
#[derive(Deserialize)]
struct Tokenizer {
    kind: String,
    n_hid: usize,
    n_blk_per_group: usize,
    group_count: usize,
    vocab_size: usize,
    logit_laplace_eps: f64,
    input_map: String,
}

/// The dVAE of a case with its recorded weights, which sees view 1.
fn tokenizer(case: &Case, device: &Device) -> Result<(TokenTarget, usize)> {
    let missing = || Problem::unknown("a case without a tokenizer");
    let own: Tokenizer = case.setting("tokenizer")?.ok_or_else(missing)?;
    let known = own.kind == "dall_e_encoder" && own.input_map == "logit_laplace";
    if !known || own.group_count != 4 || own.logit_laplace_eps != 0.1 {
        let what = format!("the tokenizer {} of {} groups", own.kind, own.group_count);
        return Err(Problem::unknown(what));
    }
    case.fixed("vocab_size", own.vocab_size)?;
    let config = DvaeConfig {
        n_hid: own.n_hid,
        n_blk_per_group: own.n_blk_per_group,
        vocab_size: own.vocab_size,
        ..DvaeConfig::default()
    };
    let store = ParamStore::teacher(device);
    let encoder = DvaeEncoder::new(&store.root().pp("encoder"), &config)?;
    store.load(&Source::named("dvae")?.import(&case.group("teacher."))?)?;
    Ok((TokenTarget::new(encoder, 1), own.vocab_size))
}

/// The rows of hidden patches of a traced `[rows, tokens]` or `[rows, tokens, C]`, as many as there are in all.
pub(crate) fn hidden(name: &'static str, mask: &Mask) -> Extract {
    let mask = mask.clone();
    Box::new(move |recorded: &Recorded| hidden_rows(recorded, name, &mask))
}

fn hidden_rows(recorded: &Recorded, name: &str, mask: &Mask) -> Result<Tensor> {
    let all = recorded.get(name)?;
    let ids = mask.flat(true, all.dim(0)?, all.device())?;
    Ok(all.flatten(0, 1)?.index_select(&ids, 0)?)
}

pub(crate) fn traced(name: &'static str) -> Extract {
    Box::new(move |recorded: &Recorded| recorded.get(name))
}

/// Share of the hidden patches whose most likely token is theirs.
fn accuracy(mask: &Mask) -> Extract {
    let mask = mask.clone();
    Box::new(move |recorded: &Recorded| {
        let logits = hidden_rows(recorded, "pred.token", &mask)?;
        let tokens = hidden_rows(recorded, "target.tokens", &mask)?;
        let hits = logits.argmax(D::Minus1)?.eq(&tokens)?;
        Ok(hits.to_dtype(DType::F32)?.mean_all()?)
    })
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    // It follows from the masker.
    case.informs(&["mask_ratio"]);
    let defaults = BeitConfig::default();
    let config = BeitConfig {
        masker: masker(case, defaults.masker)?,
        encoder: vit(case, defaults.encoder)?,
        ..BeitConfig::default()
    };
    let grid = config.encoder.grid()?;
    let mask = Mask::from_bits(grid, &case.bits("input.mask", grid)?)?;
    let side = DvaeConfig::STRIDE;
    let view = TokenView {
        index: 1,
        size: (grid.rows * side, grid.cols * side),
    };
    let (store, tokens) = (config.store(device, 0), tokenizer(case, device)?);
    let mut method = config.compose("beit", &store, tokens, view)?;
    method.override_mask(mask.clone())?;
    let input = |name: &str| {
        case.required(name)?
            .to_device(device)
            .map_err(Problem::from)
    };
    let views = vec![
        View::new(input("input.image")?, vec![])?,
        View::of_unit(input("input.tokenizer_image01")?, vec![])?,
    ];
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "beit".to_owned())?)?,
        step: StepContext::new(0),
        batch: Batch {
            views: views.clone(),
            ..Batch::single(views[0].clone())
        },
        outputs: vec![
            ("tokens", traced("target.tokens")),
            ("labels", hidden("target.tokens", &mask)),
            ("patch_embed", traced("patch_embed")),
            ("block0", traced("block0")),
            ("latent", traced("latent")),
            ("logits_masked", hidden("pred.token", &mask)),
            ("mlm_acc", accuracy(&mask)),
        ],
    })
}
