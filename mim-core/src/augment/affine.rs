//! Rotation, shear and translation with the results of Pillow's bicubic `transform`.

use super::Sample;

/// An affine map from a pixel of the result to a position in the image.
///
/// `x' = a x + b y + c`, `y' = d x + e y + f`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// `[a, b, c]`.
    pub x: [f64; 3],
    /// `[d, e, f]`.
    pub y: [f64; 3],
}

impl Affine {
    /// Rotates by `degrees`, counter-clockwise, around the centre of an image of (height, width).
    pub fn rotation(degrees: f64, (height, width): (usize, usize)) -> Self {
        // Pillow rounds to 15 decimals, so that right angles are exact.
        let exact = |value: f64| (value * 1e15).round() / 1e15;
        let angle = -(degrees.rem_euclid(360.)).to_radians();
        let (cos, sin) = (exact(angle.cos()), exact(angle.sin()));
        let (cx, cy) = (width as f64 / 2., height as f64 / 2.);
        Self {
            x: [cos, sin, cos * -cx + sin * -cy + cx],
            y: [exact(-angle.sin()), cos, -sin * -cx + cos * -cy + cy],
        }
    }

    /// Shears along the rows by `factor` pixels per row.
    pub fn shear_x(factor: f64) -> Self {
        Self {
            x: [1., factor, 0.],
            y: [0., 1., 0.],
        }
    }

    /// A shear along the columns by `factor` pixels a column.
    pub fn shear_y(factor: f64) -> Self {
        Self {
            x: [1., 0., 0.],
            y: [factor, 1., 0.],
        }
    }

    /// Shifts the image by `columns` to the left and `rows` up.
    pub fn translation(rows: f64, columns: f64) -> Self {
        Self {
            x: [1., 0., columns],
            y: [0., 1., rows],
        }
    }

    fn place(&self, column: usize, row: usize) -> (f64, f64) {
        let (x, y) = (column as f64 + 0.5, row as f64 + 0.5);
        let at = |[a, b, c]: [f64; 3]| a * x + b * y + c;
        (at(self.x), at(self.y))
    }
}

/// Pillow's cubic interpolation between the middle two of four values, with the slopes of a = -1.
fn cubic([v1, v2, v3, v4]: [f64; 4], d: f64) -> f64 {
    let p2 = v3 - v1;
    let p3 = 2. * (v1 - v2) + v3 - v4;
    let p4 = v2 - v1 - v3 + v4;
    v2 + d * (p2 + d * (p3 + d * p4))
}

/// Applies `map` and keeps the image's size; positions outside the image become `fill`, one value per channel.
///
/// The recorded crop does not change: where a transformed image lies in its source is no longer exactly a box.
pub fn transform(mut sample: Sample, map: Affine, fill: &[u8]) -> Sample {
    let (height, width, channels) = (sample.height, sample.width, sample.channels);
    let mut pixels = Vec::with_capacity(sample.pixels.len());
    for row in 0..height {
        for column in 0..width {
            let (x, y) = map.place(column, row);
            let inside = (0. ..width as f64).contains(&x) && (0. ..height as f64).contains(&y);
            let values = fill.iter().take(channels).enumerate();
            pixels.extend(values.map(|(channel, fill)| match inside {
                true => interpolated(&sample, (x - 0.5, y - 0.5), channel),
                false => *fill,
            }));
        }
    }
    sample.pixels = pixels;
    sample
}

/// The value at `(x, y)`; whole numbers are the centres of pixels, and edges are repeated.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positions in the image, and a byte after the clamp"
)]
fn interpolated(sample: &Sample, (x, y): (f64, f64), channel: usize) -> u8 {
    let (left, top) = (x.floor(), y.floor());
    let clipped = |at: f64, size: usize| at.clamp(0., (size - 1) as f64) as usize;
    let value = |row: usize, column: usize| {
        f64::from(sample.pixels[(row * sample.width + column) * sample.channels + channel])
    };
    let line = |offset: f64| {
        let row = clipped(top + offset, sample.height);
        let at = |offset: f64| value(row, clipped(left + offset, sample.width));
        cubic([at(-1.), at(0.), at(1.), at(2.)], x - left)
    };
    cubic([line(-1.), line(0.), line(1.), line(2.)], y - top).clamp(0., 255.) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(pixels: &[u8], width: usize) -> Sample {
        Sample::new(pixels.to_vec(), (pixels.len() / width, width), 1).unwrap()
    }

    #[test]
    fn whole_shifts_and_right_angles_are_exact() {
        let image = grey(&[1, 2, 3, 4], 2);
        let shifted = transform(image.clone(), Affine::translation(0., 1.), &[9]);
        assert_eq!(shifted.pixels(), [2, 9, 4, 9]);
        let turned = transform(image.clone(), Affine::rotation(180., (2, 2)), &[9]);
        assert_eq!(turned.pixels(), [4, 3, 2, 1]);
        let same = transform(image.clone(), Affine::shear_x(0.), &[9]);
        assert_eq!(same.pixels(), image.pixels());
    }
}
