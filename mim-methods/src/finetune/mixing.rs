//! Batch augmentation of fine-tuning: random erasing, mixup, CutMix, and the targets of mixed images.

use candle_core::{DType, Tensor};
use mim_core::{Error, Result, ops};
use rand::{Rng, RngExt};
use rand_distr::{Beta, Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// Mixup and CutMix, applied to a whole batch: image `i` is mixed with image `batch - 1 - i`.
///
/// mixup (Zhang et al., ICLR 2018), CutMix (Yun et al., ICCV 2019), as in timm 0.3.2, `data/mixup.py`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MixConfig {
    /// Parameter of mixup's Beta distribution; 0 disables mixup. Default 0.8.
    pub mixup_alpha: f64,
    /// Parameter of CutMix's Beta distribution; 0 disables CutMix. Default 1.
    pub cutmix_alpha: f64,
    /// Share of batches that are mixed. Default 1.
    pub prob: f64,
    /// Share of mixed batches that use CutMix if both are on. Default 0.5.
    pub switch_prob: f64,
}

impl Default for MixConfig {
    fn default() -> Self {
        Self {
            mixup_alpha: 0.8,
            cutmix_alpha: 1.,
            prob: 1.,
            switch_prob: 0.5,
        }
    }
}

/// How a batch is mixed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mix {
    /// Not at all.
    None,
    /// `lam` times the image plus `1 - lam` times its partner.
    Mixup {
        /// Share of the image.
        lam: f64,
    },
    /// A box of the image is replaced by that of its partner.
    CutMix {
        /// The box.
        cut: CutBox,
    },
}

/// A box of pixels: `top..bottom`, `left..right`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutBox {
    /// First row.
    pub top: usize,
    /// One past the last row.
    pub bottom: usize,
    /// First column.
    pub left: usize,
    /// One past the last column.
    pub right: usize,
}

impl CutBox {
    /// A box with `1 - lam` of the area of an image of (height, width), around `centre`, clipped at the edges.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a side, truncated as timm does"
    )]
    pub fn around(centre: (usize, usize), lam: f64, (height, width): (usize, usize)) -> Self {
        let side = |of: usize| (of as f64 * (1. - lam).sqrt()) as usize / 2;
        let (tall, wide) = (side(height), side(width));
        Self {
            top: centre.0.saturating_sub(tall),
            bottom: (centre.0 + tall).min(height),
            left: centre.1.saturating_sub(wide),
            right: (centre.1 + wide).min(width),
        }
    }

    /// The share of an image of (height, width) outside the box.
    pub fn kept(&self, (height, width): (usize, usize)) -> f64 {
        let area = (self.bottom - self.top) * (self.right - self.left);
        1. - area as f64 / (height * width) as f64
    }
}

impl MixConfig {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first one out of range.
    pub fn check(&self) -> Result<()> {
        let alpha = "it must be 0, or a positive parameter of a Beta distribution";
        let share = "it must be a share from 0 to 1";
        let is_share = |value: f64| (0. ..=1.).contains(&value);
        let is_alpha = |value: f64| value >= 0. && value.is_finite();
        for (field, value, holds, why) in [
            (
                "mixup_alpha",
                self.mixup_alpha,
                is_alpha(self.mixup_alpha),
                alpha,
            ),
            (
                "cutmix_alpha",
                self.cutmix_alpha,
                is_alpha(self.cutmix_alpha),
                alpha,
            ),
            ("prob", self.prob, is_share(self.prob), share),
            (
                "switch_prob",
                self.switch_prob,
                is_share(self.switch_prob),
                share,
            ),
        ] {
            if !holds {
                return Err(Error::config(
                    "mix",
                    field,
                    value,
                    why,
                    "use 0.8, for example",
                ));
            }
        }
        Ok(())
    }

    /// Draws how to mix a batch of images of (height, width).
    ///
    /// # Errors
    ///
    /// If a setting is out of range.
    pub fn draw(&self, size: (usize, usize), rng: &mut dyn Rng) -> Result<Mix> {
        let (mixup, cutmix) = (self.mixup_alpha > 0., self.cutmix_alpha > 0.);
        if !(mixup || cutmix) || rng.random::<f64>() >= self.prob {
            return Ok(Mix::None);
        }
        let cuts = cutmix && (!mixup || rng.random::<f64>() < self.switch_prob);
        let alpha = if cuts {
            self.cutmix_alpha
        } else {
            self.mixup_alpha
        };
        let beta = Beta::new(alpha, alpha).map_err(|error| {
            let fix = "use 0.8, for example";
            Error::config("mix", "alpha", alpha, error.to_string(), fix)
        })?;
        let lam = beta.sample(&mut *rng);
        if !cuts {
            return Ok(Mix::Mixup { lam });
        }
        let centre = (rng.random_range(0..size.0), rng.random_range(0..size.1));
        let cut = CutBox::around(centre, lam, size);
        Ok(Mix::CutMix { cut })
    }
}

