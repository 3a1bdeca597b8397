//! Depth maps of clouds from three sides, and image features at their points.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::bicubic::{Pixel, Resized};
use crate::{Error, Norm, PatchGrid, Result, ops};

/// Views of a cloud: the axes of the cloud used as image row, image column and depth.
pub const VIEWS: [[usize; 3]; 3] = [[0, 1, 2], [2, 0, 1], [1, 2, 0]];

/// Distance in pixels to each side over which a point is drawn.
const REACH: i32 = 2;

/// Settings of [`DepthMaps`]; `Default` is I2P-MAE's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DepthMapsConfig {
    /// Side of the images in pixels, at least 16. Default 224.
    pub image_size: usize,
    /// Normalisation of depths after their sigmoid. Default ImageNet's.
    // Parity: the network that reads them was trained with CLIP's.
    pub norm: Norm,
}

impl Default for DepthMapsConfig {
    fn default() -> Self {
        Self {
            image_size: 224,
            norm: Norm::imagenet(),
        }
    }
}

impl DepthMapsConfig {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] naming the setting.
    pub fn check(&self) -> Result<()> {
        self.norm.check(self.norm.mean.len())?;
        if (16..=4096).contains(&self.image_size) {
            return Ok(());
        }
        Err(Error::config(
            "depth maps",
            "image_size",
            self.image_size,
            "a point covers 5x5 pixels, and a map may have at most 4096 pixels per side",
            "use the image size of the 2D network, such as 224",
        ))
    }
}

/// Image coordinates of one view of one cloud.
#[derive(Debug, Clone, Copy)]
struct Frame {
    least: [f32; 2],
    /// Side of a pixel in units of the cloud.
    grid: f32,
    offset: [f32; 2],
}

impl Frame {
    /// The pixel of a point before it spreads to its neighbours; whole numbers.
    fn place(&self, point: [f32; 2]) -> [f32; 2] {
        // Parity: at the border of two pixels, the quotient depends on its rounding, so use a single division.
        [0, 1].map(|axis| ((point[axis] - self.least[axis]) / self.grid).floor())
    }
}

/// Clouds drawn as depth maps from three sides.
///
/// The larger side of a view fills the image except for a margin. Each point covers 5x5 pixels. A pixel is the
/// sigmoid of the sum of depths of all points that cover it; pixels without a point are the sigmoid of 0.
/// Zhang et al., I2P-MAE, CVPR 2023, Sec. 3.2, in the form of its released code (`proj2img`).
#[derive(Debug)]
pub struct DepthMaps {
    config: DepthMapsConfig,
    /// View by view; within each, cloud by cloud.
    frames: Vec<Frame>,
    clouds: usize,
    images: Tensor,
}

impl DepthMaps {
    /// Draws clouds `[batch, points, 3]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for another shape or an empty cloud, and errors of [`DepthMapsConfig::check`].
    pub fn new(points: &Tensor, config: &DepthMapsConfig) -> Result<Self> {
        config.check()?;
        let (clouds, size) = match *points.dims() {
            [clouds, size, 3] if size > 0 && clouds > 0 => (clouds, size),
            _ => {
                return Err(Error::shape(
                    "clouds to draw",
                    "[batch, points, 3] with at least one point",
                    points.dims(),
                    "use point clouds",
                ));
            }
        };
        let values = host(points)?;
        let side = config.image_size;
        let jobs: Vec<_> = VIEWS
            .iter()
            .flat_map(|axes| {
                values
                    .chunks_exact(3 * size)
                    .map(move |cloud| (*axes, cloud))
            })
            .collect();
        let drawn: Vec<(Frame, Vec<f32>)> = jobs
            .par_iter()
            .map(|(axes, cloud)| draw(*axes, cloud, side))
            .collect();
        let frames = drawn.iter().map(|(frame, _)| *frame).collect();
        let depths = drawn.into_iter().flat_map(|(_, image)| image).collect();
        let depths = Tensor::from_vec(depths, (VIEWS.len() * clouds, 1, side, side), &Device::Cpu)?;
        let depths = ops::to_device(&depths, points.device())?;
        let unit = ((depths.neg()?.exp()? + 1.)?).recip()?;
        let unit = unit.repeat((1, config.norm.mean.len(), 1, 1))?;
        Ok(Self {
            images: config.norm.apply(&unit)?,
            config: config.clone(),
            frames,
            clouds,
        })
    }

