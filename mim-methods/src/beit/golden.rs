//! The golden cases of BEiT, and those of transformers' BEiT, whose tokens are recorded.

use candle_core::{D, DType, Device, Tensor};
use mim_core::weights::Source;
use mim_core::{Batch, Mask, ParamStore, View};
use mim_targets::TokenTarget;
use mim_targets::dvae::{DvaeConfig, DvaeEncoder};

use super::BeitConfig;
use crate::MethodConfig;
use crate::parity::golden::{
    BEIT_VIT, Golden, Known, Made, Output, Pixels, Plain, Setting, Views, patches, positions, read,
    several,
};
use crate::parity::{Case, Recorded, Result};
use crate::tokens::TokenView;
use Output::{By, Hidden, Trace, TraceOf};
use Setting::{Converted, Fixed, Informs, Renamed, Same};

pub(super) const GOLDEN: Golden<BeitConfig> = Golden {
    settings: &[
        BEIT_VIT,
        Fixed("masker.kind", Plain::Text("blockwise")),
        Converted("masker.num_masking_patches", "masker.hidden", patches),
        Renamed("masker.min_num_patches", "masker.min_block"),
        Renamed("masker.max_num_patches", "masker.max_block"),
        Renamed("masker.min_aspect", "masker.min_aspect"),
        // It follows from the masker.
        Informs(&["mask_ratio"]),
    ],
    also: |case, config| positions(case, &mut config.encoder),
    build: |case, config, device| {
        let (grid, side) = (config.encoder.grid()?, DvaeConfig::STRIDE);
        let view = TokenView {
            index: 1,
            size: (grid.rows * side, grid.cols * side),
        };
        let (store, tokens) = (config.store(device, 0), tokenizer(case, device)?);
        Ok(Box::new(config.compose("beit", &store, tokens, view)?))
    },
    views: Views::Several(&[
        Pixels::Normalized("image"),
        Pixels::Unit("tokenizer_image01"),
    ]),
    outputs: &[
        ("tokens", Trace("target.tokens")),
        ("labels", Hidden("target.tokens")),
        ("patch_embed", Trace("patch_embed")),
        ("block0", Trace("block0")),
        ("latent", Trace("latent")),
        ("logits_masked", Hidden("pred.token")),
        ("mlm_acc", By(accuracy)),
    ],
    ..Golden::new("beit", |config| config.encoder.grid())
};

/// The golden cases of transformers' `BeitForMaskedImageModeling`.
pub(crate) const TRANSFORMERS: Golden<BeitConfig> = Golden {
    settings: &[
        BEIT_VIT,
        // The mask is recorded, and `mlp_ratio` gives the width.
        Informs(&["mask_ratio", "mlp_hidden"]),
    ],
    also: |case, config| positions(case, &mut config.encoder),
    build: |case, config, device| {
        let grid = config.encoder.grid()?;
        let mask = Mask::from_bits(grid, &case.bits("input.mask", grid)?)?;
        let tokens = Known(tokens(case, &mask, device)?);
        let vocab_size = case.setting_or("vocab_size", 8192)?;
        let view = TokenView {
            index: 0,
            size: config.encoder.image_size.into(),
        };
        let store = config.store(device, 0);
        let method = config.compose("beit", &store, (tokens, vocab_size), view)?;
        Ok(Box::new(method))
    },
    views: Views::By(images),
    outputs: &[
        ("logits", Trace("pred.token")),
        (
            "hidden_last",
            TraceOf(|config| format!("block{}", config.encoder.depth.saturating_sub(1))),
        ),
    ],
    ..Golden::new("hf_beit", |config| config.encoder.grid())
};

/// The dVAE of a case with its recorded weights, which sees view 1.
fn tokenizer(case: &Case, device: &Device) -> Result<(TokenTarget, usize)> {
    let own = case.table("tokenizer")?;
    own.fixed("kind", "dall_e_encoder".to_owned())?;
    own.fixed("input_map", "logit_laplace".to_owned())?;
    own.fixed("group_count", 4)?;
    own.fixed("logit_laplace_eps", 0.1)?;
    let sizes = Same("", "", &["n_hid", "n_blk_per_group", "vocab_size"]);
    let config: DvaeConfig = read(&own, &DvaeConfig::default(), &[sizes])?;
    case.fixed("vocab_size", config.vocab_size)?;
    let store = ParamStore::teacher(device);
    let encoder = DvaeEncoder::new(&store.root().pp("encoder"), &config)?;
    store.load(&Source::named("dvae")?.import(&case.group("teacher."))?)?;
    Ok((TokenTarget::new(encoder, 1), config.vocab_size))
}

/// Share of the hidden patches whose most likely token is theirs.
fn accuracy(made: &Made<BeitConfig>, recorded: &Recorded) -> Result<Tensor> {
    let logits = made.hidden(recorded, "pred.token")?;
    let tokens = made.hidden(recorded, "target.tokens")?;
    let hits = logits.argmax(D::Minus1)?.eq(&tokens)?;
    Ok(hits.to_dtype(DType::F32)?.mean_all()?)
}

/// The tokens of all patches, from those of the hidden ones; the others are never compared.
fn tokens(case: &Case, mask: &Mask, device: &Device) -> Result<Tensor> {
    let labels: Vec<i64> = case.required("input.labels")?.to_vec1()?;
    let mut labels = labels.into_iter();
    let mut all = Vec::new();
    for bit in mask.to_bits() {
        let label = if bit == 1 { labels.next() } else { Some(0) };
        let label = label.and_then(|label| u32::try_from(label).ok());
        all.push(label.ok_or_else(|| case.bad("`input.labels` do not fit the mask".to_owned()))?);
    }
    let shape = (mask.rows(), mask.grid().len());
    Ok(Tensor::from_vec(all, shape, device)?)
}

fn images(case: &Case, _config: &BeitConfig, device: &Device) -> Result<Batch> {
    let images = case.on("input.image", device)?.to_dtype(DType::F32)?;
    Ok(several(vec![View::new(images, vec![])?]))
}
