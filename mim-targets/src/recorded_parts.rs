//! Part maps from a file.

use std::path::Path;

use candle_core::{DType, Tensor};
use mim_core::weights::WeightMap;
use mim_core::{Crop, Error, PatchGrid, Result, Target};

use crate::{TargetGenerator, TargetRequest};

/// Name of the maps in the file.
const TENSOR: &str = "part_id";

/// The part of each patch, `[batch, tokens]` u32, from a file of maps of whole images: a guide for maskers.
///
/// The file (`.safetensors` or `.npz`) holds `part_id` `[images, rows, cols]` u8, one map per image of the training
/// set, in its order; 255 ([`mim_core::NO_PART`]) means no part. Views may be flipped and cropped: a patch has the part
/// at its centre. Images outside the training set have no maps.
#[derive(Debug, Clone)]
pub struct RecordedParts {
    maps: Vec<u8>,
    map: PatchGrid,
}

impl RecordedParts {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or holds no maps.
    pub fn read(path: &Path) -> Result<Self> {
        Self::of_file(&WeightMap::read(path)?, path)
    }

    fn of_file(file: &WeightMap, path: &Path) -> Result<Self> {
        let bad = |what: String| {
            let fix = "write part_id as bytes, [images, rows, cols]";
            Error::format(path, what, fix)
        };
        let maps = file
            .get(TENSOR)
            .ok_or_else(|| bad(format!("it holds no `{TENSOR}`")))?;
        match (maps.dims(), maps.dtype()) {
            (&[images, rows, cols], DType::U8) if images * rows * cols > 0 => Ok(Self {
                maps: maps.flatten_all()?.to_vec1()?,
                map: PatchGrid::new(rows, cols),
            }),
            (dims, dtype) => Err(bad(format!("`{TENSOR}` is {dims:?} of {dtype:?}"))),
        }
    }

    /// Uses given maps, each on the grid `map`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if they are not whole maps.
    pub fn new(maps: Vec<u8>, map: PatchGrid) -> Result<Self> {
        if maps.is_empty() || !maps.len().is_multiple_of(map.len()) {
            let (wanted, fix) = (format!("maps of {map}"), "use whole maps");
            return Err(Error::shape("part maps", wanted, maps.len(), fix));
        }
        Ok(Self { maps, map })
    }

    /// The map of image `index`.
    fn of(&self, index: usize) -> Result<&[u8]> {
        let mut maps = self.maps.chunks(self.map.len());
        maps.nth(index).ok_or_else(|| {
            Error::shape(
                "part maps",
                format!("a map for image {index}"),
                format!("{} maps", self.maps.len() / self.map.len()),
                "use a file with one map per image of the training set, in its order",
            )
        })
    }
}

/// The part at the centre of each patch of a view.
fn parts_of_view(map: &[u8], size: PatchGrid, crop: Option<&Crop>, grid: PatchGrid) -> Vec<u32> {
    // As fractions of the source image.
    let (mut left, mut top, mut width, mut height, mut flipped) = (0., 0., 1., 1., false);
    if let Some(crop) = crop {
        let source = (crop.source_width as f32, crop.source_height as f32);
        (left, width) = (crop.left / source.0, crop.width / source.0);
        (top, height) = (crop.top / source.1, crop.height / source.1);
        flipped = crop.flipped;
    }
    let at = |share: f32, cells: usize| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a position inside the image, clamped"
        )]
        let cell = (share * cells as f32).max(0.) as usize;
        cell.min(cells - 1)
    };
    let part = |id: usize| {
        let (row, col) = (id / grid.cols, id % grid.cols);
        let y = top + height * (row as f32 + 0.5) / grid.rows as f32;
        let x = left + width * (col as f32 + 0.5) / grid.cols as f32;
        let x = if flipped { 1. - x } else { x };
        u32::from(map[at(y, size.rows) * size.cols + at(x, size.cols)])
    };
    (0..grid.len()).map(part).collect()
}