    /// The normalised images, `[views * batch, channels, side, side]`, view by view.
    pub fn images(&self) -> &Tensor {
        &self.images
    }

    /// Minimum coordinates in the image plane `[batch, views, 2]`, sides of a pixel `[batch, views]`, and offsets in
    /// pixels `[batch, views, 2]`.
    ///
    /// # Errors
    ///
    /// Fails only if memory is exhausted.
    pub fn frames(&self) -> Result<[Tensor; 3]> {
        let of = |pick: &dyn Fn(&Frame) -> Vec<f32>, width: usize| {
            let values: Vec<f32> = self.frames.iter().flat_map(pick).collect();
            let shape = (VIEWS.len(), self.clouds, width);
            Tensor::from_vec(values, shape, &Device::Cpu)?.transpose(0, 1)
        };
        Ok([
            of(&|frame| frame.least.to_vec(), 2)?,
            of(&|frame| vec![frame.grid], 1)?.squeeze(2)?,
            of(&|frame| frame.offset.to_vec(), 2)?,
        ])
    }

    /// Reads feature maps `[views * batch, tokens, channels]` of the images, on `grid`, at points
    /// `[total, 3]` of the clouds `cloud_of` `[total]`: `[total, views, channels]`.
    ///
    /// A map is read as if it were bicubically resized to the image. No gradient flows.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the maps or the points do not match the clouds.
    pub fn read(
        &self,
        maps: &Tensor,
        grid: PatchGrid,
        points: &Tensor,
        cloud_of: &[u32],
    ) -> Result<Tensor> {
        let channels = match *maps.dims() {
            [count, tokens, channels] if count == self.frames.len() && tokens == grid.len() => {
                channels
            }
            _ => {
                return Err(Error::shape(
                    "feature maps",
                    format!("[{}, {}, channels]", self.frames.len(), grid.len()),
                    maps.dims(),
                    "give the features of all views of all clouds",
                ));
            }
        };
        let total = points.dim(0)?;
        if points.dims() != [total, 3]
            || cloud_of.len() != total
            || cloud_of.iter().any(|cloud| *cloud as usize >= self.clouds)
        {
            return Err(Error::shape(
                "points on feature maps",
                format!("[total, 3], each from one of {} clouds", self.clouds),
                points.dims(),
                "use points of the drawn clouds",
            ));
        }
        let (points, values) = (host(points)?, host(maps)?);
        let pixels: Vec<Pixel> = points
            .as_chunks::<3>()
            .0
            .iter()
            .zip(cloud_of)
            .flat_map(|(point, cloud)| {
                (0..VIEWS.len()).map(move |view| self.pixel(view, *cloud as usize, *point))
            })
            .collect();
        let features = Resized {
            values: &values,
            grid,
            channels,
            side: self.config.image_size,
        }
        .read(&pixels);
        let features = Tensor::from_vec(features, (total, VIEWS.len(), channels), &Device::Cpu)?;
        Ok(ops::to_device(&features, maps.device())?)
    }

    /// The pixel of a point of a cloud in a view.
    fn pixel(&self, view: usize, cloud: usize, point: [f32; 3]) -> Pixel {
        let [row, column, _] = VIEWS[view];
        let map = view * self.clouds + cloud;
        let frame = &self.frames[map];
        let place = frame.place([point[row], point[column]]);
        let last = self.config.image_size as f32 - 1.;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to the image"
        )]
        let [row, column] =
            [0, 1].map(|axis| (place[axis] + 1. + frame.offset[axis]).clamp(0., last) as usize);
        (map, row, column)
    }
}

/// The values of a tensor on the host.
fn host(xs: &Tensor) -> Result<Vec<f32>> {
    let xs = xs.detach().to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
    Ok(xs.flatten_all()?.to_vec1()?)
}

