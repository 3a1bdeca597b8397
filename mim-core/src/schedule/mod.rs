//! Schedules: learning rates, momenta, temperatures, loss weights over time.

mod check;
mod value;

pub use value::stage_of;

use serde::{Deserialize, Serialize};

use crate::StepContext;

/// The time unit of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Whole epochs: the value changes once per epoch.
    Epoch,
    /// Optimizer steps.
    #[default]
    Iter,
}

impl Per {
    /// (units done, units of the whole run).
    fn place(self, step: &StepContext) -> (f64, f64) {
        match self {
            Self::Epoch => (step.epoch as f64, step.epochs as f64),
            Self::Iter => (step.global_iter() as f64, step.total_iters() as f64),
        }
    }

    /// A length in epochs, converted to units and rounded down.
    fn epochs(self, epochs: f64, step: &StepContext) -> f64 {
        match self {
            Self::Epoch => floor(epochs),
            Self::Iter => floor(epochs * step.iters_per_epoch as f64),
        }
    }
}

/// Length of a warm-up: `{ steps = 5 }`, `{ epochs = 40 }` or `{ share = 0.05 }`.
///
/// A warm-up longer than the run is allowed: the run then ends on the ramp.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warmup {
    /// Optimizer steps, or epochs in a schedule that counts epochs.
    Steps(usize),
    /// Epochs, possibly fractional, rounded down to whole steps.
    Epochs(f64),
    /// Share of the whole run, rounded down, but at least one step.
    Share(f64),
}

impl Warmup {
    fn length(self, per: Per, step: &StepContext) -> f64 {
        match self {
            Self::Steps(steps) => steps as f64,
            Self::Epochs(epochs) => per.epochs(epochs, step),
            Self::Share(share) => floor(share * per.place(step).1).max(1.),
        }
    }
}

/// Rounds down, with a tolerance for products such as 0.29 * 100 that fall just below a whole number.
fn floor(length: f64) -> f64 {
    (length + 1e-9).floor()
}

impl Default for Warmup {
    fn default() -> Self {
        Self::Steps(0)
    }
}

/// A value at an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// The epoch, from 0.
    pub epoch: f64,
    /// The value there.
    pub value: f64,
}

