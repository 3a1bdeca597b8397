//! Golden cases of mc-BEiT.

use candle_core::{D, Device, Tensor};
use mim_core::schedule::Schedule;
use mim_core::weights::{Source, WeightMap};
use mim_core::{Batch, Mask, Method, ParamStore, StepContext, Tokenizer, View, ops};
use mim_targets::SoftLabelsConfig;
use mim_targets::dvae::{DvaeConfig, DvaeEncoder};
use mim_targets::vqgan::{VqganConfig, VqganEncoder};
use serde::Deserialize;

use super::beit::{traced, vit};
use super::run::Extract;
use super::vqkd::no_setting;
use super::{Case, Problem, Recorded, Result, Rounding, Setup};
use crate::{McBeitConfig, MethodConfig};

/// `tokenizer` of a case.
#[derive(Deserialize)]
struct Recipe {
    kind: String,
    n_hid: Option<usize>,
    n_blk_per_group: Option<usize>,
    logit_laplace_eps: Option<f64>,
    ddconfig: Option<Vqgan>,
    embed_dim: Option<usize>,
    n_embed: Option<usize>,
}

/// `ddconfig` of a VQGAN.
#[derive(Deserialize)]
struct Vqgan {
    double_z: bool,
    z_channels: usize,
    resolution: usize,
    in_channels: usize,
    ch: usize,
    ch_mult: Vec<usize>,
    num_res_blocks: usize,
    attn_resolutions: Vec<usize>,
}

/// The recorded tokenizer, of so many tokens.
fn tokenizer(case: &Case, vocab_size: usize, device: &Device) -> Result<Box<dyn Tokenizer>> {
    let recipe: Recipe = case
        .setting("tokenizer")?
        .ok_or_else(|| no_setting("tokenizer"))?;
    let store = ParamStore::teacher(device);
    let root = store.root();
    let (tokenizer, source): (Box<dyn Tokenizer>, _) =
        match (recipe.kind.as_str(), &recipe.ddconfig) {
            ("dall_e_encoder", _) if recipe.logit_laplace_eps.unwrap_or(0.1) == 0.1 => {
                let defaults = DvaeConfig::default();
                let config = DvaeConfig {
                    n_hid: recipe.n_hid.unwrap_or(defaults.n_hid),
                    n_blk_per_group: recipe.n_blk_per_group.unwrap_or(defaults.n_blk_per_group),
                    vocab_size,
                    ..defaults
                };
                (
                    Box::new(DvaeEncoder::new(&root.pp("encoder"), &config)?),
                    "dvae",
                )
            }
            ("vqgan_gumbel", Some(sizes)) if !sizes.double_z && recipe.fits(sizes, vocab_size) => {
                let config = VqganConfig {
                    in_channels: sizes.in_channels,
                    ch: sizes.ch,
                    ch_mult: sizes.ch_mult.clone(),
                    num_res_blocks: sizes.num_res_blocks,
                    attn_resolutions: sizes.attn_resolutions.clone(),
                    resolution: sizes.resolution,
                    z_channels: sizes.z_channels,
                    vocab_size,
                };
                (Box::new(VqganEncoder::new(&root, &config)?), "vqgan")
            }
            (kind, _) => return Err(Problem::unknown(format!("this tokenizer `{kind}`"))),
        };
    let all: WeightMap = Source::named(source)?.import(&case.group("teacher."))?;
    store.load(&all)?;
    Ok(tokenizer)
}

impl Recipe {
    fn fits(&self, sizes: &Vqgan, vocab_size: usize) -> bool {
        self.embed_dim.is_none_or(|dim| dim == sizes.z_channels)
            && self.n_embed.is_none_or(|count| count == vocab_size)
    }
}

fn config(case: &Case) -> Result<McBeitConfig> {
    // The mask is recorded.
    case.informs(&["mask_ratio", "masker"]);
    let defaults = McBeitConfig::default();
    let labels = SoftLabelsConfig {
        temperature: Schedule::constant(case.setting_or("token_temperature", 4.)?),
        omega: case.setting_or("omega", defaults.labels.omega)?,
        similarity_temperature: case.setting_or(
            "similarity_temperature",
            defaults.labels.similarity_temperature,
        )?,
        ..defaults.labels
    };
    Ok(McBeitConfig {
        encoder: vit(case, defaults.encoder)?,
        labels,
        ..McBeitConfig::default()
    })
}

/// Logits with the tokens' places last.
fn token_logits(recorded: &Recorded) -> Result<Tensor> {
    let logits = recorded.get("token_logits")?;
    Ok(logits.permute((0, 3, 1, 2))?.contiguous()?)
}

fn tokens(recorded: &Recorded) -> Result<Tensor> {
    let logits = recorded.get("token_logits")?;
    Ok(logits.argmax(D::Minus1)?.flatten_from(1)?)
}

fn loss_per_token(recorded: &Recorded) -> Result<Tensor> {
    let (logits, target) = (recorded.get("pred.token")?, recorded.get("target.tokens")?);
    let (batch, patches, _) = logits.dims3()?;
    let losses = ops::soft_cross_entropy(&logits.flatten(0, 1)?, &target.flatten(0, 1)?, 1.)?;
    Ok(losses.reshape((batch, patches))?)
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let grid = config.encoder.grid()?;
    let vocab_size = case.setting_or("vocab_size", 8192)?;
    let tokenizer = tokenizer(case, vocab_size, device)?;
    let mut method = config.compose(&config.store(device, 0), tokenizer)?;
    let mask = Mask::from_bits(grid, &case.bits("input.mask", grid)?)?;
    method.override_mask(mask)?;
    let view = View::new(case.required("input.image")?.to_device(device)?, vec![])?;
    let second = case
        .required("input.tokenizer_image01")?
        .to_device(device)?;
    let features: Extract = Box::new(move |recorded: &Recorded| {
        let all = recorded.get("latent")?;
        Ok(all.narrow(1, all.dim(1)? - grid.len(), grid.len())?)
    });
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named("beit")?,
        step: StepContext::new(0),
        batch: Batch {
            views: vec![view.clone(), View::of_unit(second, vec![])?],
            ..Batch::single(view)
        },
        outputs: vec![
            ("tokens", Box::new(tokens)),
            ("token_logits", Box::new(token_logits)),
            ("token_probs", traced("token_probs")),
            ("features", features),
            ("logits", traced("pred.token")),
            ("similarity", traced("similarity")),
            ("refined_target", traced("target.tokens")),
            ("loss_per_token", Box::new(loss_per_token)),
        ],
    })
}
