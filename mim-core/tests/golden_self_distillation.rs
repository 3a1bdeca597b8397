//! Three steps of self-distillation, centres carried over, against the released loss.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use candle_core::{DType, Device, Tensor};
use mim_core::objectives::{DistillationLogits, SelfDistillationConfig};
use mim_core::weights::WeightMap;
use mim_core::{Mask, ParamStore, PatchGrid, StepContext};

const CASE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../shared/goldens/components/dino_centering_and_schedules"
);

fn number(config: &serde_json::Value, key: &str) -> f64 {
    config[key].as_f64().unwrap()
}

fn count(value: &serde_json::Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

fn close(ours: &Tensor, theirs: &Tensor, name: &str) {
    let values = |xs: &Tensor| -> Vec<f32> { xs.flatten_all().unwrap().to_vec1().unwrap() };
    let (ours, theirs) = (values(ours), values(theirs));
    assert_eq!(ours.len(), theirs.len(), "{name}");
    for (a, b) in ours.iter().zip(&theirs) {
        // As the case allows.
        assert!(
            (a - b).abs() <= 1e-5 + 1e-4 * b.abs(),
            "{name}: {a}, recorded {b}"
        );
    }
}

#[test]
fn losses_and_centres_equal_the_recorded_ones() {
    let Ok(json) = std::fs::read_to_string(format!("{CASE}.json")) else {
        eprintln!("skipped: {CASE} is not there");
        return;
    };
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let (config, case) = (
        &json["config"],
        WeightMap::read(format!("{CASE}.safetensors")).unwrap(),
    );
    let ends = (
        number(config, "warmup_teacher_temp"),
        number(config, "teacher_temp"),
    );
    let warmup = count(&config["warmup_teacher_temp_epochs"]);
    let temperature = SelfDistillationConfig::temperature(ends, 0, warmup);
    let (globals, images) = (count(&config["global_crops"]), count(&config["images"]));
    let out_dim = count(&config["out_dim"]);
    let grid = PatchGrid::new(
        count(&config["token_grid"][0]),
        count(&config["token_grid"][1]),
    );
    let store = ParamStore::cpu(0);
    let objective = SelfDistillationConfig {
        student_temp: number(config, "student_temp"),
        teacher_temp: temperature.clone(),
        teacher_patch_temp: temperature,
        center_momentum: number(config, "center_momentum"),
        cls_weight: number(config, "lambda1"),
        patch_weight: number(config, "lambda2"),
    };
    let objective = objective.build(&store.root(), (out_dim, out_dim)).unwrap();
    for (call, epoch) in config["epoch_of_call"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let input = |name: &str| case.get(&format!("input.{call}.{name}")).unwrap().clone();
        let bits = Tensor::cat(&[input("mask_0"), input("mask_1")], 0).unwrap();
        let bits = bits.to_dtype(DType::U8).unwrap().flatten_all().unwrap();
        let mask = Mask::from_bits(grid, &bits.to_vec1::<u8>().unwrap()).unwrap();
        let ids = mask.flat(true, globals * images, &Device::Cpu).unwrap();
        let hidden = |name: &str| {
            let rows = input(name).flatten(0, 1).unwrap();
            rows.index_select(&ids, 0).unwrap()
        };
        let locals = input("student_local_cls");
        let logits = DistillationLogits {
            globals,
            teacher_cls: input("teacher_cls"),
            student_cls: Tensor::cat(&[input("student_cls"), locals], 0).unwrap(),
            teacher_patch: hidden("teacher_patch"),
            student_patch: hidden("student_patch"),
            patch_mean: input("teacher_patch")
                .flatten(0, 1)
                .unwrap()
                .mean_keepdim(0)
                .unwrap(),
        };
        let step = StepContext {
            epoch: count(epoch),
            epochs: count(&config["epochs"]),
            ..StepContext::new(0)
        };
        let terms = objective.loss(&logits, &mask, &step).unwrap();
        let theirs = |name: &str| case.get(&format!("expect.{call}.{name}")).unwrap();
        for (name, value, weight) in terms.terms() {
            let name = format!("loss_{name}");
            close(&(value * *weight).unwrap(), theirs(&name), &name);
        }
        close(&terms.total().unwrap(), theirs("loss_loss"), "loss");
        for name in ["center", "center2"] {
            close(store.var(name).unwrap().as_tensor(), theirs(name), name);
        }
    }
}
