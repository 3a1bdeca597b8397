//! LARS against the numbers of the code released with MAE.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use candle_core::{Tensor, Var};
use mim_core::optim::{Gradients, LarsConfig, Optimizer, OptimizerConfig};
use mim_testing::Golden;

const NAMES: [&str; 3] = ["weight", "bias", "zero_matrix"];

fn values(xs: &Tensor) -> Vec<f32> {
    xs.flatten_all().unwrap().to_vec1().unwrap()
}

fn steps_agree(name: &str) {
    let Golden {
        json: settings,
        tensors: recorded,
    } = Golden::load(name);
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
    steps_agree("evaluation/lars");
    steps_agree("evaluation/lars_wd");
}
