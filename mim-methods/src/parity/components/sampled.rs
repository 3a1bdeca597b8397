//! Newly drawn masks, and how recorded masks are compared with them.

use candle_core::{Device, Tensor};
use mim_core::rng::stream;
use mim_core::{Mask, PatchGrid, Purpose, StepContext};
use mim_masking::{Guide, MaskRequest, Masker};

use super::super::{Case, Result};

/// How far a frequency of 2000 recorded draws may be off, as the cases say.
pub(super) const RATE: f64 = 0.05;

/// Masks drawn by us: number of batches, and images per batch.
const DRAWS: (u64, usize) = (40, 500);

/// Statistics of new masks.
pub(super) struct Sampled {
    /// How often each patch is hidden, `[rows, cols]`.
    pub(super) rate: Tensor,
    /// Hidden patches of an image.
    pub(super) mean: f64,
    /// Share of the masks that hide nothing.
    pub(super) empty: f64,
}

impl Sampled {
    /// Draws them.
    pub(super) fn of(masker: &dyn Masker, grid: PatchGrid) -> Result<Self> {
        let (step, (batches, images)) = (StepContext::new(0), DRAWS);
        let rq = MaskRequest {
            images,
            grid,
            guide: Guide::None,
            step: &step,
        };
        let (mut rates, mut empty) = (Vec::new(), 0);
        for batch in 0..batches {
            let mask = masker.sample(&rq, &mut stream(0, Purpose::Mask, [batch, 0]))?;
            rates.push(mask.bits(&Device::Cpu)?.mean(0)?);
            let hides_nothing = |row: &usize| mask.hidden(*row).is_empty();
            empty += (0..images).filter(hides_nothing).count();
        }
        let rate = Tensor::stack(&rates, 0)?.mean(0)?;
        let mean: f32 = rate.sum_all()?.to_scalar()?;
        Ok(Self {
            rate: rate.reshape((grid.rows, grid.cols))?,
            mean: f64::from(mean),
            empty: empty as f64 / (images as f64 * batches as f64),
        })
    }

    /// The mean rate along an axis.
    pub(super) fn along(&self, axis: usize) -> Result<Vec<f64>> {
        let means = self.rate.mean(axis)?.to_vec1::<f32>()?;
        Ok(means.into_iter().map(f64::from).collect())
    }
}

/// Five standard deviations of the difference between our mean and one over this many recorded draws.
pub(super) fn of_means(std: f64, draws: usize) -> f64 {
    5. * std * (2. / draws as f64).sqrt() + 1e-4
}

/// A grid with two equal sides.
pub(super) fn square(side: usize) -> PatchGrid {
    PatchGrid::new(side, side)
}

/// A grid of rows and columns.
pub(super) fn oblong([rows, cols]: [usize; 2]) -> PatchGrid {
    PatchGrid::new(rows, cols)
}

/// The bits of a mask, in the recorded shape.
pub(super) fn bits(case: &Case, name: &str, mask: &Mask) -> Result<Tensor> {
    let recorded = case.required(&format!("expect.{name}"))?;
    let bits = Tensor::new(mask.to_bits(), &Device::Cpu)?;
    Ok(bits.reshape(recorded.dims())?)
}
