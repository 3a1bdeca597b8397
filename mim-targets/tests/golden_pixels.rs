//! Pixel targets against those of the released training code.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use mim_core::PatchGrid;
use mim_targets::{Blur, PatchNorm, PixelTargetConfig};

fn load(name: &str) -> Option<HashMap<String, Tensor>> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/goldens"));
    if !folder.is_dir() {
        eprintln!("SKIPPED: no reference values at {}", folder.display());
        return None;
    }
    let file = folder.join(format!("{name}.safetensors"));
    Some(candle_core::safetensors::load(file, &Device::Cpu).unwrap())
}

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

fn check(name: &str, images: &str, side: usize, config: &PixelTargetConfig) {
    let Some(case) = load(name) else { return };
    let grid = PatchGrid::new(side, side);
    let target = config.build().unwrap();
    let ys = target.target(&case[images], grid).unwrap();
    assert_close(&ys, &case["expect.target"]);
}

#[test]
fn mae_and_its_relatives() {
    let mae = PixelTargetConfig::default();
    check("mae/case1_normpix", "input.images", 4, &mae);
    check("mae/case2_rawpix", "input.images", 6, &raw());
    check("cmae/case0", "input.img", 8, &mae);
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
    check("saim/mlp_blur", "input.images", 4, &smooth);
    check("saim/linear_l1_shared", "input.images", 6, &raw());
}

#[test]
fn bootmae_normalises_channels() {
    let Some(case) = load("bootmae/case0") else {
        return;
    };
    let grid = PatchGrid::new(6, 6);
    let target = PixelTargetConfig::bootmae().build().unwrap();
    let ys = target.target(&case["input.images"], grid).unwrap();
    let image = target.unpatchify(&ys, grid, 3).unwrap();
    assert_close(&image, &case["expect.pix_target"]);
}
