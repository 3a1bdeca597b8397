//! Golden cases of dBOT.

use candle_core::{D, Device, Tensor};
use mim_core::decoders::MaeDecoderConfig;
use mim_core::weights::Source;
use mim_core::{Method, StepContext};

use super::mae::{Decoder, batch, vit};
use super::run::Extract;
use super::{Case, Problem, Recorded, Result, Rounding, Setup};
use crate::{DBotConfig, MethodConfig};
use mim_masking::RandomMaskerConfig;

fn config(case: &Case) -> Result<DBotConfig> {
    let defaults = DBotConfig::default();
    let encoder = vit(case, defaults.encoder)?;
    let decoder: Decoder = case.needs("decoder")?;
    Ok(DBotConfig {
        mask_ratio: case.setting_or("mask_ratio", defaults.mask_ratio)?,
        // A step of any stage is one of the first with a teacher of that depth.
        first_teacher_depth: Some(case.setting_or("teacher_depth", encoder.depth)?),
        teacher_norm: case.setting_or("teacher_final_norm", false)?,
        norm_feature_loss: case.setting_or("norm_feature_loss", true)?,
        target_norm_eps: case.setting_or("target_norm_eps", defaults.target_norm_eps)?,
        beta: case.setting_or("smooth_l1_beta", defaults.beta)?,
        decoder: MaeDecoderConfig {
            embed_dim: decoder.embed_dim,
            depth: decoder.depth,
            num_heads: decoder.num_heads,
            mlp_ratio: decoder.mlp_ratio.unwrap_or(encoder.mlp_ratio),
            norm_eps: encoder.norm_eps,
            ..defaults.decoder
        },
        encoder,
        ..DBotConfig::default()
    })
}

/// The target as it enters the loss, class token first.
fn target(recorded: &Recorded) -> Result<Tensor> {
    let class = recorded.get("teacher.class")?.unsqueeze(1)?;
    Ok(Tensor::cat(
        &[&class, &recorded.get("target.features")?],
        1,
    )?)
}

/// The smooth distance of each token.
fn per_token(recorded: &Recorded, beta: f64) -> Result<Tensor> {
    let size = (recorded.get("pred.feature")? - target(recorded)?)?.abs()?;
    let inner = size.minimum(beta)?;
    let distance = ((inner.sqr()? * (0.5 / beta))? + (&size - &inner)?)?;
    Ok(distance.mean(D::Minus1)?)
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let grid = config.encoder.grid()?;
    let masker = RandomMaskerConfig {
        mask_ratio: config.mask_ratio,
    };
    let mask = masker
        .build()?
        .from_noise(grid, &case.flat::<f32>("input.noise")?)?;
    // Theirs counts the class token, which is always 1.
    let with_class: Vec<u8> = case.flat("input.mask")?;
    let rows = with_class.chunks(1 + grid.len());
    let bits: Vec<u8> = rows.flat_map(|row| row.iter().skip(1)).copied().collect();
    let restore: Vec<u32> = case.flat("input.ids_restore")?;
    let own: Vec<u32> = mask.ids_restore(&Device::Cpu)?.flatten_all()?.to_vec1()?;
    if bits != mask.to_bits() || restore != own {
        let what = "the masker gives another `input.mask` for the recorded noise".to_owned();
        return Err(Problem::from(case.bad(what)));
    }
    let mut method = config.build(&config.store(device, 0))?;
    method.override_mask(mask)?;
    let beta = config.beta;
    let trace =
        |name: &'static str| -> Extract { Box::new(move |recorded: &Recorded| recorded.get(name)) };
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "dbot".to_owned())?)?,
        step: StepContext::new(0),
        batch: batch(case, device)?,
        outputs: vec![
            ("latent", trace("latent")),
            ("pred", trace("pred.feature")),
            ("teacher_out", trace("teacher.latent")),
            ("target", Box::new(target)),
            (
                "loss_per_token",
                Box::new(move |recorded: &Recorded| per_token(recorded, beta)),
            ),
        ],
    })
}
