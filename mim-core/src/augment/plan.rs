//! Pipelines from one image to the views of a method.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::{
    Augment, CenterCrop, CropBox, HorizontalFlip, ImageOp, Interpolation, RandomBox,
    RandomResizedCrop, Resize, Sample, SamplePoints, ScaleAndShift, Size, ToChannels, UnitSphere,
};
use crate::{Error, Result};

/// Augmentation as data: `shared` runs once, then the operations of each view run on a copy of its result.
///
/// ```toml
/// shared = [{ type = "horizontal_flip" }]
/// views = [[{ type = "random_resized_crop", size = 224 }], [{ type = "random_resized_crop", size = 96 }]]
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ViewPlan {
    /// Operations that all views share.
    pub shared: Vec<Augment>,
    /// Operations of each view. An empty list gives the shared result itself.
    pub views: Vec<Vec<Augment>>,
}

impl Default for ViewPlan {
    /// One view: the image unchanged.
    fn default() -> Self {
        Self::single(vec![])
    }
}

impl ViewPlan {
    /// One view.
    pub fn single(ops: Vec<Augment>) -> Self {
        Self {
            shared: ops,
            views: vec![vec![]],
        }
    }

    /// MAE's pre-training view: random resized crop (scale 0.2 to 1, bicubic) and flip.
    pub fn mae(size: impl Into<Size>) -> Self {
        Self::crop_and_flip(RandomResizedCrop {
            size: size.into(),
            ..RandomResizedCrop::default()
        })
    }

    /// One view: `crop`, then a flip in half of the cases.
    pub fn crop_and_flip(crop: RandomResizedCrop) -> Self {
        Self::single(vec![
            Augment::RandomResizedCrop(crop),
            Augment::HorizontalFlip(HorizontalFlip::default()),
        ])
    }

    /// Two views of the same random box (at least 0.08 of the area): `image` = (height, width) for the network,
    /// bicubic, and `tokens` for a tokenizer, Lanczos. `shared` runs before the box is cut.
    ///
    /// BEiT (Bao et al., ICLR 2022), microsoft/unilm @ 768a3c8, `beit/transforms.py`.
    pub fn with_tokenizer(
        mut shared: Vec<Augment>,
        image: (usize, usize),
        tokens: (usize, usize),
    ) -> Self {
        shared.push(Augment::RandomBox(RandomBox::default()));
        let view = |size: (usize, usize), interpolation| {
            vec![Augment::Resize(Resize {
                size: size.into(),
                interpolation,
            })]
        };
        Self {
            shared,
            views: vec![
                view(image, Interpolation::Bicubic),
                view(tokens, Interpolation::Lanczos),
            ],
        }
    }

    /// The evaluation view: the shorter side resized to `resize` (bicubic), then the middle `size` pixels.
    pub fn evaluation(resize: usize, size: impl Into<Size>) -> Self {
        Self::single(vec![
            Augment::Resize(Resize {
                size: Size::Side(resize),
                interpolation: Interpolation::Bicubic,
            }),
            Augment::CenterCrop(CenterCrop { size: size.into() }),
        ])
    }

    /// One view of a cloud for evaluation: `count` points in the unit sphere.
    pub fn points(count: usize) -> Self {
        Self::single(vec![
            Augment::SamplePoints(SamplePoints { count }),
            Augment::UnitSphere(UnitSphere {}),
        ])
    }

    /// I2P-MAE's pre-training view: `count` points in the unit sphere, then scaled along each axis and shifted.
    pub fn scaled_points(count: usize) -> Self {
        let mut plan = Self::points(count);
        let scaled = Augment::ScaleAndShift(ScaleAndShift::default());
        plan.shared.push(scaled);
        plan
    }

    /// A black sample that the plan accepts, of `size` = (height, width). It is a deep image if the plan asks for
    /// channels other than grey or RGB. For clouds `size` is (points, 1) and all points are 0; there are more points if
    /// the plan draws more.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the size is empty.
    pub fn blank(&self, (height, width): (usize, usize)) -> Result<Sample> {
        let mut ops = self.shared.iter().chain(self.views.iter().flatten());
        if !self.is_of_points() {
            let channels = ops.find_map(|op| match op {
                Augment::ToChannels(to) => Some(to.channels),
                _ => None,
            });
            let (channels, pixels) = (channels.unwrap_or(3), height * width);
            return match channels {
                1 | 3 => Sample::new(vec![0; pixels * 3], (height, width), 3),
                _ => Sample::of_values(vec![0.; pixels * channels], (height, width), channels),
            };
        }
        let drawn = ops.map(|op| match op {
            Augment::SamplePoints(SamplePoints { count }) => *count,
            _ => 0,
        });
        let count = drawn.fold(height, usize::max);
        Sample::of_points(vec![[0.; 3]; count])
    }