impl Mix {
    /// The mixed images `[batch, channels, height, width]`, and the share of each image's own label. Each image is mixed
    /// with the one at its place in the reversed batch.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn apply(&self, images: &Tensor) -> Result<(Tensor, f64)> {
        let (_, _, height, width) = images.dims4()?;
        match self {
            Self::None => Ok((images.clone(), 1.)),
            Self::Mixup { lam } => {
                let mixed = ((images * *lam)? + (reversed(images)? * (1. - lam))?)?;
                Ok((mixed, *lam))
            }
            Self::CutMix { cut } => {
                let inside = |row: usize, column: usize| {
                    (cut.top..cut.bottom).contains(&row) && (cut.left..cut.right).contains(&column)
                };
                let pixels =
                    (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
                let taken: Vec<u8> = pixels
                    .map(|(row, column)| inside(row, column).into())
                    .collect();
                let taken = ops::upload(taken, (1, 1, height, width), images.device())?;
                let taken = taken.broadcast_as(images.shape())?;
                let mixed = taken.where_cond(&reversed(images)?, images)?;
                Ok((mixed, cut.kept((height, width))))
            }
        }
    }
}

/// The batch in reverse order.
fn reversed(xs: &Tensor) -> Result<Tensor> {
    let count = u32::try_from(xs.dim(0)?).unwrap_or(u32::MAX);
    let order: Vec<u32> = (0..count).rev().collect();
    let order = ops::upload(order, xs.dim(0)?, xs.device())?;
    Ok(xs.index_select(&order, 0)?)
}

/// Targets `[batch, classes]` of `labels` `[batch]` u32 for mixed images: the share `lam` of the image's own label, the
/// rest of its partner's. Label smoothing puts `smoothing / classes` on the other classes.
///
/// timm 0.3.2, `mixup_target`.
///
/// # Errors
///
/// [`Error::InvalidConfig`] for a label that is not a class. Checked on the CPU only, since a check would synchronise a
/// GPU.
pub fn mixed_targets(
    labels: &Tensor,
    classes: usize,
    (lam, smoothing): (f64, f64),
) -> Result<Tensor> {
    let labels = labels.to_dtype(DType::U32)?;
    if labels.device().is_cpu() {
        check_labels(&labels.to_vec1()?, classes)?;
    }
    let known: Vec<u32> = (0..).take(classes).collect();
    let known = ops::upload(known, (1, classes), labels.device())?;
    let own = labels
        .unsqueeze(1)?
        .broadcast_eq(&known)?
        .to_dtype(DType::F32)?;
    let mixed = ((&own * lam)? + (reversed(&own)? * (1. - lam))?)?;
    let off = smoothing / classes as f64;
    Ok(mixed.affine(1. - smoothing, off)?)
}

fn check_labels(labels: &[u32], classes: usize) -> Result<()> {
    let Some(label) = labels.iter().find(|label| **label as usize >= classes) else {
        return Ok(());
    };
    let why = format!("the head has {classes} classes");
    let fix = format!("set num_classes = {} or more", label + 1);
    Err(Error::config("fine-tuning", "label", label, why, fix))
}

/// Share of an image's area that random erasing takes.
const ERASED_AREA: [f64; 2] = [0.02, 1. / 3.];
/// Height over width of an erased box.
const ERASED_ASPECT: [f64; 2] = [0.3, 1. / 0.3];

