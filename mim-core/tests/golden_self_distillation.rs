//! Three steps of self-distillation, centres carried over, against the released loss.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use candle_core::{DType, Device, Tensor};
use mim_core::objectives::{DistillationLogits, SelfDistillationConfig};
use mim_core::weights::WeightMap;
use mim_core::{Mask, ParamStore, PatchGrid, StepContext};
use mim_testing::committed;

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

/// The case: its settings and tensors.
struct Case {
    config: serde_json::Value,
    tensors: WeightMap,
}

impl Case {
    fn read() -> Self {
        let case = committed("components/dino_centering_and_schedules");
        let json = std::fs::read_to_string(case.with_extension("json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        Self {
            config: json["config"].clone(),
            tensors: WeightMap::read(case.with_extension("safetensors")).unwrap(),
        }
    }

    fn settings(&self) -> SelfDistillationConfig {
        let number = |key: &str| number(&self.config, key);
        let warmup = count(&self.config["warmup_teacher_temp_epochs"]);
        let ends = (number("warmup_teacher_temp"), number("teacher_temp"));
        let temperature = SelfDistillationConfig::temperature(ends, 0, warmup);
        SelfDistillationConfig {
            student_temp: number("student_temp"),
            teacher_temp: temperature.clone(),
            teacher_patch_temp: temperature,
            center_momentum: number("center_momentum"),
            cls_weight: number("lambda1"),
            patch_weight: number("lambda2"),
        }
    }

    /// The mask and the logits of one call.
    fn inputs(&self, call: usize) -> (Mask, DistillationLogits) {
        let side = |axis: usize| count(&self.config["token_grid"][axis]);
        let (globals, images) = (
            count(&self.config["global_crops"]),
            count(&self.config["images"]),
        );
        let input = |name: &str| {
            let name = format!("input.{call}.{name}");
            self.tensors.get(&name).unwrap().clone()
        };
        let bits = Tensor::cat(&[input("mask_0"), input("mask_1")], 0).unwrap();
        let bits = bits.to_dtype(DType::U8).unwrap().flatten_all().unwrap();
        let grid = PatchGrid::new(side(0), side(1));
        let mask = Mask::from_bits(grid, &bits.to_vec1::<u8>().unwrap()).unwrap();
        let ids = mask.flat(true, globals * images, &Device::Cpu).unwrap();
        let rows = |name: &str| input(name).flatten(0, 1).unwrap();
        let hidden = |name: &str| rows(name).index_select(&ids, 0).unwrap();
        let student = [input("student_cls"), input("student_local_cls")];
        let logits = DistillationLogits {
            globals,
            teacher_cls: input("teacher_cls"),
            student_cls: Tensor::cat(&student, 0).unwrap(),
            teacher_patch: hidden("teacher_patch"),
            student_patch: hidden("student_patch"),
            patch_mean: rows("teacher_patch").mean_keepdim(0).unwrap(),
        };
        (mask, logits)
    }
}

#[test]
fn losses_and_centres_equal_the_recorded_ones() {
    let case = Case::read();
    let out_dim = count(&case.config["out_dim"]);
    let store = ParamStore::cpu(0);
    let objective = case.settings().build(&store.root(), (out_dim, out_dim));
    let objective = objective.unwrap();
    let epochs = case.config["epoch_of_call"].as_array().unwrap();
    for (call, epoch) in epochs.iter().enumerate() {
        let (mask, logits) = case.inputs(call);
        let step = StepContext {
            epoch: count(epoch),
            epochs: count(&case.config["epochs"]),
            ..StepContext::new(0)
        };
        let terms = objective.loss(&logits, &mask, &step).unwrap();
        let theirs = |name: &str| case.tensors.get(&format!("expect.{call}.{name}")).unwrap();
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
