//! Operations on images of 1, 3 and 12 channels, of bytes and of values, against plain loops in f64.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test fails by panicking, and compares small numbers"
)]

use mim_core::augment::{
    Augment, CenterCrop, ChannelDropout, CropBox, GaussianBlur, HorizontalFlip, ImageOp,
    Interpolation, Pad, PixelShift, RandomBox, RandomResizedCrop, Resize, Sample, Size,
    gaussian_blur, resize,
};
use mim_core::rng::{Purpose, stream};

const SIZE: (usize, usize) = (13, 17);

/// An image as `[height, width, channels]` of f64.
#[derive(Debug, Clone)]
struct Plain {
    values: Vec<f64>,
    size: (usize, usize),
    channels: usize,
}

impl Plain {
    /// A wave, an edge and noise in each channel, in whole numbers from 0 to 255.
    fn picture(channels: usize) -> Self {
        let value = |at: usize| {
            let (pixel, channel) = (at / channels, at % channels);
            let (row, col) = (pixel / SIZE.1, pixel % SIZE.1);
            let wave = ((row * (channel + 2) + col * 3) as f64 / 5.).sin() * 60. + 120.;
            let edge = if col > 8 { 40. } else { 0. };
            let noise = at.wrapping_mul(2_654_435_761) % 29;
            (wave + edge + noise as f64).floor()
        };
        Self {
            values: (0..SIZE.0 * SIZE.1 * channels).map(value).collect(),
            size: SIZE,
            channels,
        }
    }

    fn at(&self, row: usize, col: usize, channel: usize) -> f64 {
        self.values[(row * self.size.1 + col) * self.channels + channel]
    }

    /// Another image of the same channels.
    fn map(&self, size: (usize, usize), value: impl Fn(usize, usize, usize) -> f64) -> Self {
        let places = (0..size.0 * size.1).map(|pixel| (pixel / size.1, pixel % size.1));
        let values = places.flat_map(|(row, col)| {
            let value = &value;
            (0..self.channels).map(move |channel| value(row, col, channel))
        });
        Self {
            values: values.collect(),
            size,
            channels: self.channels,
        }
    }

    /// The box, resized: rows first, then columns, with the weights of Pillow's filters.
    fn resized(
        &self,
        from: CropBox,
        (height, width): (usize, usize),
        filter: Interpolation,
    ) -> Self {
        let across = weights(from.width, width, filter);
        let narrow = self.map((from.height, width), |row, col, channel| {
            let terms = across[col].iter();
            terms
                .map(|(at, weight)| weight * self.at(from.top + row, from.left + at, channel))
                .sum()
        });
        let down = weights(from.height, height, filter);
        narrow.map((height, width), |row, col, channel| {
            let terms = down[row].iter();
            terms
                .map(|(at, weight)| weight * narrow.at(*at, col, channel))
                .sum()
        })
    }

    /// Three box blurs of rows, then of columns, whose width has a fraction.
    fn blurred(&self, radius: f64) -> Self {
        let variance = radius * radius / 3.;
        let whole = (((12. * variance + 1.).sqrt() - 1.) / 2.).floor();
        let fraction = (2. * whole + 1.) * (whole * (whole + 1.) - 3. * variance)
            / (6. * (variance - (whole + 1.).powi(2)));
        let (reach, length) = (whole as isize, 2. * (whole + fraction) + 1.);
        let inside = |place: usize, step: isize, count: usize| {
            place.saturating_add_signed(step).min(count - 1)
        };
        let sum = |value: &dyn Fn(isize) -> f64| -> f64 {
            let full: f64 = (-reach..=reach).map(value).sum();
            let ends = value(-reach - 1) + value(reach + 1);
            (full + fraction * ends) / length
        };
        let mut image = self.clone();
        for _ in 0..3 {
            let old = image.clone();
            image = old.map(old.size, |row, col, channel| {
                sum(&|step| old.at(row, inside(col, step, old.size.1), channel))
            });
        }
        for _ in 0..3 {
            let old = image.clone();
            image = old.map(old.size, |row, col, channel| {
                sum(&|step| old.at(inside(row, step, old.size.0), col, channel))
            });
        }
        image
    }

    fn cut(&self, from: CropBox) -> Self {
        self.map((from.height, from.width), |row, col, channel| {
            self.at(from.top + row, from.left + col, channel)
        })
    }

    fn padded(&self, border: usize, fill: f64) -> Self {
        let (height, width) = self.size;
        let size = (height + 2 * border, width + 2 * border);
        self.map(size, |row, col, channel| {
            let inside = |place: usize, count: usize| (border..border + count).contains(&place);
            match inside(row, height) && inside(col, width) {
                true => self.at(row - border, col - border, channel),
                false => fill,
            }
        })
    }

