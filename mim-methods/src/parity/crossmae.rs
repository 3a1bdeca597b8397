//! Golden cases of CrossMAE.

use candle_core::{DType, Device, Tensor};
use mim_core::decoders::CrossDecoderConfig;
use mim_core::encoders::VitConfig;
use mim_core::weights::Source;
use mim_core::{Mask, Method, StepContext};

use super::beit::{hidden, traced};
use super::mae::{self, Decoder};
use super::run::Extract;
use super::{Case, Problem, Recorded, Result, Rounding, Setup};
use crate::{CrossMaeConfig, MethodConfig};

/// The encoder's blocks that `use_fm` names: a single -1 means all of them.
fn layers(named: &[i64], depth: usize) -> Result<Vec<usize>> {
    if named == [-1] {
        return Ok((0..depth).collect());
    }
    let block = |&index: &i64| {
        let block = match index {
            0.. => usize::try_from(index).ok(),
            _ => usize::try_from(-index)
                .ok()
                .and_then(|back| depth.checked_sub(back)),
        };
        block.ok_or_else(|| Problem::unknown(format!("CrossMAE on block {index}")))
    };
    named.iter().map(block).collect()
}

fn config(case: &Case) -> Result<CrossMaeConfig> {
    case.fixed("weight_fm", true)?;
    let defaults = CrossMaeConfig::default();
    let encoder = VitConfig {
        final_norm: false,
        ..mae::vit(case, defaults.encoder)?
    };
    let found: Decoder = case.needs("decoder")?;
    Ok(CrossMaeConfig {
        mask_ratio: case.setting_or("mask_ratio", defaults.mask_ratio)?,
        pred_ratio: case.setting_or("kept_mask_ratio", defaults.pred_ratio)?,
        norm_pix_loss: case.setting_or("norm_pix_loss", defaults.norm_pix_loss)?,
        decoder: CrossDecoderConfig {
            embed_dim: found.embed_dim,
            depth: found.depth,
            num_heads: found.num_heads,
            mlp_ratio: found.mlp_ratio.unwrap_or(encoder.mlp_ratio),
            norm_eps: encoder.norm_eps,
            layers: layers(&case.setting_or("use_fm", vec![-1])?, encoder.depth)?,
            input: case.setting_or("use_input", true)?,
            self_attention: case.setting_or("self_attn", false)?,
        },
        encoder,
        ..CrossMaeConfig::default()
    })
}

/// The mask of the case's noise, which must be the recorded one.
fn mask(case: &Case, config: &CrossMaeConfig) -> Result<Mask> {
    let grid = config.encoder.grid()?;
    let noise: Vec<f32> = case.flat("input.noise")?;
    let mask = config.masker().build()?.from_noise(grid, &noise)?;
    let visible = mask.exact_keep()?;
    case.fixed("visible_tokens", visible)?;
    case.fixed("predicted_tokens", mask.width() - visible)?;
    case.fixed("skipped_tokens", grid.len() - mask.width())?;
    let unseen: Vec<u8> = mask
        .complement()
        .to_bits()
        .iter()
        .map(|seen| 1 - seen)
        .collect();
    let restore = case.required("input.ids_restore")?.to_dtype(DType::I64)?;
    let restore: Vec<Vec<i64>> = restore.to_vec2()?;
    let shuffled = |row: usize| {
        let mut places = (0i64..).zip(mask.visible(row));
        places.all(|(place, &id)| restore[row].get(id as usize) == Some(&place))
    };
    let same = case.bits("input.mask", grid)? == unseen
        && case.bits("input.predict_mask", grid)? == mask.to_bits()
        && (0..mask.rows().min(restore.len())).all(shuffled);
    match same {
        true => Ok(mask),
        false => Err(case
            .bad("the masker gives another mask for the recorded noise".to_owned())
            .into()),
    }
}

/// Names of the outputs of the decoder's blocks.
const BLOCKS: [(&str, &str); 4] = [
    ("decoder_0", "pixel.decoder0"),
    ("decoder_1", "pixel.decoder1"),
    ("decoder_2", "pixel.decoder2"),
    ("decoder_3", "pixel.decoder3"),
];

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let mask = mask(case, &config)?;
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(mask.clone())?;
    let (rows, count) = (mask.rows(), mask.hidden_total() / mask.rows());
    let target = hidden("target.pixels", &mask);
    let target: Extract = Box::new(move |recorded: &Recorded| -> Result<Tensor> {
        Ok(target(recorded)?.reshape((rows, count, ()))?)
    });
    let mut outputs = vec![
        ("features", traced("pixel.features")),
        ("weighted", traced("pixel.weighted")),
        ("queries", traced("pixel.queries")),
        ("pred", traced("pred.pixel")),
        ("target", target),
    ];
    outputs.extend(BLOCKS.map(|(theirs, ours)| (theirs, traced(ours))));
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "mae".to_owned())?)?,
        step: StepContext::new(0),
        batch: mae::batch(case, device)?,
        outputs,
    })
}
