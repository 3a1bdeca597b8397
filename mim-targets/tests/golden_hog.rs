//! The three forms of HOG against those of the released training code.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;

use candle_core::{DType, Tensor};
use mim_core::{Norm, PatchGrid};
use mim_targets::{HogNorm, HogTargetConfig};
use mim_testing::Golden;

fn load(name: &str) -> HashMap<String, Tensor> {
    Golden::load(&format!("components/{name}")).tensors
}

#[track_caller]
fn assert_close(got: &Tensor, want: &Tensor) {
    assert_eq!(got.dims(), want.dims());
    let flat = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let want = flat(want);
    let largest = want.iter().fold(0f32, |max, x| max.max(x.abs()));
    for (got, want) in flat(got).iter().zip(&want) {
        let close = (got - want).abs() <= 2e-5 + 2e-4 * want.abs() + 1e-6 * largest;
        assert!(close, "{got} against {want}");
    }
}

/// Bytes `[batch, channels, height, width]`, and the same normalised for ImageNet.
fn images(case: &HashMap<String, Tensor>) -> (Tensor, Tensor) {
    let bytes = case["input.images_u8"].permute((0, 3, 1, 2)).unwrap();
    let bytes = bytes.to_dtype(DType::F32).unwrap().contiguous().unwrap();
    let unit = (&bytes / 255.).unwrap();
    assert_close(
        &Norm::imagenet().apply(&unit).unwrap(),
        &case["input.images"],
    );
    (bytes, case["input.images"].clone())
}

#[test]
fn fastmim_maskfeat_and_dmjd_on_photos_and_noise() {
    for name in ["hog_natural", "hog_noise"] {
        let case = load(name);
        let (bytes, images) = images(&case);
        let (batch, _, height, width) = images.dims4().unwrap();
        let grid = PatchGrid::new(height / 16, width / 16);

        let fastmim = HogTargetConfig::fastmim();
        let map = |config: &HogTargetConfig| {
            let made = config.build().unwrap().histograms(&images).unwrap();
            made.reshape((batch, 27, height / 8, width / 8)).unwrap()
        };
        assert_close(&map(&fastmim), &case["expect.fastmim_norm1"]);
        let cell_norm = HogNorm::None;
        let raw = HogTargetConfig {
            cell_norm,
            ..fastmim.clone()
        };
        assert_close(&map(&raw), &case["expect.fastmim_norm0"]);
        let tokens = fastmim.build().unwrap().target(&images, grid).unwrap();
        assert_close(&tokens, &case["expect.fastmim_tokens_p16"]);

        let maskfeat = HogTargetConfig::maskfeat().build().unwrap();
        assert_close(
            &maskfeat.histograms(&images).unwrap(),
            &case["expect.maskfeat_map"],
        );

        let dmjd = HogTargetConfig::dmjd();
        let bins_last = |config: &HogTargetConfig| {
            let made = config.build().unwrap().histograms(&bytes).unwrap();
            made.permute((0, 1, 3, 4, 2)).unwrap().contiguous().unwrap()
        };
        let cell_norm = HogNorm::None;
        let raw = HogTargetConfig {
            cell_norm,
            ..dmjd.clone()
        };
        assert_close(&bins_last(&raw), &case["expect.dmjd_hist"]);
        assert_close(&bins_last(&dmjd), &case["expect.dmjd_whitened"]);
        let tokens = dmjd.build().unwrap().target(&bytes, grid).unwrap();
        assert_close(&tokens, &case["expect.dmjd_tokens"]);
    }
}

#[test]
fn dmjd_on_oblong_and_flat_images() {
    let case = load("hog_dmjd");
    let target = HogTargetConfig::dmjd().build().unwrap();
    for name in ["a", "b"] {
        let bytes = case[&format!("input.{name}.image_u8")]
            .to_dtype(DType::F32)
            .unwrap();
        let (_, _, height, width) = bytes.dims4().unwrap();
        let grid = PatchGrid::new(height / 16, width / 16);
        let made = target.target(&bytes, grid).unwrap();
        assert_close(&made, &case[&format!("expect.{name}.target")]);
    }
}
