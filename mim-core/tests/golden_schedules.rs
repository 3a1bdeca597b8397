//! Schedules against the numbers of the released training code.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may panic, and its numbers are small"
)]

use mim_core::{Per, Point, Schedule, StepContext, Warmup};
use mim_testing::Golden;

fn at_epoch(epoch: f64, epochs: usize) -> StepContext {
    const ITERS: usize = 1_000_000_000;
    StepContext {
        epoch: epoch as usize,
        epochs,
        iter: (epoch.fract() * ITERS as f64).round() as usize,
        iters_per_epoch: ITERS,
        ..StepContext::new(0)
    }
}

fn at_iter(iter: f64, epochs: usize, iters_per_epoch: usize) -> StepContext {
    let iter = iter as usize;
    StepContext {
        epoch: iter / iters_per_epoch,
        epochs,
        iter: iter % iters_per_epoch,
        iters_per_epoch,
        ..StepContext::new(0)
    }
}

#[track_caller]
fn check(got: &[f64], want: &[f64], rtol: f64) {
    assert_eq!(got.len(), want.len());
    assert!(!want.is_empty());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let close = (got - want).abs() <= rtol * want.abs() + 1e-13;
        assert!(close, "value {i}: {got} against {want}");
    }
}

fn table(peak: f64, min: f64, warmup: Warmup) -> Schedule {
    Schedule::TableCosine {
        peak,
        min,
        warmup_start: 0.,
        warmup,
    }
}

#[test]
fn mae_cosine_matches_pretraining_finetuning_and_probing() {
    let case = Golden::load("evaluation/cosine_schedule");
    for (name, peak, min, warmup_epochs, epochs) in [
        ("pretrain_mae", 2.4e-3, 0., 40., 800),
        ("finetune_base", 2e-3, 1e-6, 5., 100),
        ("linprobe", 6.4, 0., 10., 90),
    ] {
        let schedule = Schedule::MaeCosine {
            peak,
            min,
            warmup_epochs,
        };
        let got: Vec<f64> = case
            .values(&format!("input.{name}.epoch"))
            .iter()
            .map(|epoch| schedule.at(&at_epoch(*epoch, epochs)))
            .collect();
        // The recorded epochs are f32, so values near the end, where little is left, differ by that.
        let want = case.values(&format!("expect.{name}.lr"));
        for (got, want) in got.iter().zip(&want) {
            let close = (got - want).abs() <= 1e-6 * want + 1e-9;
            assert!(close, "{name}: {got} against {want}");
        }
    }
}

#[test]
fn simmim_schedules_are_set_after_the_step() {
    let case = Golden::load("evaluation/simmim_schedules");
    let multi_step = Schedule::MultiStep {
        peak: 4e-4,
        gamma: 0.1,
        milestones: vec![17],
        warmup_start: 2e-6,
        warmup: Warmup::Epochs(2.),
    };
    let cosine = Schedule::TimmCosine {
        peak: 5e-3,
        min: 1e-6,
        warmup_start: 1e-6,
        warmup: Warmup::Epochs(4.),
        cycle_epochs: None,
        per: Per::Iter,
    };
    for (name, schedule) in [("multistep", multi_step), ("cosine", cosine)] {
        let got: Vec<f64> = case
            .values(&format!("input.{name}.update"))
            .iter()
            .map(|update| schedule.at(&at_iter(update + 1., 20, 25)))
            .collect();
        check(&got, &case.values(&format!("expect.{name}.lr")), 1e-5);
        let first = schedule.at(&at_iter(0., 20, 25));
        check(
            &[first],
            &case.values(&format!("expect.{name}.initial")),
            1e-6,
        );
    }
}

#[test]
fn bootmae_momentum_feature_weight_and_learning_rate() {
    let case = Golden::load("components/ema_and_lr_schedules");
    let epochs = case.values("input.bootmae.epoch");
    let per_epoch = |schedule: Schedule| -> Vec<f64> {
        let at = |epoch: &f64| schedule.at(&at_iter(epoch * 5. + 3., 801, 5));
        epochs.iter().map(at).collect()
    };
    let point = |epoch, value| Point { epoch, value };
    let mut points = vec![point(0., 0.999), point(100., 0.9999)];
    let fixed = Schedule::Piecewise {
        points: points.clone(),
        per: Per::Epoch,
    };
    check(
        &per_epoch(fixed),
        &case.values("expect.bootmae.ema_static"),
        1e-9,
    );
    points.push(point(400., 0.99999));
    let dynamic = Schedule::Piecewise {
        points,
        per: Per::Epoch,
    };
    check(
        &per_epoch(dynamic),
        &case.values("expect.bootmae.ema_dynamic"),
        1e-9,
    );
    let ramp = Schedule::Ramp {
        value: 1.,
        factor: 4.,
    };
    check(
        &per_epoch(ramp),
        &case.values("expect.bootmae.feature_weight"),
        1e-9,
    );
    let lr = table(2.4e-3, 1e-4, Warmup::Epochs(40.));
    let got: Vec<f64> = case
        .values("input.bootmae.iter")
        .iter()
        .map(|iter| lr.at(&at_iter(*iter, 801, 5)))
        .collect();
    check(&got, &case.values("expect.bootmae.lr"), 1e-9);
}

