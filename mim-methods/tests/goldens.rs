//! Every golden case of a built method agrees: forward, loss, all gradients, one optimizer step.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use candle_core::Device;
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
