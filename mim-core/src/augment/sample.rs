//! One decoded image or point cloud on its way through the augmentations.

use super::Depth;
use crate::simd::{LANES, channels, simd_dispatch};
use crate::{Crop, Error, Result};

/// An image of bytes, a deep image, or a point cloud.
///
/// A deep image has f32 values and any number of channels. Pixels are interleaved, `[height, width, channels]`. An image
/// also knows where it lies in its source.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub(super) pixels: Vec<u8>,
    /// Values of a deep image, which has no bytes. Empty for other samples.
    pub(super) values: Vec<f32>,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) crop: Crop,
    /// Points of a cloud, which has no pixels. Empty for images.
    points: Vec<[f32; 3]>,
    depth: Depth,
}

impl Sample {
    /// A whole image of `size` = (height, width) pixels with 1 (grey) or 3 (RGB) interleaved channels.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the image is empty, has another number of channels, or the number of bytes is not that of
    /// the size.
    pub fn new(pixels: Vec<u8>, (height, width): (usize, usize), channels: usize) -> Result<Self> {
        let sides = (u32::try_from(height), u32::try_from(width));
        let (Ok(source_height), Ok(source_width)) = sides else {
            return Err(Self::misfit(&pixels, (height, width), channels));
        };
        if pixels.is_empty()
            || !matches!(channels, 1 | 3)
            || pixels.len() != height * width * channels
        {
            return Err(Self::misfit(&pixels, (height, width), channels));
        }
        Ok(Self {
            pixels,
            values: Vec::new(),
            height,
            width,
            channels,
            crop: Crop::whole((source_height, source_width)),
            points: Vec::new(),
            depth: Depth::U8,
        })
    }

    /// A whole image of `size` = (height, width) pixels with any number of interleaved channels, of values whose usual
    /// range is `[0, 1]`: a deep image. Operations on colours do not work on it.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the image is empty or the number of values is not that of the size; [`Error::Unsupported`]
    /// if a value is infinite or not a number.
    pub fn of_values(
        values: Vec<f32>,
        (height, width): (usize, usize),
        channels: usize,
    ) -> Result<Self> {
        let sides = (u32::try_from(height), u32::try_from(width));
        let count = height
            .checked_mul(width)
            .and_then(|count| count.checked_mul(channels));
        let (Ok(source_height), Ok(source_width), Some(1..), true) =
            (sides.0, sides.1, count, count == Some(values.len()))
        else {
            return Err(Error::shape(
                "image",
                "height * width * channels values",
                format!("{} values for {height}x{width}x{channels}", values.len()),
                "pass interleaved values",
            ));
        };
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let pixel = at / channels;
            let (row, col, band) = (pixel / width, pixel % width, at % channels);
            return Err(Error::unsupported(
                format!("the value {} in an image", values[at]),
                format!("it is no number (row {row}, column {col}, channel {band})"),
                "replace missing values, by 0 for instance",
            ));
        }
        Ok(Self {
            pixels: Vec::new(),
            values,
            height,
            width,
            channels,
            crop: Crop::whole((source_height, source_width)),
            points: Vec::new(),
            depth: Depth::F32,
        })
    }

    /// The data type of the values in their file.
    pub fn depth(&self) -> Depth {
        self.depth
    }

    /// The same sample with another data type of its file.
    pub(crate) fn stored_as(self, depth: Depth) -> Self {
        Self { depth, ..self }
    }

    /// Whether it is an image of values ([`Self::of_values`]), not of bytes.
    pub fn is_deep(&self) -> bool {
        !self.values.is_empty()
    }

    /// The values of a deep image, `[height, width, channels]`; empty for others.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Appends the values of a deep image to `planes`, channel by channel: `[channels, height, width]`.
    pub fn append_values(&self, planes: &mut Vec<f32>) {
        for channel in 0..self.channels {
            planes.extend(self.values.iter().skip(channel).step_by(self.channels));
        }
    }

    /// A cloud of points `[x, y, z]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if it has no point, [`Error::Unsupported`] if a coordinate is infinite or not a number.
    pub fn of_points(points: Vec<[f32; 3]>) -> Result<Self> {
        if points.is_empty() {
            return Err(Error::shape(
                "point cloud",
                "at least one point",
                0,
                "leave empty clouds out",
            ));
        }
        let finite = |point: &[f32; 3]| point.iter().all(|value| value.is_finite());
        if let Some(at) = points.iter().position(|point| !finite(point)) {
            return Err(Error::unsupported(
                format!("a point at {:?}", points[at]),
                format!("point {at} is not finite"),
                "remove such points from the cloud",
            ));
        }
        Ok(Self {
            pixels: Vec::new(),
            values: Vec::new(),
            height: 0,
            width: 0,
            channels: 3,
            crop: Crop::whole((0, 0)),
            points,
            depth: Depth::F32,
        })
    }

    /// Whether it is a point cloud.
    pub fn is_cloud(&self) -> bool {
        !self.points.is_empty()
    }

    /// The points of a cloud.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for an image.
    pub fn points(&self) -> Result<&[[f32; 3]]> {
        match self.is_cloud() {
            true => Ok(&self.points),
            false => Err(no_cloud("reading its points")),
        }
    }

    /// The points of a cloud, for `op`.
    pub(super) fn points_mut(&mut self, op: &'static str) -> Result<&mut Vec<[f32; 3]>> {
        match self.is_cloud() {
            true => Ok(&mut self.points),
            false => Err(no_cloud(op)),
        }
    }

    fn misfit(pixels: &[u8], size: (usize, usize), channels: usize) -> Error {
        Error::shape(
            "image",
            "height * width * channels bytes with 1 or 3 channels",
            format!("{} bytes for {size:?} x {channels}", pixels.len()),
            "pass interleaved grey or RGB bytes",
        )
    }

    /// The bytes, `[height, width, channels]`. Deep images have none.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Height and width in pixels. For a cloud: the number of points, and 1.
    pub fn size(&self) -> (usize, usize) {
        match self.is_cloud() {
            true => (self.points.len(), 1),
            false => (self.height, self.width),
        }
    }

    /// 1 (grey) or 3 (RGB, or the coordinates of a cloud). A deep image has any number.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Where the image lies in its source.
    pub fn crop(&self) -> Crop {
        self.crop
    }

    /// Appends the bytes to `planes`, channel by channel: `[channels, height, width]`.
    pub fn append_planes(&self, planes: &mut Vec<u8>) {
        if self.channels == 1 {
            planes.extend_from_slice(&self.pixels);
            return;
        }
        let first = planes.len();
        planes.resize(first + self.pixels.len(), 0);
        take_apart(&self.pixels, &mut planes[first..]);
    }

    /// Replaces the bytes by those of an image of `size` that was made from the box `(top, left, height, width)` of
    /// this image.
    pub(super) fn replace(&mut self, pixels: Vec<u8>, size: (usize, usize), from: [f32; 4]) {
        self.pixels = pixels;
        self.moved(size, from);
    }

    /// Does the same for the values of a deep image.
    pub(super) fn replace_values(
        &mut self,
        values: Vec<f32>,
        size: (usize, usize),
        from: [f32; 4],
    ) {
        self.values = values;
        self.moved(size, from);
    }

    fn moved(
        &mut self,
        (height, width): (usize, usize),
        [top, left, box_height, box_width]: [f32; 4],
    ) {
        let vertical = self.crop.height / self.height as f32;
        let horizontal = self.crop.width / self.width as f32;
        self.crop.top += top * vertical;
        self.crop.left += left * horizontal;
        self.crop.height = box_height * vertical;
        self.crop.width = box_width * horizontal;
        (self.height, self.width) = (height, width);
    }
}