/// A number as a pure function of the training step.
///
/// ```
/// use mim_core::{Schedule, StepContext};
///
/// let lr = Schedule::MaeCosine { peak: 1.5e-4, min: 0., warmup_epochs: 40. }.scaled(4096. / 256.);
/// let step = StepContext { epoch: 20, epochs: 800, ..StepContext::new(0) };
/// assert!((lr.at(&step) - 1.2e-3).abs() < 1e-12);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// A constant value.
    Constant {
        /// The value.
        value: f64,
    },
    /// `start + (end - start) * t / T`; a step after the last one would have the value `end`.
    Linear {
        /// Value of the first step.
        start: f64,
        /// Value after the run.
        end: f64,
        /// Whether t counts epochs or steps.
        #[serde(default)]
        per: Per,
    },
    /// `end + (start - end) * (1 + cos(pi t / T)) / 2`: momenta of SIM, CMAE (per step), SdAE (per epoch).
    Cosine {
        /// Value of the first step.
        start: f64,
        /// Value after the run.
        end: f64,
        /// Whether t counts epochs or steps.
        #[serde(default)]
        per: Per,
    },
    /// MAE's learning rate on fractional epochs e: `peak * e / warmup`, then a half cosine to `min`.
    MaeCosine {
        /// Value at the end of the warm-up.
        peak: f64,
        /// Value after the run.
        #[serde(default)]
        min: f64,
        /// Epochs of linear growth from 0.
        warmup_epochs: f64,
    },
    /// The same rule counted in steps: `peak * t / warmup`, then a half cosine to `min`.
    WarmupCosine {
        /// Value at the end of the warm-up.
        peak: f64,
        /// Value after the run.
        #[serde(default)]
        min: f64,
        /// Length of the linear growth from 0.
        #[serde(default)]
        warmup: Warmup,
    },
    /// A table of one value per step (BEiT, DINO, EVA, BootMAE, mmengine). The warm-up includes both
    /// its ends: its last step and the first step of the following cosine both have `peak`.
    TableCosine {
        /// Value at the end of the warm-up.
        peak: f64,
        /// Value after the run.
        min: f64,
        /// Value of the first step of the warm-up.
        #[serde(default)]
        warmup_start: f64,
        /// Length of the warm-up.
        #[serde(default)]
        warmup: Warmup,
    },
    /// timm's cosine without warm-up prefix (SimMIM, I2P-MAE). After the warm-up, the cosine is that of
    /// the whole run, so the value drops there. It is set after each step (epoch) for the next one, so
    /// the first two have `warmup_start`.
    TimmCosine {
        /// Value that the warm-up approaches.
        peak: f64,
        /// Value after the run.
        min: f64,
        /// Value of the first step.
        warmup_start: f64,
        /// Length of the warm-up.
        #[serde(default)]
        warmup: Warmup,
        /// Length of the cosine in epochs; `None` for the length of the run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cycle_epochs: Option<f64>,
        /// Whether it is set after each epoch or each step.
        #[serde(default)]
        per: Per,
    },
    /// Warm-up, then `peak * gamma^k` after `k` milestones (SimMIM). It is set after each step for the
    /// next one, so the first two have `warmup_start`.
    MultiStep {
        /// Value after the warm-up.
        peak: f64,
        /// Factor at each milestone.
        gamma: f64,
        /// Epochs of the milestones, ascending.
        milestones: Vec<usize>,
        /// Value of the first step.
        warmup_start: f64,
        /// Length of the warm-up.
        #[serde(default)]
        warmup: Warmup,
    },
    /// Linear interpolation between points, constant outside (BootMAE's momentum, iBOT's temperatures).
    Piecewise {
        /// The points, epochs ascending.
        points: Vec<Point>,
        /// Whether it changes with epochs or steps.
        #[serde(default)]
        per: Per,
    },
    /// `min(factor * value * (1 + epoch) / epochs, value)` (BootMAE's feature weight).
    Ramp {
        /// Final value.
        value: f64,
        /// Growth relative to the length of the run.
        factor: f64,
    },
    /// `end + (start - end) * (1 - t / T)^power`, multiplied in the warm-up by a factor that grows
    /// linearly from `warmup_factor` to 1 (segmentation).
    Poly {
        /// Value of the first step without warm-up.
        start: f64,
        /// Value after the run.
        end: f64,
        /// Exponent.
        power: f64,
        /// Factor of the first step.
        warmup_factor: f64,
        /// Length of the warm-up.
        #[serde(default)]
        warmup: Warmup,
    },
    /// A warm-up from any start, then a cosine counted from its end that may exceed the run: CAPI, I-JEPA.
    LongCosine {
        /// Value at the end of the warm-up.
        peak: f64,
        /// Value at the end of the cosine.
        min: f64,
        /// Value of the first step of the warm-up.
        #[serde(default)]
        warmup_start: f64,
        /// Length of the warm-up.
        #[serde(default)]
        warmup: Warmup,
        /// Share of the cosine inside the run.
        #[serde(default = "whole")]
        share: f64,
        /// Whether the last step of the warm-up already has `peak`, like the first step of the cosine.
        #[serde(default)]
        closed: bool,
    },
    /// The value of `inner` some steps later: for code that advances the schedule before the first step (I-JEPA).
    Ahead {
        /// Number of steps.
        steps: usize,
        /// The schedule.
        inner: Box<Schedule>,
    },
    /// Restarts at certain epochs; `inner` sees each stage as a separate run (dBOT).
    Staged {
        /// First epochs of the stages, ascending, starting with 0.
        starts: Vec<usize>,
        /// The schedule of each stage.
        inner: Box<Schedule>,
    },
}

impl Schedule {
    /// Always `value`.
    pub fn constant(value: f64) -> Self {
        Self::Constant { value }
    }

    /// A copy with every value multiplied: `lr = blr * batch / 256`.
    ///
    /// Factors (`gamma`, `warmup_factor`), lengths and exponents are not multiplied.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        let mut scaled = self.clone();
        match &mut scaled {
            Self::Constant { value } | Self::Ramp { value, .. } => *value *= factor,
            Self::Linear { start, end, .. }
            | Self::Cosine { start, end, .. }
            | Self::Poly { start, end, .. } => {
                *start *= factor;
                *end *= factor;
            }
            Self::MaeCosine { peak, min, .. } | Self::WarmupCosine { peak, min, .. } => {
                *peak *= factor;
                *min *= factor;
            }
            Self::TableCosine {
                peak,
                min,
                warmup_start,
                ..
            }
            | Self::LongCosine {
                peak,
                min,
                warmup_start,
                ..
            }
            | Self::TimmCosine {
                peak,
                min,
                warmup_start,
                ..
            } => {
                *peak *= factor;
                *min *= factor;
                *warmup_start *= factor;
            }
            Self::MultiStep {
                peak, warmup_start, ..
            } => {
                *peak *= factor;
                *warmup_start *= factor;
            }
            Self::Piecewise { points, .. } => {
                points.iter_mut().for_each(|point| point.value *= factor);
            }
            Self::Staged { inner, .. } | Self::Ahead { inner, .. } => {
                **inner = inner.scaled(factor);
            }
        }
        scaled
    }
}

