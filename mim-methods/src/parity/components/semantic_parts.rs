//! SemMAE's masks: recorded parts and draws give the recorded counts and masks.

use candle_core::{Device, Tensor};
use mim_core::{Mask, PatchGrid, StepContext};
use mim_masking::{PermutationMasker, SemanticPartMasker, SemanticPartMaskerConfig};
use serde::Deserialize;

use super::super::{Case, Result};
use super::Given;

#[derive(Deserialize)]
struct Settings {
    epoch: usize,
    schedule_epochs: usize,
    mask_lambda: f64,
    mask_ratio: f64,
    tokens: usize,
    num_parts: usize,
}

/// The draws of some images. The authors' code shuffles the patches first.
struct Draws {
    parts: Vec<u32>,
    parts_noise: Vec<f32>,
    noise: Vec<f32>,
    /// Ids of the patches of each image, shuffled.
    shuffled: Vec<Vec<u32>>,
}

impl Draws {
    fn read(case: &Case, index: usize, grid: PatchGrid) -> Result<Self> {
        let input = |name: &str| format!("input.{name}_{index}");
        let noise: Vec<f32> = case.flat(&input("noise_tokens"))?;
        let shuffled = PermutationMasker.from_noise(grid, &noise)?;
        Ok(Self {
            parts: case.flat(&input("part_id"))?,
            parts_noise: case.flat(&input("noise_parts"))?,
            shuffled: shuffled.ids_order(&Device::Cpu)?.to_vec2()?,
            noise,
        })
    }

    /// Counts of each part, and the patches that they alone hide, in the shuffled order.
    fn counts(
        &self,
        masker: &SemanticPartMasker,
        num_parts: usize,
        within: f64,
    ) -> ([Vec<i64>; 3], Vec<u8>) {
        let (mut all, mut judged) = ([vec![], vec![], vec![]], vec![]);
        for (row, order) in self.shuffled.iter().enumerate() {
            let own = &self.parts[row * order.len()..][..order.len()];
            let own: Vec<u32> = order.iter().map(|&id| own[id as usize]).collect();
            let mut sizes = vec![0; num_parts];
            own.iter().for_each(|&part| sizes[part as usize] += 1);
            let noise = &self.parts_noise[row * num_parts..][..num_parts];
            let counts = masker.counts(&sizes, noise, within);
            let hidden = SemanticPartMasker::judged(&own, &counts.hidden);
            judged.extend(hidden.into_iter().map(u8::from));
            for (all, counts) in all
                .iter_mut()
                .zip([counts.within, counts.whole, counts.hidden])
            {
                all.extend(counts.into_iter().map(|count| count as i64));
            }
        }
        (all, judged)
    }

    /// The bits of a mask in the shuffled order, and for each patch in that order its position in the mask's order.
    fn in_their_order(&self, mask: &Mask) -> (Vec<u8>, Vec<i64>) {
        let (all, mut bits, mut restore) = (mask.to_bits(), vec![], vec![]);
        for (row, order) in self.shuffled.iter().enumerate() {
            let places: Vec<u32> = mask
                .visible(row)
                .iter()
                .chain(mask.hidden(row))
                .copied()
                .collect();
            for id in order {
                bits.push(all[row * order.len() + *id as usize]);
                let place = places.iter().position(|other| other == id);
                restore.push(place.map_or(-1, |place| place as i64));
            }
        }
        (bits, restore)
    }
}

/// SemMAE's masker.
pub(super) fn semmae(case: &Case, device: &Device) -> Result<Given> {
    let mut given = Given::default();
    for (index, settings) in case.needs::<Vec<Settings>>("cases")?.iter().enumerate() {
        let (tokens, num_parts) = (settings.tokens, settings.num_parts);
        let masker = SemanticPartMaskerConfig {
            mask_ratio: settings.mask_ratio,
            num_parts,
            ..SemanticPartMaskerConfig::default()
        };
        let masker = masker.build()?;
        let step = StepContext {
            epoch: settings.epoch,
            epochs: settings.schedule_epochs,
            ..StepContext::new(0)
        };
        let within = masker.within_share(&step);
        let name = format!("config.cases.{index}.mask_lambda");
        given.number(&name, within, settings.mask_lambda, 1e-15)?;
        let grid = PatchGrid::new(1, tokens);
        let draws = Draws::read(case, index, grid)?;
        let noise = (&draws.noise[..], &draws.parts_noise[..]);
        let mask = masker.from_draws(grid, &draws.parts, noise, within)?;
        let ([share, whole, hidden], judged) = draws.counts(&masker, num_parts, within);
        let (bits, restore) = draws.in_their_order(&mask);
        let images = draws.shuffled.len();
        for (name, counts) in [
            ("within_part_count", share),
            ("whole_part_count", whole),
            ("mask_count", hidden),
        ] {
            let counts = Tensor::from_vec(counts, (images, num_parts), device)?;
            given.expect(&format!("{name}_{index}"), counts);
        }
        let shape = (images, tokens);
        for (name, bits) in [
            ("judge_mask", judged),
            ("mask_shuffled", bits),
            ("mask_original", mask.to_bits()),
        ] {
            given.expect(
                &format!("{name}_{index}"),
                Tensor::from_vec(bits, shape, device)?,
            );
        }
        let restore = Tensor::from_vec(restore, shape, device)?;
        given.expect(&format!("ids_restore_{index}"), restore);
    }
    Ok(given)
}