fn no_cloud(what: &'static str) -> Error {
    Error::unsupported(
        what,
        "the data are images, and it is for point clouds",
        "use data of point clouds, such as data.source = \"shapes\"",
    )
}

simd_dispatch! {
    /// `[pixels, 3]` as `[3, pixels]`.
    fn take_apart<'a>(pixels: &'a [u8], planes: &'a mut [u8]) {
        let (blocks, rest) = pixels.as_chunks::<3>().0.as_chunks::<LANES>();
        let plane = pixels.len() / 3;
        for (index, block) in blocks.iter().enumerate() {
            for (channel, values) in channels(block).iter().enumerate() {
                let place = channel * plane + index * LANES;
                planes[place..][..LANES].copy_from_slice(values);
            }
        }
        for (index, pixel) in (blocks.len() * LANES..).zip(rest) {
            for channel in 0..3 {
                planes[channel * plane + index] = pixel[channel];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_of_boxes_are_kept_in_source_pixels() {
        let mut sample = Sample::new(vec![0; 8 * 12], (8, 12), 1).unwrap();
        sample.replace(vec![0; 4], (2, 2), [2., 4., 4., 8.]);
        sample.replace(vec![0; 1], (1, 1), [1., 1., 1., 1.]);
        let crop = sample.crop();
        assert_eq!(
            (crop.top, crop.left, crop.height, crop.width),
            (4., 8., 2., 4.)
        );
        assert_eq!((crop.source_height, crop.source_width), (8, 12));
    }

    #[test]
    fn planes_are_channel_by_channel() {
        let mut planes = vec![];
        let sample = Sample::new(vec![1, 2, 3, 4, 5, 6], (1, 2), 3).unwrap();
        sample.append_planes(&mut planes);
        assert_eq!(planes, [1, 4, 2, 5, 3, 6]);
        let bytes: Vec<u8> = (0..=255).cycle().take(3 * 130).collect();
        let sample = Sample::new(bytes.clone(), (13, 10), 3).unwrap();
        sample.append_planes(&mut planes);
        for (at, value) in planes[6..].iter().enumerate() {
            assert_eq!(*value, bytes[at % 130 * 3 + at / 130], "{at}");
        }
    }

    #[test]
    fn values_of_any_number_of_channels_are_finite() {
        let image = Sample::of_values(vec![0., 1., 2., 3., 4., 5., 6., 7.], (1, 2), 4).unwrap();
        let mut planes = vec![];
        image.append_values(&mut planes);
        assert_eq!(planes, [0., 4., 1., 5., 2., 6., 3., 7.]);
        assert!(image.is_deep() && image.pixels().is_empty());
        let error = Sample::of_values(vec![0., 0., 0., f32::NAN], (1, 2), 2).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("row 0, column 1, channel 1"), "{error}");
        for (count, size, channels) in [(3, (1, 2), 2), (0, (0, 2), 2), (0, (1, 2), 0)] {
            assert!(Sample::of_values(vec![0.; count], size, channels).is_err());
        }
    }

    #[test]
    fn refuses_bytes_of_another_size() {
        assert!(Sample::new(vec![0; 7], (2, 2), 1).is_err());
        assert!(Sample::new(vec![0; 8], (2, 2), 2).is_err());
        assert!(Sample::new(vec![], (0, 2), 1).is_err());
    }
}
