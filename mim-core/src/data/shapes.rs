//! Point clouds of ten analytic shapes.

use std::f32::consts::TAU;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::{Dataset, Split};
use crate::augment::{Sample, rotation, turned};
use crate::rng::{Purpose, stream};
use crate::{Error, Result};

/// What the clouds are drawn from; it is no seed of a run.
const SEED: u64 = 0x5aa9_e510_ffee_0001;
const NAMES: [&str; 10] = [
    "sphere", "box", "cylinder", "cone", "torus", "pyramid", "table", "chair", "cross", "helix",
];

/// Clouds of points on ten shapes, 100 of each shape to train on and 50 to test on.
///
/// They have random proportions, random rotations and noise. A cloud is generated when it is read, always the same for
/// its index.
///
/// The counterpart of the embedded images for point clouds: for trying methods without any data.
#[derive(Debug, Clone)]
pub struct ShapesDataset {
    split: Split,
    names: Vec<String>,
    /// Points per cloud. Default 2048.
    pub points: usize,
    /// Standard deviation of the noise of each coordinate. The farthest point of a shape is about 1 from its centre.
    /// Default 0.02.
    pub noise: f32,
    /// Whether clouds are rotated at random. Default true.
    pub rotate: bool,
}

impl ShapesDataset {
    /// Opens a split.
    ///
    /// # Errors
    ///
    /// [`Error::NoSplit`] for val.
    pub fn open(split: Split) -> Result<Self> {
        if split == Split::Val {
            let fix = super::embedded::TWO;
            return Err(Error::no_split("the analytic shapes", split, fix));
        }
        Ok(Self {
            split,
            names: NAMES.map(str::to_owned).into(),
            points: 2048,
            noise: 0.02,
            rotate: true,
        })
    }

    fn each(&self) -> usize {
        match self.split {
            Split::Train => 100,
            _ => 50,
        }
    }
}

impl Dataset for ShapesDataset {
    fn len(&self) -> usize {
        NAMES.len() * self.each()
    }

    fn read(&self, index: usize) -> Result<Sample> {
        let Some(class) = self.label(index) else {
            return Err(Error::shape(
                "cloud index",
                format!("below {}", self.len()),
                index,
                "take indices from a sampler over this data set",
            ));
        };
        let split = u64::from(self.split != Split::Train);
        let mut rng = stream(SEED, Purpose::Augment, [split, index as u64]);
        let shape = shape(class, &mut rng);
        let turn = self.rotate.then(|| rotation(&mut rng));
        let total: f32 = shape.iter().map(Piece::area).sum();
        let points = (0..self.points).map(|_| {
            let mut left = rng.random::<f32>() * total;
            let piece = shape.iter().find(|piece| {
                left -= piece.area();
                left < 0.
            });
            let piece = piece.unwrap_or(&shape[0]);
            let point = piece.point(&mut rng);
            let point = turn.map_or(point, |turn| turned(&turn, point));
            point.map(|value| value + self.noise * rng.sample::<f32, _>(StandardNormal))
        });
        Sample::of_points(points.collect())
    }

    /// Classes take turns, so that the first clouds are of all.
    fn label(&self, index: usize) -> Option<u32> {
        let class = u32::try_from(index % NAMES.len()).ok()?;
        (index < self.len()).then_some(class)
    }

    fn classes(&self) -> usize {
        NAMES.len()
    }

    fn class_names(&self) -> &[String] {
        &self.names
    }

    fn name_of(&self, index: usize) -> String {
        format!("shapes #{index}")
    }
}

/// A part of a shape's surface.
#[derive(Debug, Clone, Copy)]
enum Piece {
    /// With semi-axes.
    Ellipsoid([f32; 3]),
    /// Middle and half sides.
    Box([f32; 3], [f32; 3]),
    /// Along an axis: radius and half length, with both ends.
    Cylinder(usize, f32, f32),
    /// Upright: radii at the bottom and at the top, half height, with the bottom.
    Cone(f32, f32),
    /// Radii of the ring and of the tube.
    Torus(f32, f32),
    /// Upright on a square: half side and half height.
    Pyramid(f32, f32),
    /// Radius of the coil, half height, radius of the tube, turns.
    Helix(f32, f32, f32, f32),
}

