//! Pages of TIFF files and arrays of archives as images.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::path::Path;

use mim_core::augment::{Depth, Sample};
use mim_core::data::{ArrayLayout, DataSource, Reading, Split, TiffPages, ValueRange};
use tiff::encoder::{TiffEncoder, colortype};

/// A TIFF of grey pages of u16.
fn write_pages(path: &Path, pages: &[(u32, u32, &[u16])]) {
    let mut file = TiffEncoder::new(File::create(path).unwrap()).unwrap();
    for (width, height, values) in pages {
        let page = file.write_image::<colortype::Gray16>(*width, *height, values);
        page.unwrap();
    }
}

/// The only image of a folder.
fn read(folder: &Path, reading: &Reading) -> Result<Sample, String> {
    let source = DataSource::Folder(folder.to_owned());
    let images = source.open_with(Split::Train, reading);
    let images = images.map_err(|error| error.to_string())?;
    images.read(0).map_err(|error| error.to_string())
}

#[test]
fn pages_of_a_tiff_are_channels_if_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("stack.tif");
    let first = (2, 1, &[1u16, 2][..]);
    write_pages(&path, &[first, (2, 1, &[3, 4]), (2, 1, &[5, 6])]);
    let reading = |tiff_pages| Reading {
        range: Some(ValueRange::Bounds([0., 1.])),
        tiff_pages,
        ..Reading::default()
    };
    let stack = read(root.path(), &reading(TiffPages::Channels)).unwrap();
    assert_eq!((stack.size(), stack.channels()), ((1, 2), 3));
    assert_eq!(stack.values(), [1., 3., 5., 2., 4., 6.]);
    assert_eq!(stack.depth(), Depth::U16);
    let page = read(root.path(), &reading(TiffPages::First)).unwrap();
    assert_eq!((page.channels(), page.values()), (1, &[1., 2.][..]));

    write_pages(&path, &[first, (1, 2, &[3, 4])]);
    let error = read(root.path(), &reading(TiffPages::Channels)).unwrap_err();
    for part in ["stack.tif", "page 2", "tiff_pages"] {
        assert!(error.contains(part), "{error}");
    }
    let error = read(
        root.path(),
        &Reading {
            range: None,
            ..reading(TiffPages::Channels)
        },
    );
    assert!(error.unwrap_err().contains("data.range"));
}

#[test]
fn the_array_of_an_archive_is_named_where_there_are_several() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("arrays.npz");
    fs::copy(fixtures.join("arrays.npz"), &path).unwrap();
    let reading = |key: Option<&str>, layout| Reading {
        range: Some(ValueRange::Dtype),
        array_layout: Some(layout),
        array_key: key.map(str::to_owned),
        ..Reading::default()
    };
    let bands = read(root.path(), &reading(Some("bands"), ArrayLayout::Chw)).unwrap();
    assert_eq!((bands.size(), bands.channels()), ((2, 4), 3));
    assert_eq!(bands.depth(), Depth::U16);
    for (value, wanted) in bands.values().iter().zip([0., 8., 16., 1., 9.]) {
        assert!((value * 65535. - wanted).abs() < 1e-3, "{value} {wanted}");
    }
    let turned = read(root.path(), &reading(Some("bands"), ArrayLayout::Hwc)).unwrap();
    assert_eq!((turned.size(), turned.channels()), ((3, 2), 4));
    for (key, parts) in [
        (None, ["2 arrays: bands, mask", "array_key"]),
        (Some("image"), ["no array `image`", "bands, mask"]),
    ] {
        let error = read(root.path(), &reading(key, ArrayLayout::Chw)).unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    // Cut short, or with a wrong byte among its values.
    let whole = fs::read(&path).unwrap();
    for damaged in [
        whole[..whole.len() - 30].to_vec(),
        whole
            .iter()
            .enumerate()
            .map(|(at, byte)| byte ^ u8::from(at == 150))
            .collect(),
    ] {
        fs::write(&path, damaged).unwrap();
        let error = read(root.path(), &reading(Some("bands"), ArrayLayout::Chw)).unwrap_err();
        assert!(error.contains("arrays.npz"), "{error}");
    }
}
