//! Pixel targets against those of the released training code.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use candle_core::Tensor;
use mim_core::PatchGrid;
use mim_targets::{Blur, PatchNorm, PixelTargetConfig};
use mim_testing::Golden;

#[track_caller]
fn assert_close(got: &Tensor, want: &Tensor) {
    assert_eq!(got.dims(), want.dims());
    let flat = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (got, want) in flat(got).iter().zip(flat(want)) {
        let close = (got - want).abs() <= 1e-5 + 1e-4 * want.abs();
        assert!(close, "{got} against {want}");
    }
}

fn raw() -> PixelTargetConfig {
    PixelTargetConfig {
        patch_norm: PatchNorm::None,
        ..PixelTargetConfig::default()
    }
}

fn check(case: &Golden, images: &str, side: usize, config: &PixelTargetConfig) {
    let grid = PatchGrid::new(side, side);
    let target = config.build().unwrap();
    let ys = target.target(&case.get(images), grid).unwrap();
    assert_close(&ys, &case.get("expect.target"));
}

#[test]
fn mae_and_its_relatives() {
    let mae = PixelTargetConfig::default();
    check(&Golden::load("mae/case1_normpix"), "input.images", 4, &mae);
    check(&Golden::load("cmae/case0"), "input.img", 8, &mae);
}

#[test]
fn saim_smooths_first() {
    let smooth = PixelTargetConfig {
        blur: Some(Blur {
            kernel_size: 9,
            sigma: 1.,
        }),
        ..PixelTargetConfig::default()
    };
    check(&Golden::load("saim/mlp_blur"), "input.images", 4, &smooth);
}

#[test]
#[ignore = "needs ../shared/goldens"]
fn raw_pixels_are_the_target_without_norm() {
    check(
        &Golden::load_shared("mae/case2_rawpix"),
        "input.images",
        6,
        &raw(),
    );
    check(
        &Golden::load_shared("saim/linear_l1_shared"),
        "input.images",
        6,
        &raw(),
    );
}

#[test]
fn bootmae_normalises_channels() {
    let case = Golden::load("bootmae/case0");
    let grid = PatchGrid::new(6, 6);
    let target = PixelTargetConfig::bootmae().build().unwrap();
    let ys = target.target(&case.get("input.images"), grid).unwrap();
    let image = target.unpatchify(&ys, grid, 3).unwrap();
    assert_close(&image, &case.get("expect.pix_target"));
}