/// The pieces of a shape of a class, of random proportions.
fn shape(class: u32, rng: &mut ChaCha8Rng) -> Vec<Piece> {
    let mut draw = |low: f32, high: f32| low + (high - low) * rng.random::<f32>();
    match class {
        0 => {
            let axes = [draw(0.7, 1.), draw(0.7, 1.), draw(0.7, 1.)];
            vec![Piece::Ellipsoid(axes)]
        }
        1 => {
            let half = [draw(0.35, 0.7), draw(0.35, 0.7), draw(0.35, 0.7)];
            vec![Piece::Box([0.; 3], half)]
        }
        2 => vec![Piece::Cylinder(2, draw(0.3, 0.7), draw(0.5, 0.9))],
        3 => vec![Piece::Cone(draw(0.4, 0.8), draw(0.5, 0.9))],
        4 => vec![Piece::Torus(draw(0.55, 0.75), draw(0.15, 0.3))],
        5 => vec![Piece::Pyramid(draw(0.4, 0.75), draw(0.5, 0.9))],
        6 => furniture([draw(0.5, 0.9), draw(0.5, 0.9)], draw(0.3, 0.6), 0.),
        7 => furniture([draw(0.35, 0.5); 2], draw(0.3, 0.5), draw(0.35, 0.5)),
        8 => {
            let (radius, half) = (draw(0.08, 0.2), draw(0.7, 1.));
            let rod = |axis| Piece::Cylinder(axis, radius, half);
            [0, 1, 2].map(rod).into()
        }
        _ => vec![Piece::Helix(
            draw(0.4, 0.6),
            draw(0.5, 0.8),
            draw(0.06, 0.14),
            draw(1.5, 3.),
        )],
    }
}

/// A plate of half sides on four legs of a half length, with a back of a half height where that is above 0.
fn furniture([wide, deep]: [f32; 2], leg: f32, back: f32) -> Vec<Piece> {
    const THICK: f32 = 0.05;
    let mut pieces = vec![Piece::Box([0.; 3], [wide, deep, THICK])];
    for (x, y) in [(-1., -1.), (-1., 1.), (1., -1.), (1., 1.)] {
        let middle = [x * (wide - THICK), y * (deep - THICK), -leg];
        pieces.push(Piece::Box(middle, [THICK, THICK, leg]));
    }
    if back > 0. {
        let middle = [0., THICK - deep, back];
        pieces.push(Piece::Box(middle, [wide, THICK, back]));
    }
    pieces
}

impl Piece {
    /// Area up to a factor that all have in common; of ellipsoids and helices nearly so.
    fn area(&self) -> f32 {
        match *self {
            Self::Ellipsoid([a, b, c]) => TAU * 2. * (a * b + b * c + a * c) / 3.,
            Self::Box(_, half) => faces(half).iter().sum(),
            Self::Cylinder(_, radius, half) => TAU * radius * (2. * half + radius),
            Self::Cone(radius, half) => TAU / 2. * radius * (slope(radius, half) + radius),
            Self::Torus(ring, tube) => TAU * TAU * ring * tube,
            Self::Pyramid(side, half) => 4. * side * (slope(side, half) + side),
            Self::Helix(radius, _, tube, turns) => TAU * TAU * radius * turns * tube,
        }
    }

    /// A point, evenly spread over the surface; over ellipsoids nearly so.
    fn point(&self, rng: &mut ChaCha8Rng) -> [f32; 3] {
        let angle = TAU * rng.random::<f32>();
        let (sin, cos) = angle.sin_cos();
        let unit = rng.random::<f32>();
        let signed = 2. * unit - 1.;
        match *self {
            Self::Ellipsoid(axes) => {
                let ring = (1. - signed * signed).sqrt();
                let point = [ring * cos, ring * sin, signed];
                [0, 1, 2].map(|axis| point[axis] * axes[axis])
            }
            Self::Box(middle, half) => on_box(middle, half, rng),
            Self::Cylinder(axis, radius, half) => {
                let (radius, along) = match rng.random::<f32>() * (2. * half + radius) < radius {
                    true => (
                        radius * unit.sqrt(),
                        half * if angle > TAU / 2. { 1. } else { -1. },
                    ),
                    false => (radius, half * signed),
                };
                // An end's angle is drawn anew, for its side has used it up.
                let (sin, cos) = (TAU * rng.random::<f32>()).sin_cos();
                let point = [along, radius * cos, radius * sin];
                [0, 1, 2].map(|place| point[(place + 3 - axis) % 3])
            }
            Self::Cone(radius, half) => {
                let bottom = rng.random::<f32>() * (slope(radius, half) + radius) < radius;
                let share = unit.sqrt();
                let height = if bottom {
                    -half
                } else {
                    half - 2. * half * share
                };
                [radius * share * cos, radius * share * sin, height]
            }
            Self::Torus(ring, tube) => loop {
                // More of the surface lies outside than inside.
                let (up, out) = (TAU * rng.random::<f32>()).sin_cos();
                if rng.random::<f32>() * (ring + tube) <= ring + tube * out {
                    let far = ring + tube * out;
                    break [far * cos, far * sin, tube * up];
                }
            },
            Self::Pyramid(side, half) => on_pyramid([side, half], [unit, signed], rng),
            Self::Helix(radius, half, tube, turns) => {
                let (up, out) = (sin * tube, radius + cos * tube);
                let (sin, cos) = (TAU * turns * unit).sin_cos();
                [out * cos, out * sin, half * signed + up]
            }
        }
    }
}

