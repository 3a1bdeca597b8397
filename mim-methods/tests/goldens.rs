//! Every golden case of a built method agrees: forward, loss, all gradients, one optimizer step.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use candle_core::Device;
use mim_core::weights::WeightMap;
use mim_methods::parity::{self, Overrides, Verdict};
use mim_methods::registry::METHODS;

fn folders() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = own.join("../../shared/goldens");
    let mut folders = vec![own.join("tests/goldens")];
    for method in METHODS.iter().map(|entry| entry.name) {
        let folder = shared.join(method);
        match folder.exists() {
            true => folders.push(folder),
            false => eprintln!(
                "no further cases of {method}: {} is not there",
                folder.display()
            ),
        }
    }
    folders
}

/// A copy of the committed case of DMJD with one tensor changed.
fn tampered(name: &str) -> parity::Report {
    let folder = tempfile::tempdir().unwrap();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/dmjd/block_hog.json");
    std::fs::copy(&own, folder.path().join("case.json")).unwrap();
    let mut tensors = WeightMap::read(own.with_extension("safetensors")).unwrap();
    let changed = (tensors.get(name).unwrap() * 1.01).unwrap();
    tensors.insert(name, changed);
    let path = folder.path().join("case.safetensors");
    tensors.write(path, None).unwrap();
    let case = parity::find(folder.path()).unwrap().remove(0);
    parity::run(&case, &Device::Cpu, Overrides::default())
}

#[test]
fn both_orders_of_visible_targets_are_compared() {
    for name in [
        "expect.loss_vis",
        "expect.loss_vis_aligned",
        "grad.predictor.0.weight",
        "grad_aligned.predictor.0.weight",
    ] {
        let report = tampered(name);
        let plain = name.replace("_aligned", "");
        assert_eq!(report.verdict, Verdict::Fail, "{name}: {report}");
        assert!(report.reason.unwrap().starts_with(&plain), "{name}");
    }
}

#[test]
fn methods_agree_with_the_authors_code() {
    let mut passed = 0;
    for folder in folders() {
        for case in parity::find(&folder).unwrap() {
            let report = parity::run(&case, &Device::Cpu, Overrides::default());
            println!("{report}");
            assert_ne!(report.verdict, Verdict::Fail, "{report}");
            passed += usize::from(report.verdict == Verdict::Pass);
        }
    }
    assert!(passed >= 2, "only {passed} cases were compared");
}
