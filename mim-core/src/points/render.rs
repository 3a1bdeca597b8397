//! Pictures of clouds.

use candle_core::{Device, Tensor};

use super::VIEWS;
use crate::{Error, Result};

/// Brightness of the background, of the nearest point and of the farthest point.
const SHADES: [f32; 3] = [1., 0., 0.65];

/// The centre of a cloud's bounding box, and half of its longest side.
pub fn frame_of(cloud: &[[f32; 3]]) -> ([f32; 3], f32) {
    let ends = [0, 1, 2].map(|axis| {
        let values = cloud.iter().map(|point| point[axis]);
        values.fold(
            (f32::INFINITY, f32::NEG_INFINITY),
            |(least, most), value| (least.min(value), most.max(value)),
        )
    });
    let half = ends
        .iter()
        .fold(0f32, |half, (least, most)| half.max((most - least) / 2.));
    (ends.map(|(least, most)| f32::midpoint(least, most)), half)
}

/// Draws clouds from three sides, next to each other, as grey images `[clouds, 1, side, 3 * side]` in `[0, 1]`. Points
/// are dots; nearer ones are darker. `frames` come from [`frame_of`]; points outside are not drawn.
///
/// # Errors
///
/// [`Error::Shape`] if there is not one frame per cloud.
pub fn draw_points(
    clouds: &[Vec<[f32; 3]>],
    frames: &[([f32; 3], f32)],
    side: usize,
) -> Result<Tensor> {
    if clouds.len() != frames.len() || clouds.is_empty() {
        return Err(Error::shape(
            "clouds to draw",
            format!("{} clouds, one per frame", frames.len()),
            clouds.len(),
            "give one frame per cloud",
        ));
    }
    let width = VIEWS.len() * side;
    let mut pixels = Vec::with_capacity(clouds.len() * side * width);
    for (cloud, (middle, half)) in clouds.iter().zip(frames) {
        let mut image = vec![SHADES[0]; side * width];
        for (view, axes) in VIEWS.iter().enumerate() {
            for point in cloud {
                let place =
                    axes.map(|axis| (point[axis] - middle[axis]) / half.max(f32::MIN_POSITIVE));
                dot(&mut image, (side, width), view * side, place);
            }
        }
        pixels.extend(image);
    }
    let shape = (clouds.len(), 1, side, width);
    Ok(Tensor::from_vec(pixels, shape, &Device::Cpu)?)
}

/// Darkens 2x2 pixels at a position (row, column, depth) in `[-1, 1]`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to lie in the image"
)]
fn dot(image: &mut [f32], (side, width): (usize, usize), left: usize, place: [f32; 3]) {
    // A margin of two pixels.
    let pixel = |value: f32| 2. + (value + 1.) / 2. * (side as f32 - 6.);
    // The first axis of a view points up.
    let (row, column) = (pixel(-place[0]), pixel(place[1]));
    let inside = |value: f32| value >= 0. && value < side as f32 - 1.;
    if !inside(row) || !inside(column) {
        return;
    }
    let nearness = (place[2].clamp(-1., 1.) + 1.) / 2.;
    let shade = SHADES[2] + (SHADES[1] - SHADES[2]) * nearness;
    let (row, column) = (row as usize, left + column as usize);
    for (row, column) in [
        (row, column),
        (row + 1, column),
        (row, column + 1),
        (row + 1, column + 1),
    ] {
        let pixel = &mut image[row * width + column];
        *pixel = pixel.min(shade);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_lie_in_their_view() {
        let cloud = vec![[-1f32, 0., 0.], [1., 0.5, 0.], [0., 9., 0.]];
        let frame = frame_of(&cloud[..2]);
        assert_eq!(frame, ([0., 0.25, 0.], 1.));
        let image = draw_points(&[cloud], &[frame], 20).unwrap();
        assert_eq!(image.dims(), [1, 1, 20, 60]);
        let rows: Vec<Vec<f32>> = image
            .squeeze(0)
            .unwrap()
            .squeeze(0)
            .unwrap()
            .to_vec2()
            .unwrap();
        let dark = |row: &[f32]| row.iter().filter(|value| **value < 1.).count();
        let in_view =
            |view: usize| -> usize { rows.iter().map(|row| dark(&row[view * 20..][..20])).sum() };
        // The third point is outside the frame, but inside the view along its axis.
        assert_eq!([0, 1, 2].map(in_view), [8, 12, 8]);
        assert!(draw_points(&[], &[], 20).is_err());
    }
}