/// Length from the rim of the bottom to the top, where the bottom's half width is `side`.
fn slope(side: f32, half: f32) -> f32 {
    (side * side + 4. * half * half).sqrt()
}

/// Areas of the two faces across each axis.
fn faces([a, b, c]: [f32; 3]) -> [f32; 3] {
    [8. * b * c, 8. * a * c, 8. * a * b]
}

/// A point from two numbers, evenly spread in `[0, 1]` and `[-1, 1]`, which are the same number.
fn on_pyramid([side, half]: [f32; 2], [unit, signed]: [f32; 2], rng: &mut ChaCha8Rng) -> [f32; 3] {
    let across = 2. * rng.random::<f32>() - 1.;
    if rng.random::<f32>() * (slope(side, half) + side) < side {
        return [side * signed, side * across, -half];
    }
    let share = unit.sqrt();
    let (along, out) = (side * share * across, side * share);
    let height = half - 2. * half * share;
    match rng.random_range(0..4) {
        0 => [out, along, height],
        1 => [-out, along, height],
        2 => [along, out, height],
        _ => [along, -out, height],
    }
}

fn on_box(middle: [f32; 3], half: [f32; 3], rng: &mut ChaCha8Rng) -> [f32; 3] {
    let areas = faces(half);
    let mut left = rng.random::<f32>() * areas.iter().sum::<f32>();
    let across = areas.iter().position(|area| {
        left -= area;
        left < 0.
    });
    let mut point = [0; 3].map(|_| 2. * rng.random::<f32>() - 1.);
    let place = &mut point[across.unwrap_or(0)];
    *place = if *place < 0. { -1. } else { 1. };
    [0, 1, 2].map(|axis| middle[axis] + half[axis] * point[axis])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_balanced_and_clouds_repeat() {
        for (split, each) in [(Split::Train, 100), (Split::Test, 50)] {
            let shapes = ShapesDataset::open(split).unwrap();
            assert_eq!((shapes.len(), shapes.classes()), (10 * each, 10));
            let of = |class| (0..shapes.len()).filter(move |at| shapes_label(*at) == class);
            assert_eq!(of(3).count(), each);
            assert_eq!(shapes.read(7).unwrap(), shapes.read(7).unwrap());
            assert_ne!(shapes.read(7).unwrap(), shapes.read(17).unwrap());
            assert!(shapes.read(10 * each).is_err());
        }
        assert!(ShapesDataset::open(Split::Val).is_err());
        let [train, test] = [Split::Train, Split::Test].map(|split| {
            let shapes = ShapesDataset::open(split).unwrap();
            shapes.read(0).unwrap()
        });
        assert_ne!(train, test);
    }

    fn shapes_label(index: usize) -> usize {
        index % 10
    }

    #[test]
    fn points_lie_on_their_shapes() {
        let shapes = ShapesDataset {
            noise: 0.,
            rotate: false,
            ..ShapesDataset::open(Split::Train).unwrap()
        };
        for index in 0..20 {
            let sample = shapes.read(index).unwrap();
            let points = sample.points().unwrap();
            let far = points
                .iter()
                .map(|point| point.iter().map(|value| value * value).sum::<f32>().sqrt());
            let far = far.fold(0f32, f32::max);
            assert!((0.4..1.6).contains(&far), "{} {far}", NAMES[index % 10]);
        }
        // A torus has a hole, and a box has flat sides.
        let torus = shapes.read(4).unwrap();
        let inner = |point: &[f32; 3]| point[0].hypot(point[1]);
        let least = torus.points().unwrap().iter().map(inner);
        assert!(least.fold(f32::INFINITY, f32::min) > 0.2);
        let flat = shapes.read(1).unwrap();
        let top = flat.points().unwrap().iter().map(|point| point[2]);
        let most = top.clone().fold(0f32, f32::max);
        assert!(top.filter(|height| *height == most).count() > 50);
    }
}
