//! Images of every format, depth and number of channels, against what Pillow, tifffile and numpy read from them.
//!
//! `scripts/make_every_format.py` wrote the files, and says what its index means.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::ZlibDecoder;
use mim_core::augment::Sample;
use mim_core::data::{ArrayLayout, DataSource, Dataset, Reading, Split, TiffPages, ValueRange};
use serde::Deserialize;

/// Images are so high and wide.
const SIZE: (usize, usize) = (5, 7);

/// What the index says of a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Where its bytes as RGB are, or a word of the refusal.
    rgb: Rgb,
    /// `[height, width, channels]` of its values, where they are, and their type.
    values: Option<[usize; 3]>,
    at: Option<usize>,
    depth: Option<String>,
    /// A word of the refusal to read values.
    refused: Option<String>,
    layout: Option<ArrayLayout>,
    #[serde(default)]
    pages: bool,
    /// How far lossy formats may be off, in steps of 8 bits.
    #[serde(default)]
    far: u8,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Rgb {
    At(usize),
    Refused(String),
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/every_format")
}

fn index() -> BTreeMap<String, File> {
    let text = fs::read_to_string(fixtures().join("index.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn unpacked(name: &str) -> Vec<u8> {
    let packed = fs::read(fixtures().join(name)).unwrap();
    let mut bytes = vec![];
    ZlibDecoder::new(&packed[..])
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

/// The files as a data set that reads them in one way.
struct Opened(Arc<dyn Dataset>);

impl Opened {
    fn new(reading: &Reading) -> Self {
        let source = DataSource::Folder(fixtures());
        Self(source.open_with(Split::Train, reading).unwrap())
    }

    fn read(&self, name: &str) -> Result<Sample, String> {
        let end = format!("/{name}");
        let named = |index: &usize| self.0.name_of(*index).ends_with(&end);
        let index = (0..self.0.len()).find(named);
        let index = index.ok_or_else(|| format!("{name} cannot be found"))?;
        self.0.read(index).map_err(|error| error.to_string())
    }
}

/// Reads values as they are in the files: a range from 0 to 1 does not scale.
fn raw(layout: ArrayLayout, tiff_pages: TiffPages) -> Reading {
    Reading {
        range: Some(ValueRange::Bounds([0., 1.])),
        array_layout: Some(layout),
        tiff_pages,
        ..Reading::default()
    }
}

#[test]
fn all_values_are_those_of_pillow_tifffile_and_numpy() {
    let values: Vec<f32> = unpacked("values.bin")
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    let hwc = Opened::new(&raw(ArrayLayout::Hwc, TiffPages::First));
    let chw = Opened::new(&raw(ArrayLayout::Chw, TiffPages::First));
    let pages = Opened::new(&raw(ArrayLayout::Hwc, TiffPages::Channels));
    let (mut compared, mut refused, mut wrong) = (0, 0, vec![]);
    for (name, file) in &index() {
        let opened = match (file.pages, file.layout) {
            (true, _) => &pages,
            (false, Some(ArrayLayout::Chw)) => &chw,
            (false, _) => &hwc,
        };
        let read = opened.read(name);
        let (Some([height, width, channels]), Some(at)) = (file.values, file.at) else {
            let word = file.refused.as_ref().unwrap();
            match read {
                Err(error) if error.contains(word) && error.contains(name) => refused += 1,
                other => wrong.push(format!("{name}: {other:?} instead of `{word}`")),
            }
            continue;
        };
        let sample = match read {
            Ok(sample) => sample,
            Err(error) => {
                wrong.push(error);
                continue;
            }
        };
        let expected = &values[at..][..height * width * channels];
        compared += expected.len();
        let found = (sample.size(), sample.channels(), sample.depth().to_string());
        let wanted = ((height, width), channels, file.depth.clone().unwrap());
        if found != wanted {
            wrong.push(format!("{name}: {found:?} instead of {wanted:?}"));
            continue;
        }
        let far = |(found, wanted): &(&f32, &f32)| (**found - **wanted).abs() > f32::from(file.far);
        let pairs = || sample.values().iter().zip(expected);
        if sample.values().len() != expected.len() || pairs().any(|pair| far(&pair)) {
            let first: Vec<_> = pairs().filter(far).take(4).collect();
            wrong.push(format!("{name}: {first:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 10_000 && refused > 0, "{compared} {refused}");
}

#[test]
fn all_pixels_are_those_of_pillow() {
    let rgb = unpacked("rgb.bin");
    let mut wrong = vec![];
    for (name, file) in &index() {
        let sample = mim_core::data::decode(&fixtures().join(name));
        let sample = sample.map_err(|error| error.to_string());
        let at = match (&file.rgb, sample.as_ref()) {
            (Rgb::At(at), Ok(_)) => *at,
            (Rgb::Refused(word), Err(error)) if error.contains(word) && error.contains(name) => {
                continue;
            }
            (wanted, found) => {
                wrong.push(format!("{name}: {found:?} instead of {wanted:?}"));
                continue;
            }
        };
        let sample = sample.unwrap();
        let expected = &rgb[at..][..SIZE.0 * SIZE.1 * 3];
        let pairs = || sample.pixels().iter().zip(expected);
        let far = |(found, wanted): &(&u8, &u8)| found.abs_diff(**wanted) > file.far;
        if (sample.size(), sample.channels()) != (SIZE, 3) || pairs().any(|pair| far(&pair)) {
            let first: Vec<_> = pairs().filter(far).take(4).collect();
            wrong.push(format!("{name}: {:?} {first:?}", sample.size()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_range_of_a_type_is_from_zero_to_its_largest_value() {
    let reading = |range| Reading {
        range: Some(range),
        ..raw(ArrayLayout::Hwc, TiffPages::First)
    };
    let scaled = Opened::new(&reading(ValueRange::Dtype));
    let raw = Opened::new(&reading(ValueRange::Bounds([0., 1.])));
    for (depth, largest) in [
        ("int8", 127.),
        ("int16", 32_767.),
        ("uint32", 4_294_967_295.),
        ("int32", 2_147_483_647.),
        ("float16", 1.),
        ("float64", 1.),
    ] {
        for name in [format!("{depth}.tif"), format!("hwc-{depth}.npy")] {
            let (scaled, raw) = (scaled.read(&name).unwrap(), raw.read(&name).unwrap());
            for (scaled, raw) in scaled.values().iter().zip(raw.values()) {
                let wanted = f64::from(*raw) / largest;
                let far = (f64::from(*scaled) - wanted).abs();
                assert!(far <= 2e-7 * wanted.abs(), "{name}: {scaled} {wanted}");
            }
        }
    }
}