    /// Whether it is for point clouds, as it is if one of its operations is.
    pub fn is_of_points(&self) -> bool {
        let mut ops = self.shared.iter().chain(self.views.iter().flatten());
        ops.any(Augment::is_of_points)
    }

    /// The same plan with images of `channels` channels at the end of each view. Plans for clouds stay as they are.
    #[must_use]
    pub fn with_channels(mut self, channels: usize) -> Self {
        if self.is_of_points() {
            return self;
        }
        for view in &mut self.views {
            view.push(Augment::ToChannels(ToChannels { channels }));
        }
        self
    }

    /// The same plan whose random crops give images of `size`; none if it has no random crop.
    pub fn with_crop_size(mut self, size: impl Into<Size>) -> Option<Self> {
        let (size, mut found) = (size.into(), false);
        for op in self
            .shared
            .iter_mut()
            .chain(self.views.iter_mut().flatten())
        {
            match op {
                Augment::RandomResizedCrop(crop) => crop.size = size,
                Augment::ClampedCrop(crop) => crop.size = size,
                _ => continue,
            }
            found = true;
        }
        found.then_some(self)
    }

    /// Checks the settings of every operation.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`], which names the first bad setting, or says that there is no view.
    pub fn check(&self) -> Result<()> {
        if self.views.is_empty() {
            return Err(Error::config(
                "view plan",
                "views",
                "[]",
                "a plan makes at least one view",
                "write views = [[]] for the shared result itself",
            ));
        }
        let mut ops = self.shared.iter().chain(self.views.iter().flatten());
        ops.try_for_each(ImageOp::check)
    }

    /// Makes the views of one image.
    ///
    /// # Errors
    ///
    /// Fails if a setting is out of range or does not fit the image.
    pub fn apply(&self, sample: Sample, rng: &mut dyn Rng) -> Result<Vec<Sample>> {
        let run = |ops: &[Augment], sample: Sample, rng: &mut dyn Rng| {
            ops.iter().enumerate().try_fold(sample, |sample, (at, op)| {
                let sample = match (op, ops.get(at + 1)) {
                    (Augment::Resize(resize), Some(Augment::CenterCrop(crop))) => {
                        middle_of_thin(sample, resize, crop)?
                    }
                    _ => sample,
                };
                op.apply(sample, rng)
            })
        };
        let mut shared = run(&self.shared, sample, rng)?;
        let mut views = Vec::with_capacity(self.views.len());
        if let Some((last, others)) = self.views.split_last() {
            for ops in others {
                views.push(run(ops, shared.clone(), rng)?);
            }
            shared = run(last, shared, rng)?;
            views.push(shared);
        }
        Ok(views)
    }
}

/// The largest image, in pixels, that is resized whole. Of a larger one only what the crop needs is resized.
const MOST_RESIZED: usize = 1 << 25;
/// Half the width of the widest filter, Lanczos: in source pixels, or in pixels of the result where that is smaller.
const REACH: usize = 3;