#[test]
fn sim_learning_rate_and_momentum() {
    let case = Golden::load("components/ema_and_lr_schedules");
    let epochs = case.values("input.sim.epoch");
    let lr = Schedule::MaeCosine {
        peak: 1e-3,
        min: 0.,
        warmup_epochs: 40.,
    };
    let momentum = Schedule::Cosine {
        start: 0.995,
        end: 1.,
        per: Per::Iter,
    };
    for (name, schedule) in [("lr", lr), ("momentum", momentum)] {
        let got: Vec<f64> = epochs
            .iter()
            .map(|epoch| schedule.at(&at_epoch(*epoch, 1600)))
            .collect();
        // 1 - cos loses digits near the end of the learning rate; 1e-11 of its peak is exact enough.
        let want = case.values(&format!("expect.sim.{name}"));
        for (got, want) in got.iter().zip(&want) {
            let close = (got - want).abs() <= 1e-9 * want + 1e-14;
            assert!(close, "{name}: {got} against {want}");
        }
    }
}

#[test]
fn cmae_learning_rate_and_momentum() {
    let case = Golden::load("components/ema_and_lr_schedules");
    let lr = Schedule::TableCosine {
        peak: 2.4e-3,
        min: 0.,
        warmup_start: 2.4e-7,
        warmup: Warmup::Epochs(40.),
    };
    let momentum = |end| Schedule::Cosine {
        start: 0.996,
        end,
        per: Per::Iter,
    };
    for (name, schedule) in [
        ("lr", lr),
        ("momentum_released", momentum(0.996)),
        ("momentum_end1", momentum(1.)),
    ] {
        let got: Vec<f64> = case
            .values("input.cmae.iter")
            .iter()
            .map(|iter| schedule.at(&at_iter(*iter, 300, 5)))
            .collect();
        check(&got, &case.values(&format!("expect.cmae.{name}")), 1e-9);
    }
}

#[test]
fn beit_tables() {
    let case = Golden::load("components/beit_schedules").json;
    for (name, warmup) in [
        ("lr", Warmup::Epochs(2.)),
        ("lr_warmup_steps5", Warmup::Steps(5)),
    ] {
        let schedule = table(1.5e-3, 1e-5, warmup);
        let want: Vec<f64> = serde_json::from_value(case["values"][name].clone()).unwrap();
        let got: Vec<f64> = (0..70)
            .map(|i| schedule.at(&at_iter(f64::from(i), 10, 7)))
            .collect();
        check(&got, &want, 1e-12);
    }
}

#[test]
fn eva_table() {
    let case = Golden::load("components/eva_lr_schedule");
    let schedule = table(1e-3, 1e-5, Warmup::Epochs(2.));
    let got: Vec<f64> = (0..3000)
        .map(|i| schedule.at(&at_iter(f64::from(i), 150, 20)))
        .collect();
    check(&got, &case.values("expect.lr"), 1e-6);
}

#[test]
fn dino_tables_and_temperatures() {
    let case = Golden::load("components/dino_centering_and_schedules");
    for (name, schedule) in [
        ("lr", table(2e-3, 1e-6, Warmup::Epochs(10.))),
        ("weight_decay", table(0.04, 0.4, Warmup::default())),
        ("momentum", table(0.996, 1., Warmup::default())),
    ] {
        let got: Vec<f64> = (0..1000)
            .map(|i| schedule.at(&at_iter(f64::from(i), 100, 10)))
            .collect();
        check(&got, &case.values(&format!("expect.{name}")), 1e-6);
    }
    for (name, epochs, hold) in [
        ("teacher_temp_100ep_warm30", 100, 0.),
        ("teacher_temp_300ep_warm30_start50", 300, 0.),
        ("teacher_patch_temp_300ep_warm30_start50", 300, 50.),
    ] {
        // The table of 30 epochs includes both ends: the last of them is reached at its 29th step.
        let schedule = Schedule::Piecewise {
            points: vec![
                Point {
                    epoch: hold,
                    value: 0.04,
                },
                Point {
                    epoch: hold + 29.,
                    value: 0.07,
                },
            ],
            per: Per::Epoch,
        };
        let got: Vec<f64> = (0..epochs)
            .map(|epoch| schedule.at(&at_iter(epoch as f64 * 10. + 4., epochs, 10)))
            .collect();
        check(&got, &case.values(&format!("expect.{name}")), 1e-6);
    }
}

#[test]
fn dbot_stages_restart_the_learning_rate() {
    let case = Golden::load("components/dbot_stage_lr");
    let schedule = Schedule::Staged {
        starts: vec![0, 800],
        inner: Box::new(Schedule::MaeCosine {
            peak: 2.4e-3,
            min: 0.,
            warmup_epochs: 40.,
        }),
    };
    let got: Vec<f64> = case
        .values("input.epoch")
        .iter()
        .map(|epoch| schedule.at(&at_epoch(*epoch, 1600)))
        .collect();
    let want = case.values("expect.lr");
    for (got, want) in got.iter().zip(&want) {
        let close = (got - want).abs() <= 1e-6 * want + 1e-9;
        assert!(close, "{got} against {want}");
    }
}
