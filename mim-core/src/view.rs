//! Views of images and point clouds, the input of a method.

use candle_core::{DType, Device, Tensor};

use crate::{Error, Norm, Result, ops};

/// Position of a view in its source image; coordinates refer to the source after the view's own flip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crop {
    /// Top edge in source pixels.
    pub top: f32,
    /// Left edge in source pixels.
    pub left: f32,
    /// Height in source pixels.
    pub height: f32,
    /// Width in source pixels.
    pub width: f32,
    /// Height of the source image in pixels.
    pub source_height: u32,
    /// Width of the source image in pixels.
    pub source_width: u32,
    /// Whether the view was mirrored.
    pub flipped: bool,
}

impl Crop {
    /// A crop that covers an image of (height, width) pixels.
    pub fn whole((height, width): (u32, u32)) -> Self {
        Self {
            top: 0.,
            left: 0.,
            height: height as f32,
            width: width as f32,
            source_height: height,
            source_width: width,
            flipped: false,
        }
    }
}

/// One view of a batch of images, or of point clouds.
#[derive(Debug, Clone)]
pub struct View {
    /// `[batch, channels, height, width]`, or `[batch, points, 3]` for clouds.
    pixels: Tensor,
    /// Whether f32 pixels are in `[0, 1]` instead of normalised.
    unit: bool,
    /// One crop per image; empty if not recorded.
    pub crops: Vec<Crop>,
}

impl View {
    /// A view of `[batch, channels, height, width]` pixels: u8 bytes, or f32 values already normalised by the
    /// caller (recorded inputs, custom data).
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for another rank or dtype.
    pub fn new(pixels: Tensor, crops: Vec<Crop>) -> Result<Self> {
        if pixels.rank() != 4 || !matches!(pixels.dtype(), DType::U8 | DType::F32) {
            return Err(Error::shape(
                "view pixels",
                "[batch, channels, height, width] in u8 or f32",
                (pixels.dims(), pixels.dtype()),
                "pass raw bytes, or f32 values that you have normalised",
            ));
        }
        Ok(Self {
            pixels,
            unit: false,
            crops,
        })
    }

    /// A view of f32 pixels in `[0, 1]`, `[batch, channels, height, width]`, not normalised (recorded
    /// inputs of tokenizers).
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for another rank or dtype.
    pub fn of_unit(pixels: Tensor, crops: Vec<Crop>) -> Result<Self> {
        let view = Self::new(pixels, crops)?;
        Ok(Self {
            unit: view.pixels.dtype() == DType::F32,
            ..view
        })
    }

    /// A view of point clouds `[batch, points, 3]` in f32.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for another shape or dtype, or an empty cloud.
    pub fn of_points(points: Tensor) -> Result<Self> {
        let fits = matches!(*points.dims(), [_, count, 3] if count > 0);
        if !fits || points.dtype() != DType::F32 {
            return Err(Error::shape(
                "view of point clouds",
                "[batch, points, 3] in f32",
                (points.dims(), points.dtype()),
                "pass clouds of equal size",
            ));
        }
        Ok(Self {
            pixels: points,
            unit: false,
            crops: Vec::new(),
        })
    }

    /// Whether it holds point clouds.
    pub fn is_of_points(&self) -> bool {
        self.pixels.rank() == 3
    }

    /// The points of clouds, `[batch, points, 3]`.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for a view of images.
    pub fn points(&self) -> Result<&Tensor> {
        if self.is_of_points() {
            return Ok(&self.pixels);
        }
        Err(Error::unsupported(
            "points of images",
            "the method needs point clouds, but the data are images",
            "use point cloud data, such as data.source = \"shapes\"",
        ))
    }

    /// The pixels as given; for clouds, the points.
    pub fn pixels(&self) -> &Tensor {
        &self.pixels
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.pixels.dims()[0]
    }

    /// Whether the view is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Height and width in pixels; for clouds, the number of points and 1.
    pub fn size(&self) -> (usize, usize) {
        match *self.pixels.dims() {
            [_, _, height, width] => (height, width),
            [_, points, _] => (points, 1),
            _ => (0, 0),
        }
    }

    /// Pixels in `[0, 1]`.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for a view of normalised values, since their normalisation is unknown.
    pub fn unit(&self) -> Result<Tensor> {
        if self.unit {
            return Ok(self.pixels.clone());
        }
        if self.pixels.dtype() != DType::U8 {
            return Err(Error::unsupported(
                "reading raw pixels of a normalised view",
                "its values were normalised by the caller",
                "pass the view as u8 bytes",
            ));
        }
        Ok((self.pixels.to_dtype(DType::F32)? / 255.)?)
    }

    /// The network's input: bytes and values in `[0, 1]` are normalised with `norm`; other f32 values and points are
    /// returned unchanged.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if `norm` has another number of channels.
    pub fn normalized(&self, norm: &Norm) -> Result<Tensor> {
        match self.pixels.dtype() {
            DType::U8 => match norm.apply_to_bytes(&self.pixels)? {
                Some(ys) => Ok(ys),
                None => norm.apply(&self.unit()?),
            },
            _ if self.unit => norm.apply(&self.pixels),
            _ => Ok(self.pixels.clone()),
        }
    }

    /// A view of image `row` only.
    ///
    /// # Errors
    ///
    /// If there is no such image.
    pub fn only(&self, row: usize) -> Result<Self> {
        Ok(Self {
            pixels: self.pixels.narrow(0, row, 1)?,
            unit: self.unit,
            crops: self.crops.get(row).copied().into_iter().collect(),
        })
    }

    /// The same view on another device.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(Self {
            pixels: ops::to_device(&self.pixels, device)?,
            unit: self.unit,
            crops: self.crops.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_values_are_normalised_and_normalised_ones_are_kept() {
        let pixels = Tensor::full(0.75f32, (1, 1, 2, 2), &Device::Cpu).unwrap();
        let norm = Norm::uniform(0.5, 0.5, 1);
        let first = |xs: Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0];
        let unit = View::of_unit(pixels.clone(), vec![]).unwrap();
        let unit = unit.to_device(&Device::Cpu).unwrap();
        assert_eq!(first(unit.unit().unwrap()), 0.75);
        assert_eq!(first(unit.normalized(&norm).unwrap()), 0.5);
        let own = View::new(pixels, vec![]).unwrap();
        assert_eq!(first(own.normalized(&norm).unwrap()), 0.75);
        assert!(own.unit().is_err());
    }
}
