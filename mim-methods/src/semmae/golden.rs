//! The golden cases of SemMAE: patches recorded with their positions, which are put back there.

use candle_core::{DType, Device, Tensor};
use mim_core::ops::{PatchOrder, patchify, unpatchify};
use mim_core::{Mask, NO_PART, PatchGrid, StepContext, View};
use mim_masking::SemanticPartMasker;

use super::SemMaeConfig;
use crate::MethodConfig;
use crate::parity::golden::{
    Golden, MAE_DECODER, Made, Masks, Output, Setting, VIT, Views, several,
};
use crate::parity::{Case, Recorded, Result};
use Output::{By, Trace};
use Setting::{Informs, Same};

const ORDER: PatchOrder = PatchOrder::PixelsThenChannels;

pub(super) const GOLDEN: Golden<SemMaeConfig> = Golden {
    settings: &[
        VIT,
        MAE_DECODER,
        Same("", "", &["norm_pix_loss"]),
        Same(
            "",
            "masker",
            &["mask_ratio", "num_parts", "schedule_epochs"],
        ),
        // It follows from the schedule.
        Informs(&["mask_lambda", "epoch"]),
    ],
    also: |case, config| {
        // Our images hold the patches at their positions, not a mosaic of the used ones.
        let side: usize = case.needs("position_grid")?;
        config.encoder.image_size = (side * config.encoder.patch_size).into();
        Ok(())
    },
    build: |_, config, device| Ok(Box::new(config.compose(&config.store(device, 0), None)?)),
    views: Views::By(|case, config, device| {
        let images = images(case, config)?.to_device(device)?;
        Ok(several(vec![View::new(images, vec![])?]))
    }),
    masks: Masks::By(|case, config, grid| mask(case, config, &Records::read(case, grid)?)),
    step: |case, _| {
        Ok(StepContext {
            epoch: case.setting_or("epoch", 0)?,
            epochs: case.setting_or("schedule_epochs", 800)?,
            ..StepContext::new(0)
        })
    },
    outputs: &[
        ("judge_mask", By(|made, _| judged(made))),
        ("image_shuffled", By(|made, _| mosaic(made))),
        ("latent", Trace("latent")),
        (
            "pred",
            By(|made, recorded| theirs(made, recorded, "pred.pixel")),
        ),
        (
            "target",
            By(|made, recorded| theirs(made, recorded, "target.pixels")),
        ),
    ],
    ..Golden::new("mae", |config| config.encoder.grid())
};

/// The records of a case: the used patches, with their positions in the grid.
struct Records {
    grid: PatchGrid,
    /// Patches of an image.
    tokens: usize,
    /// Position of each patch, in the order of the record and in the order of the case's shuffle.
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

    /// Values of the recorded patches at their positions, `other` elsewhere.
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
fn images(case: &Case, config: &SemMaeConfig) -> Result<Tensor> {
    let records = Records::read(case, config.encoder.grid()?)?;
    let sample = case.required("input.sample")?.to_dtype(DType::F32)?;
    // Counts, flags and position come before the pixels.
    let first = 2 * config.masker.num_parts + 1;
    let rows = sample
        .narrow(2, first, sample.dim(2)? - first)?
        .contiguous()?;
    let width = rows.dim(2)?;
    let rows: Vec<Vec<f32>> = rows.flatten(0, 1)?.to_vec2()?;
    let zero = vec![0f32; width];
    let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    let placed = records.placed(&rows, &zero[..]).concat();
    let shape = (records.images(), records.grid.len(), width);
    let patches = Tensor::from_vec(placed, shape, &Device::Cpu)?;
    let patch = config.encoder.patch_size;
    Ok(unpatchify(&patches, patch, records.grid, ORDER)?)
}

/// The step of a case: its schedule says how many patches are hidden within parts.
fn within_share(case: &Case, config: &SemMaeConfig) -> Result<f64> {
    let step = (GOLDEN.step)(case, config)?;
    Ok(config.masker.build()?.within_share(&step))
}

/// The masks from the case's draws. They must equal the recorded ones.
fn mask(case: &Case, config: &SemMaeConfig, records: &Records) -> Result<Mask> {
    let masker = config.masker.build()?;
    let noise: Vec<f32> = case.flat("input.noise_tokens")?;
    let part_noise: Vec<f32> = case.flat("input.noise_parts")?;
    let draws = (&records.placed(&noise, 2.)[..], &part_noise[..]);
    let parts = records.placed(&case.flat("input.part_id")?, NO_PART);
    let within = within_share(case, config)?;
    let mask = masker.from_draws(records.grid, &parts, draws, within)?;
    let recorded = "input.mask_original_order";
    match mask.to_bits() == records.placed(&case.flat::<u8>(recorded)?, 0) {
        true => Ok(mask),
        false => Err(case.other_mask(recorded)),
    }
}

/// The patches hidden by the counts of the parts alone, in the order of the case's shuffle.
fn judged(made: &Made<SemMaeConfig>) -> Result<Tensor> {
    let (case, config) = (&made.case, &made.config);
    let records = Records::read(case, config.encoder.grid()?)?;
    let masker = config.masker.build()?;
    let (parts, order): (Vec<u32>, Vec<u32>) = (
        case.flat("input.part_id")?,
        case.flat("input.ids_pre_shuffle")?,
    );
    let part_noise: Vec<f32> = case.flat("input.noise_parts")?;
    let (num_parts, within) = (config.masker.num_parts, within_share(case, config)?);
    let mut judged: Vec<u8> = Vec::new();
    for (image, order) in order.chunks(records.tokens).enumerate() {
        let own = &parts[image * records.tokens..][..records.tokens];
        let shuffled: Vec<u32> = order.iter().map(|&id| own[id as usize]).collect();
        let mut sizes = vec![0; num_parts];
        shuffled.iter().for_each(|&part| sizes[part as usize] += 1);
        let noise = &part_noise[image * num_parts..][..num_parts];
        let counts = masker.counts(&sizes, noise, within);
        let hidden = SemanticPartMasker::judged(&shuffled, &counts.hidden);
        judged.extend(hidden.into_iter().map(u8::from));
    }
    let shape = (records.images(), records.tokens);
    Ok(Tensor::from_vec(judged, shape, &Device::Cpu)?)
}

/// A trace in the order of the case's shuffle.
fn theirs(made: &Made<SemMaeConfig>, recorded: &Recorded, name: &str) -> Result<Tensor> {
    let records = Records::read(&made.case, made.config.encoder.grid()?)?;
    records.in_their_order(&recorded.get(name)?)
}

/// The used patches as a square image, in the order of the shuffle.
fn mosaic(made: &Made<SemMaeConfig>) -> Result<Tensor> {
    let records = Records::read(&made.case, made.config.encoder.grid()?)?;
    let patch = made.config.encoder.patch_size;
    let images = images(&made.case, &made.config)?.to_device(&made.device)?;
    let (side, patches) = (records.tokens.isqrt(), patchify(&images, patch, ORDER)?);
    let mosaic = records.in_their_order(&patches)?;
    Ok(unpatchify(
        &mosaic,
        patch,
        PatchGrid::new(side, side),
        ORDER,
    )?)
}
