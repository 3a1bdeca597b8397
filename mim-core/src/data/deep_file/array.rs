//! Arrays of numpy as images.

use std::borrow::Cow;
use std::path::Path;

use candle_core::{DType, Tensor};

use super::super::reading::{ArrayLayout, ReadImage};
use super::{Stored, damaged, interleaved};
use crate::Result;
use crate::weights::{read_npy_bytes, read_npz_entry};

/// Reads an `.npy` file, or an array of an `.npz`.
///
/// # Errors
///
/// [`crate::Error::Format`] naming the file if it is damaged, or is no image in the layout that was said.
pub(super) fn read(bytes: &[u8], path: &Path, how: &ReadImage) -> Result<Stored> {
    let bytes = match bytes.starts_with(b"PK") {
        true => Cow::Owned(read_npz_entry(bytes, path, how.array_key.as_deref())?),
        false => Cow::Borrowed(bytes),
    };
    let (array, depth) = read_npy_bytes(&bytes, path)?;
    let (values, shape) = image(&array, how.layout).map_err(|what| damaged(path, what))?;
    let [height, width, channels] = shape;
    Ok(Stored {
        values,
        size: (height, width),
        channels,
        depth,
    })
}

/// Interleaved values and `[height, width, channels]` of an array of two axes, or of three in the order that was said.
fn image(array: &Tensor, layout: Option<ArrayLayout>) -> Result<(Vec<f32>, [usize; 3]), String> {
    let (shape, is_planes) = match (array.dims(), layout) {
        (&[height, width], _) => ([height, width, 1], false),
        (&[height, width, channels], Some(ArrayLayout::Hwc)) => ([height, width, channels], false),
        (&[channels, height, width], Some(ArrayLayout::Chw)) => ([height, width, channels], true),
        (dims, None) => {
            return Err(format!(
                "is an array {dims:?}, and data.array_layout does not say the order of its axes"
            ));
        }
        (dims, _) => return Err(format!("is an array {dims:?}, not of two or three axes")),
    };
    let values = array
        .to_dtype(DType::F32)
        .and_then(|array| array.flatten_all()?.to_vec1());
    let values: Vec<f32> = values.map_err(|error| error.to_string())?;
    let channels = shape[2];
    Ok(match is_planes && channels > 0 {
        true => (interleaved(&values, channels), shape),
        false => (values, shape),
    })
}
