//! Golden cases of SemMAE: records of patches with their places, which are put back where they come from.

use candle_core::{DType, Device, Tensor};
use mim_core::decoders::MaeDecoderConfig;
use mim_core::encoders::VitConfig;
use mim_core::ops::{PatchOrder, patchify, unpatchify};
use mim_core::weights::Source;
use mim_core::{Batch, Mask, Method, NO_PART, PatchGrid, StepContext, View};
use mim_masking::{SemanticPartMasker, SemanticPartMaskerConfig};

use super::mae::{Decoder, vit};
use super::run::Extract;
use super::{Case, Recorded, Result, Rounding, Setup};
use crate::{MethodConfig, SemMaeConfig};

const ORDER: PatchOrder = PatchOrder::PixelsThenChannels;

fn config(case: &Case) -> Result<SemMaeConfig> {
    // The schedule gives it again.
    case.informs(&["mask_lambda", "epoch"]);
    let defaults = SemMaeConfig::default();
    let small = vit(case, defaults.encoder)?;
    let side: usize = case.needs("position_grid")?;
    // Images hold the patches at their places, not as a mosaic of those that take part.
    let encoder = VitConfig {
        image_size: (side * small.patch_size).into(),
        ..small
    };
    let decoder: Decoder = case.needs("decoder")?;
    Ok(SemMaeConfig {
        masker: SemanticPartMaskerConfig {
            mask_ratio: case.setting_or("mask_ratio", 0.75)?,
            num_parts: case.setting_or("num_parts", 7)?,
            schedule_epochs: case.setting("schedule_epochs")?,
            ..SemanticPartMaskerConfig::default()
        },
        norm_pix_loss: case.setting_or("norm_pix_loss", true)?,
        decoder: MaeDecoderConfig {
            embed_dim: decoder.embed_dim,
            depth: decoder.depth,
            num_heads: decoder.num_heads,
            mlp_ratio: decoder.mlp_ratio.unwrap_or(encoder.mlp_ratio),
            norm_eps: encoder.norm_eps,
            ..defaults.decoder
        },
        encoder,
        ..SemMaeConfig::default()
    })
}

/// The records of a case: patches that take part, with their places in the grid.
struct Records {
    grid: PatchGrid,
    /// Patches of an image.
    tokens: usize,
    /// Place of each patch, in the order of the record and in that of the case's shuffle.
    places: Vec<u32>,
    shuffled: Vec<u32>,
}

impl Records {
    fn read(case: &Case, grid: PatchGrid) -> Result<Self> {
        let tokens = case.required("input.grid_index")?.dim(1)?;
        case.fixed("tokens", tokens)?;
        Ok(Self {
            grid,
            tokens,
            places: case.flat("input.grid_index")?,
            shuffled: case.flat("input.grid_index_shuffled")?,
        })
    }

    fn images(&self) -> usize {
        self.places.len() / self.tokens
    }

    /// Values of the record's patches at their places, `other` elsewhere.
    fn placed<T: Copy>(&self, values: &[T], other: T) -> Vec<T> {
        let mut placed = vec![other; self.images() * self.grid.len()];
        for (at, (&place, &value)) in self.places.iter().zip(values).enumerate() {
            placed[at / self.tokens * self.grid.len() + place as usize] = value;
        }
        placed
    }

    /// Rows of all patches `[images, grid, C]` in the order of the case's shuffle, `[images, tokens, C]`.
    fn in_their_order(&self, all: &Tensor) -> Result<Tensor> {
        let width = all.dim(2)?;
        let row = |(at, &place): (usize, &u32)| {
            (at / self.tokens * self.grid.len()) as i64 + i64::from(place)
        };
        let ids = Tensor::from_iter(self.shuffled.iter().enumerate().map(row), all.device())?;
        let rows = all.flatten(0, 1)?.index_select(&ids, 0)?;
        Ok(rows.reshape((self.images(), self.tokens, width))?)
    }
}

