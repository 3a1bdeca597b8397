//! Files of point clouds.

mod mesh;
mod off;
mod ply;
mod text;

use std::path::Path;

use candle_core::{DType, Tensor};

use crate::augment::Sample;
use crate::weights::{WeightFile, read_npy};
use crate::{Error, Result, files};

/// Names that an array of points may have in an archive.
const ARRAYS: [&str; 3] = ["points", "xyz", "pos"];
const FIX: &str = "remove the file or save it again";

/// Reads a point cloud of any kind, told by the end of its name.
///
/// # Errors
///
/// [`Error::Io`] if the file cannot be read; [`Error::Format`] naming it if it ends early, is damaged, has no point, or
/// one that is not finite.
pub(super) fn read(path: &Path) -> Result<Sample> {
    let bytes = || files::read(path);
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let broken = |what: String| Error::format(path, what, FIX);
    let points = match extension.to_lowercase().as_str() {
        "npy" => rows(&read_npy(path)?).map_err(broken)?,
        "npz" => rows(&of_archive(path)?).map_err(broken)?,
        "ply" => ply::points(&bytes()?).map_err(broken)?,
        "off" => off::points(&bytes()?).map_err(broken)?,
        "xyz" => text::points(&bytes()?).map_err(broken)?,
        other => {
            let what = format!("files ending in `{other}` are no point clouds known here");
            let fix = "save it as .npy, .npz, .ply, .off or .xyz";
            return Err(Error::format(path, what, fix));
        }
    };
    Sample::of_points(points).map_err(|error| broken(error.to_string()))
}

/// The array of points of an `.npz`.
fn of_archive(path: &Path) -> Result<Tensor> {
    let arrays = WeightFile::open(path, None)?.weights;
    if let Some(array) = ARRAYS.iter().find_map(|name| arrays.get(name)) {
        return Ok(array.clone());
    }
    let mut flat = arrays.iter().filter(|(_, array)| array.rank() == 2);
    match (flat.next(), flat.next()) {
        (Some((_, array)), None) => Ok(array.clone()),
        _ => {
            let names: Vec<_> = arrays.names().collect();
            Err(Error::format(
                path,
                format!("which of its arrays holds the points is not clear: {names:?}"),
                "call the array `points`",
            ))
        }
    }
}

/// The first three columns of an array.
fn rows(array: &Tensor) -> std::result::Result<Vec<[f32; 3]>, String> {
    match *array.dims() {
        [_, columns] if columns >= 3 => {}
        _ => {
            let found = array.dims();
            return Err(format!("its array is {found:?}, not [points, 3 or more]"));
        }
    }
    let values = array
        .narrow(1, 0, 3)
        .and_then(|xs| xs.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>())
        .map_err(|error| error.to_string())?;
    Ok(values.as_chunks::<3>().0.to_vec())
}

/// Three numbers at the start of a line.
fn point(line: &str, number: usize) -> std::result::Result<[f32; 3], String> {
    let mut words = line.split(|c: char| c.is_whitespace() || c == ',' || c == ';');
    let mut next = || -> Option<f32> { words.find(|word| !word.is_empty())?.parse().ok() };
    match (next(), next(), next()) {
        (Some(x), Some(y), Some(z)) => Ok([x, y, z]),
        _ => Err(format!(
            "line {number} does not start with three numbers: {:?}",
            line.chars().take(40).collect::<String>()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_read_by_name_or_if_they_are_alone() {
        let folder = tempfile::tempdir().unwrap();
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4), }";
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
        file.extend(header.bytes());
        let values: Vec<u8> = (0u8..8)
            .flat_map(|value| f32::from(value).to_le_bytes())
            .collect();
        file.extend(&values);
        let path = folder.path().join("a.npy");
        std::fs::write(&path, &file).unwrap();
        let cloud = read(&path).unwrap();
        assert_eq!(cloud.points().unwrap(), [[0., 1., 2.], [4., 5., 6.]]);
        std::fs::write(&path, &file[..file.len() - 4]).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(
            error.contains("a.npy") && error.contains("bytes"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_cloud_is_named_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text, part) in [
            ("nan.xyz", "0 0 0\nnan 1 2\n", "point 1 is not finite"),
            ("empty.xyz", "# nothing\n", "at least one point"),
            ("short.xyz", "1 2\n", "line 1"),
            ("a.txt", "1 2 3", "no point clouds known"),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(part), "{error}");
        }
    }
}
