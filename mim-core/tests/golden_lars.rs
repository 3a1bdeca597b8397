//! LARS against the numbers of the code released with MAE.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use candle_core::{Device, Tensor, Var};
use mim_core::optim::{Gradients, LarsConfig, Optimizer, OptimizerConfig};

const NAMES: [&str; 3] = ["weight", "bias", "zero_matrix"];

fn values(xs: &Tensor) -> Vec<f32> {
    xs.flatten_all().unwrap().to_vec1().unwrap()
}

fn steps_agree(file: &Path) {
    let recorded = candle_core::safetensors::load(file.with_extension("safetensors"), &Device::Cpu);
    let recorded = recorded.unwrap();
    let settings = std::fs::read_to_string(file.with_extension("json")).unwrap();
    let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
    let config = LarsConfig {
        momentum: settings["config"]["momentum"].as_f64().unwrap(),
        trust_coefficient: settings["config"]["trust_coefficient"].as_f64().unwrap(),
        weight_decay: settings["config"]["weight_decay"].as_f64().unwrap(),
        ..LarsConfig::default()
    };
    let vars = NAMES.map(|name| {
        let start = &recorded[&format!("input.{name}")];
        (name.to_owned(), Var::from_tensor(start).unwrap())
    });
    let mut optimizer: Box<dyn Optimizer> =
        OptimizerConfig::from(config).build(vars.to_vec()).unwrap();
    for (step, lr) in (1..).zip(settings["config"]["lr"].as_array().unwrap()) {
        let mut gradients = Gradients::new(vars.to_vec());
        for name in NAMES {
            assert!(gradients.set(name, recorded[&format!("input.grad{step}.{name}")].clone()));
        }
        optimizer.step(&gradients, lr.as_f64().unwrap()).unwrap();
        let state = optimizer.state().unwrap();
        for (name, var) in &vars {
            let momentum = state.get(&format!("{name}.momentum")).unwrap();
            for (kind, got) in [("step", var.as_tensor()), ("mu", momentum)] {
                let key = format!("expect.{kind}{step}.{name}");
                for (got, want) in values(got).iter().zip(values(&recorded[&key])) {
                    let error = (got - want).abs();
                    assert!(error <= 1e-6 + 2e-6 * want.abs(), "{key}: {got}, {want}");
                }
            }
        }
    }
}

#[test]
fn three_steps_agree() {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/lars_wd");
    steps_agree(Path::new(own));
    let shared = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/goldens/evaluation"
    );
    for name in ["lars", "lars_wd"] {
        let file = Path::new(shared).join(name);
        if file.with_extension("json").is_file() {
            steps_agree(&file);
        } else {
            eprintln!("SKIPPED: no reference values at {}", file.display());
        }
    }
}
