//! The golden cases of mc-BEiT.

use candle_core::{D, Device, Tensor};
use mim_core::weights::Source;
use mim_core::{ParamStore, Tokenizer, ops};
use mim_targets::dvae::{DvaeConfig, DvaeEncoder};
use mim_targets::vqgan::{VqganConfig, VqganEncoder};

use super::McBeitConfig;
use crate::MethodConfig;
use crate::parity::golden::{
    BEIT_VIT, Golden, Output, Pixels, Setting, Views, constant, positions, read,
};
use crate::parity::{Case, Problem, Recorded, Result};
use Output::{By, ChannelsFirst, Trace};
use Setting::{Converted, Informs, Same};

pub(super) const GOLDEN: Golden<McBeitConfig> = Golden {
    settings: &[
        BEIT_VIT,
        Converted("token_temperature", "labels.temperature", constant),
        Same("", "labels", &["omega", "similarity_temperature"]),
        // The mask is recorded.
        Informs(&["mask_ratio", "masker"]),
    ],
    also: |case, config| positions(case, &mut config.encoder),
    build: |case, config, device| {
        let vocab_size = case.setting_or("vocab_size", 8192)?;
        let tokenizer = tokenizer(case, vocab_size, device)?;
        Ok(Box::new(
            config.compose(&config.store(device, 0), tokenizer)?,
        ))
    },
    views: Views::Several(&[
        Pixels::Normalized("image"),
        Pixels::Unit("tokenizer_image01"),
    ]),
    outputs: &[
        (
            "tokens",
            By(|_, recorded| {
                let logits = recorded.get("token_logits")?;
                Ok(logits.argmax(D::Minus1)?.flatten_from(1)?)
            }),
        ),
        ("token_logits", ChannelsFirst("token_logits")),
        ("token_probs", Trace("token_probs")),
        (
            "features",
            By(|made, recorded| {
                let (all, patches) = (recorded.get("latent")?, made.mask()?.grid().len());
                Ok(all.narrow(1, all.dim(1)? - patches, patches)?)
            }),
        ),
        ("logits", Trace("pred.token")),
        ("similarity", Trace("similarity")),
        ("refined_target", Trace("target.tokens")),
        ("loss_per_token", By(|_, recorded| loss_per_token(recorded))),
    ],
    ..Golden::new("beit", |config| config.encoder.grid())
};

/// The recorded tokenizer, with this many tokens.
fn tokenizer(case: &Case, vocab_size: usize, device: &Device) -> Result<Box<dyn Tokenizer>> {
    let own = case.table("tokenizer")?;
    let kind: String = own.needs("kind")?;
    let store = ParamStore::teacher(device);
    let root = store.root();
    let (tokenizer, source): (Box<dyn Tokenizer>, _) = match kind.as_str() {
        "dall_e_encoder" => {
            own.fixed("logit_laplace_eps", 0.1)?;
            let base = DvaeConfig {
                vocab_size,
                ..DvaeConfig::default()
            };
            let config = read(&own, &base, &[Same("", "", &["n_hid", "n_blk_per_group"])])?;
            let encoder = DvaeEncoder::new(&root.pp("encoder"), &config)?;
            (Box::new(encoder), "dvae")
        }
        "vqgan_gumbel" => {
            let config = vqgan(&own, vocab_size)?;
            (Box::new(VqganEncoder::new(&root, &config)?), "vqgan")
        }
        _ => return Err(Problem::unknown(format!("this tokenizer `{kind}`"))),
    };
    store.load(&Source::named(source)?.import(&case.group("teacher."))?)?;
    Ok(tokenizer)
}

fn vqgan(own: &Case, vocab_size: usize) -> Result<VqganConfig> {
    let base = VqganConfig {
        vocab_size,
        ..VqganConfig::default()
    };
    let sizes = Same(
        "ddconfig",
        "",
        &[
            "in_channels",
            "ch",
            "ch_mult",
            "num_res_blocks",
            "attn_resolutions",
            "resolution",
            "z_channels",
        ],
    );
    let config: VqganConfig = read(own, &base, &[sizes])?;
    own.fixed("ddconfig.double_z", false)?;
    own.fixed("embed_dim", config.z_channels)?;
    own.fixed("n_embed", vocab_size)?;
    Ok(config)
}

fn loss_per_token(recorded: &Recorded) -> Result<Tensor> {
    let (logits, target) = (recorded.get("pred.token")?, recorded.get("target.tokens")?);
    let (batch, patches, _) = logits.dims3()?;
    let losses = ops::soft_cross_entropy(&logits.flatten(0, 1)?, &target.flatten(0, 1)?, 1.)?;
    Ok(losses.reshape((batch, patches))?)
}