/// One view of one cloud: its frame, and sums of depths `[side, side]`.
fn draw([row, column, depth]: [usize; 3], cloud: &[f32], side: usize) -> (Frame, Vec<f32>) {
    let points = cloud.as_chunks::<3>().0;
    let ends = |axis: usize| {
        let values = points.iter().map(|point| point[axis]);
        values.fold(
            (f32::INFINITY, f32::NEG_INFINITY),
            |(least, most), value| (least.min(value), most.max(value)),
        )
    };
    let (rows, columns) = (ends(row), ends(column));
    let extent = (rows.1 - rows.0).max(columns.1 - columns.0);
    // A cloud with a single position fills one pixel.
    let extent = if extent > 0. { extent } else { 1. };
    let mut frame = Frame {
        least: [rows.0, columns.0],
        grid: extent / (side as f32 - 3.),
        offset: [0., 0.],
    };
    let places: Vec<[f32; 2]> = points
        .iter()
        .map(|point| frame.place([point[row], point[column]]))
        .collect();
    for axis in [0, 1] {
        let most = places.iter().map(|place| place[axis]).fold(0f32, f32::max);
        // The centre of all covered pixels, from 1 - REACH on.
        let centre = ((most + 2.) / 2.).floor();
        frame.offset[axis] = (side / 2) as f32 - centre - 1.;
    }
    let last = side as f32 - 1.;
    let mut image = vec![0f32; side * side];
    let steps = || (-REACH..=REACH).map(|step| step as f32);
    for first in steps() {
        for second in steps() {
            for (place, point) in places.iter().zip(points) {
                let at = [first, second];
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "clamped to the image"
                )]
                let [y, x] = [0, 1].map(|axis| {
                    let pixel = place[axis] + at[axis] + 1. + frame.offset[axis];
                    pixel.clamp(0., last) as usize
                });
                image[y * side + x] += point[depth];
            }
        }
    }
    (frame, image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cloud(points: &[[f32; 3]]) -> Tensor {
        let values = points.as_flattened().to_vec();
        Tensor::from_vec(values, (1, points.len(), 3), &Device::Cpu).unwrap()
    }

    #[test]
    fn points_are_read_where_they_are_drawn() {
        let config = DepthMapsConfig {
            image_size: 32,
            norm: Norm::uniform(0., 1., 1),
        };
        let points = cloud(&[[-1., -1., 0.], [1., 1., 3.], [0.3, -0.2, -2.]]);
        let maps = DepthMaps::new(&points, &config).unwrap();
        assert_eq!(maps.images().dims(), [3, 1, 32, 32]);
        let pixels = maps.images().flatten(1, 2).unwrap();
        let pixels = pixels.reshape((3, 32 * 32, 1)).unwrap();
        let grid = PatchGrid::new(32, 32);
        let read = maps
            .read(&pixels, grid, &points.squeeze(0).unwrap(), &[0, 0, 0])
            .unwrap();
        let read: Vec<Vec<f32>> = read.squeeze(2).unwrap().to_vec2().unwrap();
        let sigmoid = |x: f32| 1. / (1. + (-x).exp());
        // The depth of a view is along its viewing axis: z, y and x.
        for (point, wanted) in read
            .iter()
            .zip([[0., -1., -1.], [3., 1., 1.], [-2., -0.2, 0.3]])
        {
            for (got, depth) in point.iter().zip(wanted) {
                assert!((got - sigmoid(depth)).abs() < 1e-5, "{read:?}");
            }
        }
    }

    #[test]
    fn a_single_position_is_drawn_and_invalid_sizes_are_refused() {
        let points = cloud(&[[0.5; 3], [0.5; 3]]);
        let maps = DepthMaps::new(&points, &DepthMapsConfig::default()).unwrap();
        let values: Vec<f32> = maps.images().flatten_all().unwrap().to_vec1().unwrap();
        assert!(values.iter().all(|value| value.is_finite()));
        let small = DepthMapsConfig {
            image_size: 8,
            ..DepthMapsConfig::default()
        };
        let error = DepthMaps::new(&points, &small).unwrap_err().to_string();
        assert!(error.contains("`image_size` is 8"), "{error}");
        let flat = points.squeeze(0).unwrap();
        assert!(DepthMaps::new(&flat, &DepthMapsConfig::default()).is_err());
    }
}
