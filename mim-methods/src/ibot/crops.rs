//! iBOT's crops of an image.

use mim_core::ImageSize;
use mim_core::augment::{
    Augment, ColorJitter, GaussianBlur, Grayscale, HorizontalFlip, RandomResizedCrop, Solarize,
    ViewPlan,
};
use serde::{Deserialize, Serialize};

/// Crops of an image, global ones first; `Default` is iBOT's recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CropsConfig {
    /// Crops that the teacher sees as well, of the encoder's image size. Default 2.
    pub global: usize,
    /// Further crops, of the student only. Default 10.
    pub local: usize,
    /// Height and width of local crops in pixels. Default 96.
    pub local_size: ImageSize,
    /// Range of a global crop's share of the image. Default 0.25 to 1.
    pub global_scale: [f64; 2],
    /// Range of a local crop's share of the image. Default 0.05 to 0.25.
    pub local_scale: [f64; 2],
}

impl Default for CropsConfig {
    fn default() -> Self {
        Self {
            global: 2,
            local: 10,
            local_size: 96.into(),
            global_scale: [0.25, 1.],
            local_scale: [0.05, 0.25],
        }
    }
}

impl CropsConfig {
    /// The plan: each view has its own crop (bicubic), flip, colour jitter, grey and blur. Global views other than the
    /// first are blurred less often and sometimes solarized.
    pub fn plan(&self, global_size: ImageSize) -> ViewPlan {
        let global = (0..self.global).map(|index| {
            let first = index == 0;
            let mut ops = view(global_size, self.global_scale, if first { 1. } else { 0.1 });
            if !first {
                ops.push(Augment::Solarize(Solarize::default()));
            }
            ops
        });
        let local = (0..self.local).map(|_| view(self.local_size, self.local_scale, 0.5));
        ViewPlan {
            shared: vec![],
            views: global.chain(local).collect(),
        }
    }
}

fn view(size: ImageSize, scale: [f64; 2], blur: f64) -> Vec<Augment> {
    vec![
        Augment::RandomResizedCrop(RandomResizedCrop {
            size: <(usize, usize)>::from(size).into(),
            scale,
            ..RandomResizedCrop::default()
        }),
        Augment::HorizontalFlip(HorizontalFlip::default()),
        Augment::ColorJitter(ColorJitter::default()),
        Augment::Grayscale(Grayscale::default()),
        Augment::GaussianBlur(GaussianBlur {
            p: blur,
            ..GaussianBlur::default()
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use mim_core::augment::Sample;
    use mim_core::rng::{Purpose, stream};

    #[test]
    fn global_crops_come_first_and_are_larger() {
        let plan = CropsConfig::default().plan(224.into());
        assert!(plan.check().is_ok());
        let ops: Vec<usize> = plan.views.iter().map(Vec::len).collect();
        assert_eq!(ops, [5, 6, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5]);
        let blur = |view: usize| {
            plan.views[view].iter().find_map(|op| match op {
                Augment::GaussianBlur(blur) => Some(blur.p),
                _ => None,
            })
        };
        assert_eq!(
            [blur(0), blur(1), blur(2)],
            [Some(1.), Some(0.1), Some(0.5)]
        );
        let photo = Sample::new(vec![77; 64 * 64 * 3], (64, 64), 3).unwrap();
        let mut rng = stream(0, Purpose::Augment, [0, 0]);
        let views = plan.apply(photo, &mut rng).unwrap();
        assert_eq!((views[1].size(), views[2].size()), ((224, 224), (96, 96)));
    }
}
