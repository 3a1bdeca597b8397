//! Every committed golden case agrees: forward, loss, all gradients, one optimizer step.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use mim_core::weights::WeightMap;
use mim_methods::parity::{self, Overrides, Verdict};
use mim_methods::registry::methods;

/// The folder of the committed cases.
fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

/// Tensor files whose name is that of a JSON file beside them: one a case.
fn count(folder: &Path) -> usize {
    let mut found = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let tensors = path.extension().is_some_and(|end| end == "safetensors");
        found += match path.is_dir() {
            true => count(&path),
            false => usize::from(tensors && path.with_extension("json").is_file()),
        };
    }
    found
}

/// The report of a copy of the committed case of DMJD with one tensor changed.
fn tampered(name: &str) -> parity::Report {
    with_tensors("dmjd/block_hog", |tensors| {
        let changed = (tensors.get(name).unwrap() * 1.01).unwrap();
        tensors.insert(name, changed);
    })
}

/// The report of a copy of a committed case whose tensors were changed.
fn with_tensors(stem: &str, change: impl FnOnce(&mut WeightMap)) -> parity::Report {
    let folder = tempfile::tempdir().unwrap();
    let own = committed().join(stem).with_extension("json");
    std::fs::copy(&own, folder.path().join("case.json")).unwrap();
    let mut tensors = WeightMap::read(own.with_extension("safetensors")).unwrap();
    change(&mut tensors);
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

/// The reason why the committed trajectory fails when one number of a tensor has been multiplied.
fn tampered_trajectory(name: &str, index: usize, factor: f64) -> String {
    let report = with_tensors("simmim/trajectory_a", |tensors| {
        let own = tensors.get(name).unwrap();
        let flat = own.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        let mut values: Vec<f64> = flat.to_vec1().unwrap();
        values[index] *= factor;
        let changed = Tensor::from_vec(values, own.dims(), &Device::Cpu).unwrap();
        tensors.insert(name, changed.to_dtype(own.dtype()).unwrap());
    });
    assert_eq!(report.verdict, Verdict::Fail, "{name}: {report}");
    report.reason.unwrap()
}

#[test]
fn a_trajectory_that_goes_astray_is_named_with_its_first_step() {
    for (name, index) in [
        ("expect.loss", 41),
        ("expect.grad_norm", 7),
        ("expect.lr", 99),
    ] {
        let reason = tampered_trajectory(name, index, 1.001);
        let step = format!("at step {}:", index + 1);
        assert!(
            reason.starts_with(name) && reason.contains(&step),
            "{reason}"
        );
        assert!(!reason.contains("then"), "{reason}");
    }
    // Another first batch: all that follows differs.
    let reason = tampered_trajectory("input.images", 0, 50.);
    assert!(
        reason.contains("at step 1:") || reason.contains("at step 2:"),
        "{reason}"
    );
    assert!(reason.contains("; then"), "{reason}");
    for name in ["step100.encoder.norm.weight", "expect.features"] {
        let reason = tampered_trajectory(name, 3, 1.1);
        assert!(reason.contains(name), "{reason}");
    }
}

#[test]
fn every_committed_case_agrees_with_the_authors_code() {
    let cases = parity::find(&committed()).unwrap();
    assert_eq!(cases.len(), count(&committed()));
    for case in &cases {
        let report = parity::run(case, &Device::Cpu, Overrides::default());
        println!("{report}");
        assert_eq!(report.verdict, Verdict::Pass, "{report}");
    }
    // The case of BEiT v2 holds VQ-KD's, those of PeCo are its tokenizer's, and no code of SemMAE's parts was released.
    let without = methods().iter().map(|entry| entry.name).filter(|name| {
        let has = |case: &parity::Case| case.method() == *name;
        !cases.iter().any(has)
    });
    assert_eq!(
        without.collect::<Vec<_>>(),
        ["vqkd", "peco_tokenizer", "semmae_parts", "custom"]
    );
}

/// The error of reading the committed case of DMJD after its JSON was changed, or its report.
fn with_json(change: impl Fn(&mut serde_json::Value)) -> Result<parity::Report, String> {
    let folder = tempfile::tempdir().unwrap();
    let own = committed().join("dmjd/block_hog.json");
    let mut json = serde_json::from_str(&std::fs::read_to_string(&own).unwrap()).unwrap();
    change(&mut json);
    let path = folder.path().join("case.json");
    std::fs::write(&path, json.to_string()).unwrap();
    let tensors = own.with_extension("safetensors");
    std::fs::copy(tensors, path.with_extension("safetensors")).unwrap();
    let cases = parity::find(folder.path()).map_err(|error| error.to_string())?;
    let overrides = Overrides::default();
    Ok(parity::run(&cases[0], &Device::Cpu, overrides))
}

#[test]
fn what_a_case_says_is_used_or_refused() {
    let unread = with_json(|json| json["config"]["mask_raito"] = 0.5.into()).unwrap();
    assert_eq!(unread.verdict, Verdict::Fail);
    assert!(unread.reason.unwrap().contains("mask_raito"));
    let rows = serde_json::json!([{ "pattern": "grad.*", "rows": "all", "reason": "none" }]);
    let error = with_json(|json| json["tolerance"]["ignore"] = rows.clone()).unwrap_err();
    assert!(error.contains("middle third"), "{error}");
    let unknown = with_json(|json| json["method"] = "mae2".into()).unwrap();
    assert_eq!(unknown.verdict, Verdict::Unsupported);
    let unknown = with_json(|json| json["config"]["mask_type"] = "star".into()).unwrap();
    assert_eq!(unknown.verdict, Verdict::Unsupported, "{unknown}");
    assert!(unknown.reason.unwrap().contains("mask_type = star"));
    // A component that refuses its settings is a failure, not a case that parity does not know.
    let refused = with_json(|json| json["config"]["mask_ratio"] = 2.into()).unwrap();
    assert_eq!(refused.verdict, Verdict::Fail, "{refused}");
}