/// The images that hold the patches of a case.
fn images(case: &Case, records: &Records, patch: usize) -> Result<Tensor> {
    let sample = case.required("input.sample")?.to_dtype(DType::F32)?;
    let parts: usize = case.setting_or("num_parts", 7)?;
    // Counts, flags and place come before the pixels.
    let first = 2 * parts + 1;
    let rows = sample
        .narrow(2, first, sample.dim(2)? - first)?
        .contiguous()?;
    let width = rows.dim(2)?;
    let rows: Vec<Vec<f32>> = rows.flatten(0, 1)?.to_vec2()?;
    let zero = vec![0f32; width];
    let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    let placed = records.placed(&rows, &zero[..]).concat();
    let patches = Tensor::from_vec(
        placed,
        (records.images(), records.grid.len(), width),
        &Device::Cpu,
    )?;
    Ok(unpatchify(&patches, patch, records.grid, ORDER)?)
}

/// The masks of the case's draws, which must be the recorded ones, and what the counts alone hide.
fn mask(
    case: &Case,
    config: &SemMaeConfig,
    records: &Records,
    step: &StepContext,
) -> Result<(Mask, Tensor)> {
    let masker = config.masker.build()?;
    let parts: Vec<u32> = case.flat("input.part_id")?;
    let (noise, part_noise): (Vec<f32>, Vec<f32>) = (
        case.flat("input.noise_tokens")?,
        case.flat("input.noise_parts")?,
    );
    let draws = (&records.placed(&noise, 2.)[..], &part_noise[..]);
    let within = masker.within_share(step);
    let all = records.placed(&parts, NO_PART);
    let mask = masker.from_draws(records.grid, &all, draws, within)?;
    let recorded = records.placed(&case.flat::<u8>("input.mask_original_order")?, 0);
    if mask.to_bits() != recorded {
        let what = "the masker gives another `input.mask_original_order` for the recorded draws";
        return Err(case.bad(what.to_owned()).into());
    }
    let order: Vec<u32> = case.flat("input.ids_pre_shuffle")?;
    let mut judged: Vec<u8> = Vec::new();
    for (image, order) in order.chunks(records.tokens).enumerate() {
        let own = &parts[image * records.tokens..][..records.tokens];
        let shuffled: Vec<u32> = order.iter().map(|&id| own[id as usize]).collect();
        let num_parts = config.masker.num_parts;
        let mut sizes = vec![0; num_parts];
        shuffled.iter().for_each(|&part| sizes[part as usize] += 1);
        let counts = masker.counts(
            &sizes,
            &part_noise[image * num_parts..][..num_parts],
            within,
        );
        let hidden = SemanticPartMasker::judged(&shuffled, &counts.hidden);
        judged.extend(hidden.into_iter().map(u8::from));
    }
    let shape = (records.images(), records.tokens);
    Ok((mask, Tensor::from_vec(judged, shape, &Device::Cpu)?))
}

pub(crate) fn setup(case: &Case, device: &Device) -> Result<Setup> {
    let config = config(case)?;
    let patch = config.encoder.patch_size;
    let records = std::rc::Rc::new(Records::read(case, config.encoder.grid()?)?);
    let step = StepContext {
        epoch: case.setting_or("epoch", 0)?,
        epochs: case.setting_or("schedule_epochs", 800)?,
        ..StepContext::new(0)
    };
    let (mask, judged) = mask(case, &config, &records, &step)?;
    let images = images(case, &records, patch)?.to_device(device)?;
    let mut method = config.compose(&config.store(device, 0), None)?;
    method.override_mask(mask)?;
    let theirs = |name: &'static str| -> Extract {
        let records = records.clone();
        Box::new(move |recorded: &Recorded| records.in_their_order(&recorded.get(name)?))
    };
    // The patches that take part as a square image, in the order of the shuffle.
    let side = records.tokens.isqrt();
    let mosaic = records.in_their_order(&patchify(&images, patch, ORDER)?)?;
    let mosaic = unpatchify(&mosaic, patch, PatchGrid::new(side, side), ORDER)?;
    Ok(Setup {
        rounding: Rounding::default(),
        method: Box::new(method),
        source: Source::named(&case.setting_or("source_names", "mae".to_owned())?)?,
        batch: Batch::single(View::new(images, vec![])?),
        outputs: vec![
            (
                "judge_mask",
                Box::new(move |_: &Recorded| Ok(judged.clone())),
            ),
            (
                "image_shuffled",
                Box::new(move |_: &Recorded| Ok(mosaic.clone())),
            ),
            (
                "latent",
                Box::new(|recorded: &Recorded| recorded.get("latent")),
            ),
            ("pred", theirs("pred.pixel")),
            ("target", theirs("target.pixels")),
        ],
        step,
    })
}