    fn mirrored(&self) -> Self {
        self.map(self.size, |row, col, channel| {
            self.at(row, self.size.1 - 1 - col, channel)
        })
    }

    /// The image of bytes, which have 1 or 3 channels.
    fn bytes(&self) -> Option<Sample> {
        let bytes = self.values.iter().map(|value| *value as u8).collect();
        Sample::new(bytes, self.size, self.channels).ok()
    }

    /// The image of values, of which 255 is 1.
    fn deep(&self) -> Sample {
        let values = self.values.iter().map(|value| (*value / 255.) as f32);
        Sample::of_values(values.collect(), self.size, self.channels).unwrap()
    }

    /// Compares with an image of bytes to `steps` of them, and with one of values to rounding.
    fn check(&self, found: &Sample, steps: f64, what: &str) {
        let shape = (found.size(), found.channels());
        assert_eq!(shape, (self.size, self.channels), "{what}");
        for (at, wanted) in self.values.iter().enumerate() {
            let (found, wanted, far) = match found.is_deep() {
                true => (f64::from(found.values()[at]) * 255., *wanted, 1e-3),
                false => (f64::from(found.pixels()[at]), wanted.clamp(0., 255.), steps),
            };
            assert!(
                (found - wanted).abs() <= far,
                "{what} at {at}: {found} {wanted}"
            );
        }
    }
}

/// Input positions and weights of each output position.
fn weights(input: usize, output: usize, filter: Interpolation) -> Vec<Vec<(usize, f64)>> {
    let scale = input as f64 / output as f64;
    let wide = scale.max(1.);
    let sinc = |x: f64| {
        if x == 0. {
            1.
        } else {
            (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI)
        }
    };
    let weight = |x: f64| match filter {
        Interpolation::Bilinear => (1. - x).max(0.),
        Interpolation::Bicubic if x < 1. => 1.5 * x.powi(3) - 2.5 * x.powi(2) + 1.,
        Interpolation::Bicubic if x < 2. => -0.5 * x.powi(3) + 2.5 * x.powi(2) - 4. * x + 2.,
        Interpolation::Lanczos if x < 3. => sinc(x) * sinc(x / 3.),
        _ => 0.,
    };
    (0..output)
        .map(|place| {
            let center = (place as f64 + 0.5) * scale;
            let all = (0..input).map(|at| (at, weight((at as f64 + 0.5 - center).abs() / wide)));
            let all: Vec<_> = all.filter(|(_, weight)| *weight != 0.).collect();
            let sum: f64 = all.iter().map(|(_, weight)| weight).sum();
            all.into_iter()
                .map(|(at, weight)| (at, weight / sum))
                .collect()
        })
        .collect()
}

/// Calls `test` with each picture: of values, and of bytes where there are such images.
fn of_all(test: impl Fn(&Plain, Sample, &str)) {
    for channels in [1, 3, 12] {
        let plain = Plain::picture(channels);
        test(&plain, plain.deep(), &format!("{channels} of f32"));
        let bytes = plain.bytes();
        assert_eq!(bytes.is_some(), channels < 12);
        if let Some(bytes) = bytes {
            test(&plain, bytes, &format!("{channels} of u8"));
        }
    }
}

fn apply(op: &impl ImageOp, sample: Sample) -> Sample {
    op.apply(sample, &mut stream(5, Purpose::Augment, [0, 0]))
        .unwrap()
}

/// The box that a sample was cut from.
fn from(sample: &Sample) -> CropBox {
    let crop = sample.crop();
    let sides = [crop.top, crop.left, crop.height, crop.width];
    let [top, left, height, width] = sides.map(|side| side.round() as usize);
    CropBox {
        top,
        left,
        height,
        width,
    }
}

#[test]
fn resizing_is_a_sum_with_the_weights_of_the_filter() {
    let whole = CropBox {
        top: 0,
        left: 0,
        height: SIZE.0,
        width: SIZE.1,
    };
    let part = CropBox {
        top: 2,
        left: 5,
        height: 9,
        width: 11,
    };
    for filter in [
        Interpolation::Bilinear,
        Interpolation::Bicubic,
        Interpolation::Lanczos,
    ] {
        for (cut, size) in [
            (whole, (7, 5)),
            (part, (20, 31)),
            (part, (4, 40)),
            (whole, SIZE),
        ] {
            of_all(|plain, sample, what| {
                let wanted = plain.resized(cut, size, filter);
                let found = resize(sample, cut, size, filter).unwrap();
                // Bytes are rounded after each direction.
                wanted.check(&found, 1.3, &format!("{filter:?} {size:?}, {what}"));
            });
        }
    }
    of_all(|plain, sample, what| {
        let op = Resize {
            size: Size::HeightWidth([6, 9]),
            ..Resize::default()
        };
        let found = apply(&op, sample);
        plain
            .resized(whole, (6, 9), op.interpolation)
            .check(&found, 1.3, what);
    });
}