/// Share of a cosine that ends with the run.
fn whole() -> f64 {
    1.
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn step(epoch: usize, iter: usize, (epochs, iters_per_epoch): (usize, usize)) -> StepContext {
        StepContext {
            epoch,
            epochs,
            iter,
            iters_per_epoch,
            ..StepContext::new(0)
        }
    }

    fn run(schedule: &Schedule, epochs: usize, iters: usize) -> Vec<f64> {
        (0..epochs * iters)
            .map(|i| schedule.at(&step(i / iters, i % iters, (epochs, iters))))
            .collect()
    }

    fn close(a: &[f64], b: &[f64]) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= 1e-12 + 1e-12 * b.abs(), "{a} against {b}");
        }
    }

    #[test]
    fn warm_up_by_share_lasts_at_least_one_step() {
        let schedule = |share| Schedule::WarmupCosine {
            peak: 2.,
            min: 0.,
            warmup: Warmup::Share(share),
        };
        // 1 of 4 steps, then cos(0), cos(pi/3), cos(2pi/3).
        close(&run(&schedule(0.05), 2, 2), &[0., 2., 1.5, 0.5]);
        close(&run(&schedule(0.5), 2, 2), &[0., 1., 2., 1.]);
        close(&run(&schedule(1.), 2, 2), &[0., 0.5, 1., 1.5]);
    }

    #[test]
    fn a_long_cosine_is_cut_off_and_schedules_can_be_ahead() {
        let long = |share, closed| Schedule::LongCosine {
            peak: 2.,
            min: 0.,
            warmup_start: 1.,
            warmup: Warmup::Steps(2),
            share,
            closed,
        };
        // A cosine of 4 steps, then the first half of one of 8.
        let cosine = |share: f64| 1. + (std::f64::consts::PI * share).cos();
        let whole = [1., 1.5, 2., cosine(0.25), 1., cosine(0.75)];
        close(&run(&long(1., false), 3, 2), &whole);
        let half = [1., 2., 2., cosine(0.125), cosine(0.25), cosine(0.375)];
        close(&run(&long(0.5, true), 3, 2), &half);
        let ahead = Schedule::Ahead {
            steps: 1,
            inner: Box::new(long(1., false)),
        };
        close(&run(&ahead, 3, 2)[..5], &whole[1..]);
        close(&run(&ahead.scaled(2.), 3, 2)[5..], &[0.]);
        assert!(ahead.validate().is_ok() && long(1.5, false).validate().is_err());
    }

    #[test]
    fn table_warm_up_includes_both_ends() {
        let schedule = Schedule::TableCosine {
            peak: 4.,
            min: 1.,
            warmup_start: 0.,
            warmup: Warmup::Epochs(1.),
        };
        close(&run(&schedule, 2, 3), &[0., 2., 4., 4., 3.25, 1.75]);
        // A warm-up of one step has only its start; without warm-up the first value is the peak.
        close(&run(&schedule, 2, 1), &[0., 4.]);
        let cold = Schedule::TableCosine {
            peak: 4.,
            min: 1.,
            warmup_start: 0.,
            warmup: Warmup::default(),
        };
        close(&run(&cold, 1, 2), &[4., 2.5]);
    }

    #[test]
    fn timm_and_multi_step_repeat_the_first_value() {
        let timm = Schedule::TimmCosine {
            peak: 3.,
            min: 0.,
            warmup_start: 1.,
            warmup: Warmup::Steps(2),
            cycle_epochs: None,
            per: Per::Iter,
        };
        // Set after steps 0..3: 1, 2, then the cosine of the whole run at 2/4.
        close(&run(&timm, 2, 2), &[1., 1., 2., 1.5]);
        let steps = Schedule::MultiStep {
            peak: 3.,
            gamma: 0.5,
            milestones: vec![1],
            warmup_start: 1.,
            warmup: Warmup::Steps(1),
        };
        close(&run(&steps, 2, 2), &[1., 1., 3., 1.5]);
    }

    #[test]
    fn stages_start_again() {
        let schedule = Schedule::Staged {
            starts: vec![0, 2],
            inner: Box::new(Schedule::Linear {
                start: 0.,
                end: 1.,
                per: Per::Iter,
            }),
        };
        schedule.validate().unwrap();
        close(&run(&schedule, 6, 1), &[0., 0.5, 0., 0.25, 0.5, 0.75]);
    }

    #[test]
    fn ramp_counts_the_current_epoch_and_poly_ends_at_its_end() {
        let ramp = Schedule::Ramp {
            value: 2.,
            factor: 2.,
        };
        close(&run(&ramp, 4, 1), &[1., 2., 2., 2.]);
        let poly = Schedule::Poly {
            start: 1.,
            end: 0.,
            power: 2.,
            warmup_factor: 0.5,
            warmup: Warmup::Steps(2),
        };
        close(&run(&poly, 1, 4), &[0.5, 0.5625 * 0.75, 0.25, 0.0625]);
        assert_eq!(poly.at(&step(1, 0, (1, 4))), 0.);
    }

    #[test]
    fn configs_name_their_type_and_refuse_unknown_fields() {
        let text = r#"{"type":"warmup_cosine","peak":0.001,"warmup":{"share":0.05}}"#;
        let schedule: Schedule = serde_json::from_str(text).unwrap();
        assert_eq!(
            schedule,
            Schedule::WarmupCosine {
                peak: 1e-3,
                min: 0.,
                warmup: Warmup::Share(0.05)
            }
        );
        assert!(serde_json::from_str::<Schedule>(r#"{"type":"constant","valu":1.0}"#).is_err());
        assert!(serde_json::from_str::<Schedule>(r#"{"type":"cosine","start":1.0}"#).is_err());
    }

    #[test]
    fn validate_names_the_field() {
        let wrong = [
            (Schedule::constant(f64::NAN), "`value`"),
            (
                Schedule::Piecewise {
                    points: vec![],
                    per: Per::Epoch,
                },
                "`points`",
            ),
            (
                Schedule::Staged {
                    starts: vec![1],
                    inner: Box::new(Schedule::constant(1.)),
                },
                "`starts`",
            ),
            (
                Schedule::MaeCosine {
                    peak: 1.,
                    min: 0.,
                    warmup_epochs: -1.,
                },
                "`warmup`",
            ),
        ];
        for (schedule, field) in wrong {
            let error = schedule.validate().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    fn schedules() -> impl Strategy<Value = Schedule> {
        // Sixteenths survive JSON exactly.
        let value = || (-160i32..160).prop_map(|sixteenths| f64::from(sixteenths) / 16.);
        let length = || (0u32..96).prop_map(|sixteenths| f64::from(sixteenths) / 16.);
        let warmup = prop_oneof![
            (0usize..20).prop_map(Warmup::Steps),
            length().prop_map(Warmup::Epochs),
            length().prop_map(|x| Warmup::Share(x / 8.)),
        ];
        let per = prop_oneof![Just(Per::Epoch), Just(Per::Iter)];
        prop_oneof![
            (value(), value(), per.clone()).prop_map(|(start, end, per)| Schedule::Linear {
                start,
                end,
                per
            }),
            (value(), value(), per.clone()).prop_map(|(start, end, per)| Schedule::Cosine {
                start,
                end,
                per
            }),
            (value(), value(), warmup.clone())
                .prop_map(|(peak, min, warmup)| { Schedule::WarmupCosine { peak, min, warmup } }),
            (value(), value(), value(), warmup.clone()).prop_map(
                |(peak, min, warmup_start, warmup)| Schedule::TableCosine {
                    peak,
                    min,
                    warmup_start,
                    warmup
                }
            ),
            (value(), value(), value(), warmup, per).prop_map(
                |(peak, min, warmup_start, warmup, per)| Schedule::TimmCosine {
                    peak,
                    min,
                    warmup_start,
                    warmup,
                    cycle_epochs: None,
                    per
                }
            ),
            (value(), value(), length()).prop_map(|(peak, min, warmup_epochs)| {
                Schedule::MaeCosine {
                    peak,
                    min,
                    warmup_epochs,
                }
            }),
        ]
    }

    proptest! {
        #[test]
        fn values_stay_in_range_and_scale(
            schedule in schedules(), epochs in 1usize..5, iters in 1usize..5, factor in 0.1f64..10.,
        ) {
            schedule.validate().unwrap();
            let text = serde_json::to_string(&schedule).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Schedule>(&text).unwrap(), &schedule);
            let scaled = schedule.scaled(factor);
            // One step past the end is allowed, too.
            for i in 0..=epochs * iters {
                let step = step(i / iters, i % iters, (epochs, iters));
                let value = schedule.at(&step);
                prop_assert!((-10.0 - 1e-9..=10.0 + 1e-9).contains(&value));
                prop_assert!((scaled.at(&step) - factor * value).abs() < 1e-9);
            }
        }

        #[test]
        fn cosines_run_from_start_to_end(start in -1f64..1., end in -1f64..1., epochs in 1usize..9) {
            let cosine = Schedule::Cosine { start, end, per: Per::Iter };
            prop_assert!((cosine.at(&step(0, 0, (epochs, 3))) - start).abs() < 1e-12);
            prop_assert!((cosine.at(&step(epochs, 0, (epochs, 3))) - end).abs() < 1e-12);
            let table = Schedule::TableCosine { peak: start, min: end, warmup_start: 0., warmup: Warmup::Epochs(1.) };
            let last_of_warmup = table.at(&step(0, 2, (epochs + 1, 3)));
            prop_assert!((last_of_warmup - start).abs() < 1e-12);
            prop_assert!((table.at(&step(1, 0, (epochs + 1, 3))) - start).abs() < 1e-12);
        }
    }
}