impl TargetGenerator for RecordedParts {
    fn has_parts(&self) -> bool {
        true
    }

    fn check(&self, grid: PatchGrid, _views: &[(usize, usize)]) -> Result<()> {
        let (rows, cols) = (self.map.rows, self.map.cols);
        if rows.is_multiple_of(grid.rows) && cols.is_multiple_of(grid.cols) {
            return Ok(());
        }
        Err(Error::shape(
            "part maps of the file",
            format!("the encoder's patch grid {grid}, or a multiple of it"),
            format!("{}", self.map),
            "use maps of that size, or change encoder.image_size or encoder.patch_size",
        ))
    }

    fn generate(&self, rq: &TargetRequest<'_>) -> Result<Target> {
        if !rq.step.training {
            return Err(Error::unsupported(
                "part maps outside of training",
                "the maps in the file belong to the training images",
                "use part maps from a teacher",
            ));
        }
        let (view, indices) = (rq.batch.view(0)?, &rq.batch.indices);
        if indices.len() != view.len() {
            return Err(Error::shape(
                "images with part maps",
                format!("the indices of {} images in their data set", view.len()),
                indices.len(),
                "use mim's loader, or set Batch::indices",
            ));
        }
        let mut parts = Vec::with_capacity(view.len() * rq.grid.len());
        for (image, &index) in indices.iter().enumerate() {
            let map = self.of(index as usize)?;
            parts.extend(parts_of_view(map, self.map, view.crops.get(image), rq.grid));
        }
        let shape = (view.len(), rq.grid.len());
        // They guide a masker, which runs on the host.
        let parts = Tensor::from_vec(parts, shape, &candle_core::Device::Cpu)?;
        Ok(Target::patches(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: PatchGrid = PatchGrid { rows: 2, cols: 2 };

    #[test]
    fn views_are_flipped_and_cropped_with_their_maps() {
        let map = [0, 1, 2, 3];
        let whole = Crop::whole((10, 10));
        assert_eq!(parts_of_view(&map, GRID, Some(&whole), GRID), [0, 1, 2, 3]);
        assert_eq!(parts_of_view(&map, GRID, None, GRID), [0, 1, 2, 3]);
        let flipped = Crop {
            flipped: true,
            ..whole
        };
        assert_eq!(
            parts_of_view(&map, GRID, Some(&flipped), GRID),
            [1, 0, 3, 2]
        );
        // The lower left quarter of the flipped image is the lower right quarter of the map.
        let corner = Crop {
            top: 5.,
            width: 5.,
            height: 5.,
            ..flipped
        };
        assert_eq!(parts_of_view(&map, GRID, Some(&corner), GRID), [3; 4]);
    }

    #[test]
    fn invalid_files_and_mismatched_grids_are_refused() {
        let device = &candle_core::Device::Cpu;
        let read = |tensor: &str, value: Tensor| {
            let mut file = WeightMap::default();
            file.insert(tensor, value);
            let maps = RecordedParts::of_file(&file, Path::new("maps.npz"));
            maps.map_err(|error| error.to_string())
        };
        let bytes = Tensor::zeros((3, 2, 4), DType::U8, device).unwrap();
        let maps = read("part_id", bytes.clone()).unwrap();
        assert!(maps.check(PatchGrid::new(2, 2), &[]).is_ok());
        let error = maps
            .check(PatchGrid::new(3, 3), &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("2x4") && error.contains("3x3"), "{error}");
        assert!(maps.of(2).is_ok() && maps.of(3).is_err());
        let error = read("parts", bytes).unwrap_err();
        assert!(error.contains("`part_id`"), "{error}");
        let floats = Tensor::zeros((3, 2, 4), DType::F32, device).unwrap();
        assert!(read("part_id", floats).unwrap_err().contains("F32"));
        assert!(RecordedParts::new(vec![0; 3], GRID).is_err());
    }
}
