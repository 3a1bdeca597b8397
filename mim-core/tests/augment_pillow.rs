//! Deterministic cores of the augmentations against recorded results of Pillow (`scripts/augment_fixtures.py`).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "functions beside the tests; the exception for tests covers test functions only"
)]

use std::collections::BTreeMap;

use mim_core::augment::{
    Affine, CropBox, Interpolation, Sample, adjust_brightness, adjust_contrast, adjust_hue,
    adjust_saturation, adjust_sharpness, autocontrast, equalize, gaussian_blur, grayscale,
    posterize, resize, solarize, transform,
};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Case {
    op: String,
    input: String,
    shape: [usize; 3],
    offset: usize,
    #[serde(default)]
    r#box: [usize; 4],
    #[serde(default)]
    size: [usize; 2],
    #[serde(default)]
    interpolation: Interpolation,
    #[serde(default)]
    bits: u32,
    #[serde(default)]
    factor: f64,
}

impl Case {
    fn sample(&self, pixels: &[u8]) -> Sample {
        let [height, width, channels] = self.shape;
        let bytes = &pixels[self.offset..][..height * width * channels];
        Sample::new(bytes.to_vec(), (height, width), channels).unwrap()
    }

    fn moved(&self, input: Sample) -> Sample {
        let map = match self.op.as_str() {
            "rotate" => Affine::rotation(self.factor, input.size()),
            "shear_x" => Affine::shear_x(self.factor),
            "shear_y" => Affine::shear_y(self.factor),
            _ => Affine::translation(0., self.factor),
        };
        let fill: &[u8] = match input.channels() {
            1 => &[117],
            _ => &[124, 116, 104],
        };
        transform(input, map, fill)
    }

    fn run(&self, input: Sample) -> Sample {
        let [top, left, height, width] = self.r#box;
        let crop = CropBox {
            top,
            left,
            height,
            width,
        };
        match self.op.as_str() {
            "input" => input,
            "resize" => resize(input, crop, self.size.into(), self.interpolation).unwrap(),
            "brightness" => adjust_brightness(input, self.factor),
            "contrast" => adjust_contrast(input, self.factor),
            "saturation" => adjust_saturation(input, self.factor),
            "hue" => adjust_hue(input, self.factor),
            "grayscale" => grayscale(input),
            "solarize" => solarize(input, 128),
            "autocontrast" => autocontrast(input),
            "equalize" => equalize(input),
            "posterize" => posterize(input, self.bits),
            "sharpness" => adjust_sharpness(input, self.factor),
            "rotate" | "shear_x" | "shear_y" | "translate_x" => self.moved(input),
            "gaussian_blur" => gaussian_blur(input, self.factor),
            other => panic!("no test for {other}"),
        }
    }
}

#[test]
fn every_operation_gives_pillows_bytes() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/augment");
    let pixels = std::fs::read(format!("{folder}/pixels.bin")).unwrap();
    let cases = std::fs::read_to_string(format!("{folder}/cases.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&cases).unwrap();
    let inputs: BTreeMap<_, _> = cases
        .iter()
        .filter(|case| case.op == "input")
        .map(|case| (case.input.clone(), case.sample(&pixels)))
        .collect();
    assert_eq!((inputs.len(), cases.len()), (3, 61));
    let mut failures = vec![];
    for case in &cases {
        let expected = case.sample(&pixels);
        let got = case.run(inputs[&case.input].clone());
        assert_eq!(
            (got.size(), got.channels()),
            (expected.size(), expected.channels())
        );
        let pairs = got.pixels().iter().zip(expected.pixels());
        let differences: Vec<u8> = pairs.map(|(a, b)| a.abs_diff(*b)).collect();
        let worst = differences.iter().max().copied().unwrap();
        if worst > 0 {
            let count = differences
                .iter()
                .filter(|difference| **difference > 0)
                .count();
            failures.push(format!(
                "{case:?}: {count} bytes differ, at most by {worst}"
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
