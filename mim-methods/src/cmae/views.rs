//! CMAE's two views: windows of one crop, the second shifted and recoloured.

use mim_core::augment::{
    Augment, ColorJitter, GaussianBlur, Grayscale, PixelShift, RandomResizedCrop, ViewPlan,
};

/// The plan for images of `(height, width)`: for both views a random resized crop, `shift` pixels larger, and a flip.
/// The first view is the crop's top left corner. The second is a window offset by less than `shift` rows and columns,
/// with colour jitter, greying and blur.
pub(super) fn shifted((height, width): (usize, usize), shift: usize) -> ViewPlan {
    let window = |max_shift| {
        Augment::PixelShift(PixelShift {
            size: (height, width).into(),
            max_shift,
        })
    };
    let crop = RandomResizedCrop {
        size: (height + shift, width + shift).into(),
        ..RandomResizedCrop::default()
    };
    let jitter = ColorJitter {
        saturation: 0.4,
        ..ColorJitter::default()
    };
    // Parity: the release has the luma weights in reverse order.
    let grey = Grayscale {
        weights: Some([0.114, 0.587, 0.2989]),
        ..Grayscale::default()
    };
    let second = vec![
        window(shift.saturating_sub(1)),
        Augment::ColorJitter(jitter),
        Augment::Grayscale(grey),
        Augment::GaussianBlur(GaussianBlur::default()),
    ];
    ViewPlan {
        views: vec![vec![window(0)], second],
        ..ViewPlan::crop_and_flip(crop)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mim_core::Purpose;
    use mim_core::augment::Sample;
    use mim_core::rng::stream;

    use super::*;

    #[test]
    fn the_published_sizes() {
        let text = toml::to_string(&shifted((224, 224), 32)).unwrap();
        assert!(text.contains("size = [256, 256]") && text.contains("max_shift = 31"));
        assert!(shifted((8, 8), 0).check().is_ok());
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "a few pixels")]
    fn both_views_come_from_one_crop_a_few_pixels_apart() {
        let plan = shifted((32, 24), 4);
        let bytes = (0..64u32 * 64 * 3).map(|v| (v % 251) as u8).collect();
        let photo = Sample::new(bytes, (64, 64), 3).unwrap();
        let mut seen = BTreeSet::new();
        for draw in 0..40 {
            let mut rng = stream(0, Purpose::Augment, [draw, 0]);
            let views = plan.apply(photo.clone(), &mut rng).unwrap();
            assert!(views.iter().all(|view| view.size() == (32, 24)));
            let [a, b] = [views[0].crop(), views[1].crop()];
            assert_eq!(a.flipped, b.flipped);
            let down = (b.top - a.top) / a.height * 32.;
            assert!((down - down.round()).abs() < 1e-3, "{down}");
            seen.insert(down.round() as i32);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    }
}
