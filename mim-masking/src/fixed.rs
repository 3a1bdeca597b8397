//! A given mask.

use mim_core::{Error, Mask, Result};
use rand::Rng;

use crate::{MaskRequest, Masker};

/// Always returns the same mask: for parity checks, pictures and tests.
#[derive(Debug, Clone)]
pub struct FixedMasker {
    mask: Mask,
}

impl FixedMasker {
    /// A masker that returns `mask`.
    pub fn new(mask: Mask) -> Self {
        Self { mask }
    }
}

impl Masker for FixedMasker {
    fn sample(&self, rq: &MaskRequest<'_>, _rng: &mut dyn Rng) -> Result<Mask> {
        if self.mask.grid() != rq.grid {
            return Err(Error::shape(
                "fixed mask",
                format!("a mask on the grid {}, which this method uses", rq.grid),
                format!("{}", self.mask.grid()),
                "use a mask for this image and patch size",
            ));
        }
        self.mask.copies(rq.images)?;
        Ok(self.mask.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::request;
    use mim_core::{PatchGrid, StepContext};
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn returns_its_mask_only_for_its_grid_and_batch() {
        let mask = Mask::from_bits(PatchGrid::new(1, 2), &[0, 1, 1, 0]).unwrap();
        let masker = FixedMasker::new(mask.clone());
        let (step, mut rng) = (StepContext::new(0), ChaCha8Rng::seed_from_u64(0));
        let mut sample = |images, grid| masker.sample(&request(&step, images, grid), &mut rng);
        assert_eq!(sample(2, PatchGrid::new(1, 2)).unwrap(), mask);
        // Two masks of one image.
        assert_eq!(sample(1, PatchGrid::new(1, 2)).unwrap(), mask);
        assert!(sample(3, PatchGrid::new(1, 2)).is_err());
        assert!(sample(2, PatchGrid::new(2, 1)).is_err());
    }
}