#[test]
fn random_crops_are_those_of_the_box_that_they_note() {
    of_all(|plain, sample, what| {
        let op = RandomResizedCrop {
            size: Size::Side(8),
            ..RandomResizedCrop::default()
        };
        let found = apply(&op, sample.clone());
        let wanted = plain.resized(from(&found), (8, 8), op.interpolation);
        wanted.check(&found, 1.3, what);
        let found = apply(&RandomBox::default(), sample.clone());
        plain.cut(from(&found)).check(&found, 0., what);
        let shift = PixelShift {
            size: Size::Side(8),
            max_shift: 4,
        };
        let found = apply(&shift, sample);
        plain.cut(from(&found)).check(&found, 0., what);
    });
}

#[test]
fn pixels_are_moved_as_they_are() {
    of_all(|plain, sample, what| {
        let flip = HorizontalFlip { p: 1. };
        plain
            .mirrored()
            .check(&apply(&flip, sample.clone()), 0., what);
        let pad = Pad {
            pixels: 3,
            fill: 100,
        };
        plain
            .padded(3, 100.)
            .check(&apply(&pad, sample.clone()), 0., what);
        let middle = CenterCrop {
            size: Size::HeightWidth([9, 5]),
        };
        let cut = CropBox {
            top: 2,
            left: 6,
            height: 9,
            width: 5,
        };
        plain.cut(cut).check(&apply(&middle, sample), 0., what);
    });
}

#[test]
fn a_blur_is_three_box_blurs_each_way() {
    for radius in [0.3, 1., 2., 6.5] {
        of_all(|plain, sample, what| {
            let found = gaussian_blur(sample, radius);
            // Bytes are rounded after each of six passes.
            plain
                .blurred(radius)
                .check(&found, 3., &format!("{radius}, {what}"));
        });
    }
    of_all(|plain, sample, what| {
        let blur = GaussianBlur {
            radius: [1.5, 1.5],
            p: 1.,
        };
        plain.blurred(1.5).check(&apply(&blur, sample), 3., what);
    });
}

#[test]
fn dropped_channels_have_one_value_and_others_stay() {
    of_all(|plain, sample, what| {
        let drop = ChannelDropout {
            p: 1.,
            count: [1, 2],
            fill: 0.4,
        };
        if plain.channels == 1 {
            let rng = &mut stream(5, Purpose::Augment, [0, 0]);
            assert!(drop.apply(sample, rng).is_err(), "{what}");
            return;
        }
        let found = apply(&drop, sample);
        let value = |at: usize| match found.is_deep() {
            true => f64::from(found.values()[at]) * 255.,
            false => f64::from(found.pixels()[at]),
        };
        let is_dropped = |channel: &usize| (value(*channel) - 102.).abs() < 1e-3;
        let dropped: Vec<usize> = (0..plain.channels).filter(is_dropped).collect();
        assert!((1..=2).contains(&dropped.len()), "{what}: {dropped:?}");
        let wanted = plain.map(plain.size, |row, col, channel| {
            match dropped.contains(&channel) {
                true => 102.,
                false => plain.at(row, col, channel),
            }
        });
        wanted.check(&found, 0., what);
    });
}

#[test]
fn operations_on_colours_do_to_grey_bytes_what_they_do_to_grey_pixels_of_colours() {
    // Of a grey image, torchvision changes brightness and contrast, and solarizes it; there is no colour to change.
    let ops = "ops = [
        { type = 'color_jitter', p = 1.0, hue = 0.0, saturation = 0.0 },
        { type = 'solarize', p = 1.0 },
        { type = 'grayscale', p = 1.0 },
        { type = 'color_jitter', p = 1.0, brightness = 0.0, contrast = 0.0 },
    ]";
    #[derive(serde::Deserialize)]
    struct Ops {
        ops: Vec<Augment>,
    }
    let ops = toml::from_str::<Ops>(ops).unwrap().ops;
    let grey = Plain::picture(1);
    let repeated = grey.values.iter().flat_map(|value| [*value as u8; 3]);
    let colour = Sample::new(repeated.collect(), SIZE, 3).unwrap();
    let grey = grey.bytes().unwrap();
    for (place, op) in ops.iter().enumerate() {
        let (one, three) = (apply(op, grey.clone()), apply(op, colour.clone()));
        let (pixels, rest) = three.pixels().as_chunks::<3>();
        assert!(rest.is_empty());
        for (value, pixel) in one.pixels().iter().zip(pixels) {
            assert_eq!([*value; 3], *pixel, "{op:?}");
        }
        assert_eq!(one == grey, place >= 2, "{op:?}");
    }
}