/// Cuts a very thin image, which would become huge when its shorter side is resized, to the middle part that the crop
/// afterwards reads. Other images stay as they are.
fn middle_of_thin(sample: Sample, resize: &Resize, crop: &CenterCrop) -> Result<Sample> {
    let (height, width) = sample.size();
    let Size::Side(side) = resize.size else {
        return Ok(sample);
    };
    if sample.is_cloud() {
        return Ok(sample);
    }
    let shorter = height.min(width).max(1);
    if (height * side / shorter).saturating_mul(width * side / shorter) <= MOST_RESIZED {
        return Ok(sample);
    }
    let (rows, columns) = crop.size.square();
    // What the filter reads beyond the crop, and what rounding needs.
    let reach = (REACH * shorter.max(side)).div_ceil(side) + 2;
    // The same distance from both ends, so that the middle stays where it is.
    let kept = |from: usize, read: usize| {
        let wanted = (read * shorter).div_ceil(side) + 2 * reach;
        let wanted = wanted.max(shorter) + (wanted.max(shorter) + from) % 2;
        wanted.min(from)
    };
    let middle = (kept(height, rows), kept(width, columns));
    CropBox::centred(middle, sample.size()).cut(sample)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    fn photo() -> Sample {
        let bytes = (0..40 * 60 * 3).map(|v: u32| (v % 251) as u8).collect();
        Sample::new(bytes, (40, 60), 3).unwrap()
    }

    #[test]
    fn thin_images_are_resized_only_where_the_crop_reads_them() {
        let plan = ViewPlan::evaluation(256, 224);
        let mut rng = stream(0, Purpose::Augment, [0, 0]);
        let mut middle = |height: usize, width: usize| {
            let bytes = (0..97).cycle().take(height * width).collect();
            let thin = Sample::new(bytes, (height, width), 1).unwrap();
            plan.apply(thin, &mut rng).unwrap().remove(0)
        };
        for long in [4_000_000, 4_000_001] {
            assert_eq!(middle(1, long).size(), (224, 224));
            assert_eq!(middle(long, 1).size(), (224, 224));
        }
        // Just thin enough for the short way: the middle of a longer image with the same values there.
        let [short, long] = [400, 2 * 97 * 6 + 400].map(|width| middle(1, width));
        assert_eq!(short.pixels(), long.pixels());
    }

    #[test]
    fn views_share_the_crop_and_part_afterwards() {
        let plan = ViewPlan {
            shared: ViewPlan::mae(32).shared,
            views: vec![
                vec![],
                vec![Augment::Resize(Resize {
                    size: 16.into(),
                    interpolation: Interpolation::Lanczos,
                })],
            ],
        };
        let views = plan
            .apply(photo(), &mut stream(1, Purpose::Augment, [0, 0]))
            .unwrap();
        assert_eq!(
            views.iter().map(Sample::size).collect::<Vec<_>>(),
            [(32, 32), (16, 16)]
        );
        assert_eq!(views[0].crop(), views[1].crop());
    }

    #[test]
    fn recorded_crops_say_where_pixels_come_from() {
        // A pixel's value is its column.
        let columns = || {
            let bytes = (0..60 * 200).map(|at: u32| (at % 200) as u8).collect();
            Sample::new(bytes, (60, 200), 1).unwrap()
        };
        let crop = |side: usize| {
            Augment::RandomResizedCrop(RandomResizedCrop {
                size: side.into(),
                scale: [0.3, 1.],
                ratio: [1., 2.],
                interpolation: Interpolation::Bilinear,
            })
        };
        let flip = || Augment::HorizontalFlip(HorizontalFlip::default());
        let plan = ViewPlan {
            shared: vec![flip(), crop(80)],
            views: vec![
                vec![],
                vec![flip(), crop(40)],
                vec![crop(50), flip(), crop(40), flip()],
            ],
        };
        let mut flips = 0;
        for seed in 0..40 {
            let mut rng = stream(seed, Purpose::Augment, [0, 0]);
            for view in plan.apply(columns(), &mut rng).unwrap() {
                let (crop, (_, width)) = (view.crop(), view.size());
                flips += usize::from(crop.flipped);
                // Away from the edges, where the filter sees less.
                for col in [width / 4, width / 2, 3 * width / 4] {
                    let place = crop.left + (col as f32 + 0.5) / width as f32 * crop.width - 0.5;
                    let place = if crop.flipped { 199. - place } else { place };
                    let found = f32::from(view.pixels()[col]);
                    assert!((found - place).abs() < 2., "{found} at {place}, {crop:?}");
                }
            }
        }
        assert!((30..90).contains(&flips), "{flips}");
    }

    #[test]
    fn random_crops_take_another_size_wherever_they_are() {
        let mut plan = ViewPlan::mae(32);
        plan.views.push(ViewPlan::mae(16).shared);
        let plan = plan.with_crop_size((24, 40)).unwrap();
        let views = plan
            .apply(photo(), &mut stream(1, Purpose::Augment, [0, 0]))
            .unwrap();
        let sizes: Vec<_> = views.iter().map(Sample::size).collect();
        assert_eq!(sizes, [(24, 40); 2]);
        assert!(ViewPlan::evaluation(40, 32).with_crop_size(24).is_none());
    }

    #[test]
    fn plans_round_trip_through_toml() {
        let mut plan = ViewPlan::mae((32, 48));
        plan.views.push(ViewPlan::evaluation(40, 32).shared);
        let text = toml::to_string(&plan).unwrap();
        assert_eq!(toml::from_str::<ViewPlan>(&text).unwrap(), plan, "{text}");
    }

    #[test]
    fn refuses_a_plan_without_views_and_checks_every_operation() {
        let mut plan = ViewPlan::mae(32);
        plan.views.clear();
        assert!(
            plan.check()
                .unwrap_err()
                .to_string()
                .contains("views = [[]]")
        );
        let mut plan = ViewPlan::mae(32);
        plan.views.push(ViewPlan::mae(0).shared);
        assert!(plan.check().unwrap_err().to_string().contains("size"));
    }
}
