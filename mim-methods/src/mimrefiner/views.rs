//! MIM-Refiner's crops of an image.

use mim_core::ImageSize;
use mim_core::augment::{
    Augment, ColorJitter, GaussianBlur, Grayscale, HorizontalFlip, RandomResizedCrop, Solarize,
    ViewPlan,
};

use crate::CropsConfig;

/// Each view has its own crop (bicubic), flip, colour jitter, blur and grey. Global views other than the first are
/// blurred less often and sometimes solarized.
pub(super) fn plan(crops: &CropsConfig, global_size: ImageSize) -> ViewPlan {
    let global = (0..crops.global).map(|index| {
        let first = index == 0;
        let blur = if first { 1. } else { 0.1 };
        let mut ops = view(global_size, crops.global_scale, blur);
        if !first {
            ops.push(Augment::Solarize(Solarize::default()));
        }
        ops
    });
    let local = (0..crops.local).map(|_| view(crops.local_size, crops.local_scale, 0.5));
    ViewPlan {
        shared: vec![],
        views: global.chain(local).collect(),
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
        Augment::GaussianBlur(GaussianBlur {
            p: blur,
            ..GaussianBlur::default()
        }),
        Augment::Grayscale(Grayscale::default()),
    ]
}
