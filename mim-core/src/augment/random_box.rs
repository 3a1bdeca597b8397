//! A random box that keeps its pixels.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::{ImageOp, RandomResizedCrop, Sample};
use crate::Result;

/// The box that [`RandomResizedCrop`] draws, cut out but not resized. Views can then resize the same part of the image,
/// each to its own size and with its own filter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomBox {
    /// Range of the box's share of the image area.
    pub scale: [f64; 2],
    /// Range of the box's width / height; its logarithm is uniform.
    pub ratio: [f64; 2],
}

impl Default for RandomBox {
    /// BEiT's pre-training crop.
    fn default() -> Self {
        Self {
            scale: [0.08, 1.],
            ratio: [3. / 4., 4. / 3.],
        }
    }
}

impl RandomBox {
    fn crop(&self) -> RandomResizedCrop {
        RandomResizedCrop {
            scale: self.scale,
            ratio: self.ratio,
            ..RandomResizedCrop::default()
        }
    }
}

impl ImageOp for RandomBox {
    fn check(&self) -> Result<()> {
        self.crop().check()
    }

    fn apply(&self, sample: Sample, rng: &mut dyn Rng) -> Result<Sample> {
        let crop = self.crop().crop_box(sample.size(), rng);
        crop.cut(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::{Augment, Interpolation, Resize, ViewPlan};
    use crate::rng::{Purpose, stream};

    #[test]
    fn a_box_resized_afterwards_is_the_crop_resized_at_once() {
        let bytes = (0..40 * 60 * 3).map(|v: u32| (v % 251) as u8).collect();
        let photo = Sample::new(bytes, (40, 60), 3).unwrap();
        let scale = [0.08, 1.];
        let resize = |side: usize, interpolation| {
            vec![Augment::Resize(Resize {
                size: (side, side).into(),
                interpolation,
            })]
        };
        let plan = ViewPlan {
            shared: vec![Augment::RandomBox(RandomBox::default())],
            views: vec![
                resize(32, Interpolation::Bicubic),
                resize(16, Interpolation::Lanczos),
            ],
        };
        for seed in 0..4 {
            let rng = || stream(seed, Purpose::Augment, [0, 0]);
            let views = plan.apply(photo.clone(), &mut rng()).unwrap();
            for (view, interpolation) in views
                .iter()
                .zip([Interpolation::Bicubic, Interpolation::Lanczos])
            {
                let crop = RandomResizedCrop {
                    size: view.size().into(),
                    scale,
                    interpolation,
                    ..RandomResizedCrop::default()
                };
                let at_once = crop.apply(photo.clone(), &mut rng()).unwrap();
                assert_eq!(view, &at_once);
            }
        }
    }
}