/// Random erasing of `images` `[batch, channels, height, width]`: with probability `prob`, a box of an image becomes normal
/// noise, one draw per value.
///
/// Zhong et al., AAAI 2020, as in timm 0.3.2, `data/random_erasing.py` (mode `pixel`, one box).
///
/// # Errors
///
/// Fails only if the device does.
pub fn erase(images: &Tensor, prob: f64, rng: &mut dyn Rng) -> Result<Tensor> {
    let (batch, channels, height, width) = images.dims4()?;
    let boxes: Vec<Option<CutBox>> = (0..batch)
        .map(|_| {
            (rng.random::<f64>() < prob)
                .then(|| erased_box((height, width), rng))
                .flatten()
        })
        .collect();
    if boxes.iter().all(Option::is_none) {
        return Ok(images.clone());
    }
    let count = channels * height * width;
    let (mut taken, mut noise) = (vec![0u8; batch * count], vec![0f32; batch * count]);
    for (image, cut) in boxes.iter().enumerate() {
        let Some(cut) = cut else { continue };
        for channel in 0..channels {
            for row in cut.top..cut.bottom {
                let start = image * count + (channel * height + row) * width;
                for at in start + cut.left..start + cut.right {
                    taken[at] = 1;
                    noise[at] = rng.sample(StandardNormal);
                }
            }
        }
    }
    let device = images.device();
    let taken = ops::upload(taken, images.shape(), device)?;
    let noise = ops::upload(noise, images.shape(), device)?;
    Ok(taken.where_cond(&noise, images)?)
}

/// A box to erase in an image of (height, width); `None` if none of ten draws fits.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sides of a box"
)]
fn erased_box((height, width): (usize, usize), rng: &mut dyn Rng) -> Option<CutBox> {
    let uniform =
        |[low, high]: [f64; 2], rng: &mut dyn Rng| low + (high - low) * rng.random::<f64>();
    for _ in 0..10 {
        let area = uniform(ERASED_AREA, rng) * (height * width) as f64;
        let aspect = uniform(ERASED_ASPECT.map(f64::ln), rng).exp();
        let tall = (area * aspect).sqrt().round() as usize;
        let wide = (area / aspect).sqrt().round() as usize;
        if tall < height && wide < width {
            let (top, left) = (
                rng.random_range(0..=height - tall),
                rng.random_range(0..=width - wide),
            );
            return Some(CutBox {
                top,
                bottom: top + tall,
                left,
                right: left + wide,
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use mim_core::rng::{Purpose, stream};

    fn images() -> Tensor {
        let values: Vec<f32> = (0..2 * 3 * 16).map(|v| v as f32).collect();
        Tensor::from_vec(values, (2, 3, 4, 4), &Device::Cpu).unwrap()
    }

    #[test]
    fn boxes_are_clipped_at_the_edges_and_the_share_follows() {
        let cut = CutBox::around((0, 3), 0.75, (4, 4));
        assert_eq!((cut.top, cut.bottom, cut.left, cut.right), (0, 1, 2, 4));
        assert_eq!(cut.kept((4, 4)), 0.875);
        let (mixed, lam) = Mix::CutMix { cut }.apply(&images()).unwrap();
        let mixed = mixed.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(lam, 0.875);
        assert_eq!(mixed[..4], [0., 1., 50., 51.]);
        assert_eq!(mixed[48..52], [48., 49., 2., 3.]);
    }

    #[test]
    fn batches_are_not_mixed_if_both_are_off_or_not_drawn() {
        let mut rng = stream(0, Purpose::Method, [0, 0]);
        for off in [
            MixConfig {
                mixup_alpha: 0.,
                cutmix_alpha: 0.,
                ..MixConfig::default()
            },
            MixConfig {
                prob: 0.,
                ..MixConfig::default()
            },
        ] {
            assert_eq!(off.draw((4, 4), &mut rng).unwrap(), Mix::None);
        }
        let both: Vec<Mix> = (0..40)
            .map(|_| MixConfig::default().draw((4, 4), &mut rng).unwrap())
            .collect();
        let cuts = both
            .iter()
            .filter(|mix| matches!(mix, Mix::CutMix { .. }))
            .count();
        assert!((8..32).contains(&cuts), "{cuts}");
    }

    #[test]
    fn erasing_changes_one_box_of_some_images() {
        let zeros = Tensor::zeros((200, 1, 16, 16), DType::F32, &Device::Cpu).unwrap();
        let mut rng = stream(0, Purpose::Method, [0, 0]);
        let erased = erase(&zeros, 0.25, &mut rng).unwrap();
        let rows = erased.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
        let shares = rows
            .iter()
            .map(|row| row.iter().filter(|v| **v != 0.).count());
        let changed: Vec<usize> = shares.filter(|count| *count > 0).collect();
        assert!((30..75).contains(&changed.len()), "{}", changed.len());
        assert!(
            changed.iter().all(|count| (2..=110).contains(count)),
            "{changed:?}"
        );
    }

    #[test]
    fn labels_beyond_the_head_are_named() {
        let labels = Tensor::new(&[0u32, 5], &Device::Cpu).unwrap();
        let error = mixed_targets(&labels, 3, (1., 0.)).unwrap_err();
        assert!(error.to_string().contains("num_classes = 6"), "{error}");
    }
}
