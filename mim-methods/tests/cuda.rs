//! Whole steps on a CUDA device: the committed cases agree as they do on the CPU.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use candle_core::Device;
use mim_core::ops::{Precision, launches, with_precision};
use mim_methods::parity::{self, Overrides, Verdict};

fn check(method: &str, precision: Precision, overrides: Overrides) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let gpu = Device::new_cuda(0).unwrap();
    for case in parity::find(&own.join(method)).unwrap() {
        let before = launches();
        let report = with_precision(precision, || parity::run(&case, &gpu, overrides));
        assert_eq!(report.verdict, Verdict::Pass, "{report}");
        assert!(launches() > before + 100, "{method} hardly used kernels");
    }
}

#[test]
fn methods_agree_with_the_authors_code() {
    for method in [
        "mae", "simmim", "bootmae", "fastmim", "maskfeat", "convmae", "dmjd", "ibot", "milan",
        "sim", "cmae",
    ] {
        let overrides = Overrides {
            rtol: Some(1e-4),
            atol: Some(5e-6),
            ..Overrides::default()
        };
        check(method, Precision::F32, overrides);
    }
}

#[test]
fn losses_in_bf16_are_near() {
    for method in ["mae", "simmim", "bootmae", "convmae", "milan"] {
        let overrides = Overrides {
            rtol: Some(2e-2),
            losses_only: true,
            ..Overrides::default()
        };
        check(method, Precision::Bf16, overrides);
    }
}
