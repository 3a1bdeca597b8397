//! Values of schedules.

use std::f64::consts::PI;

use super::{Per, Point, Schedule};
use crate::StepContext;

impl Schedule {
    /// The value at `step`. Past the end of the run, cosines and ramps keep their last value.
    pub fn at(&self, step: &StepContext) -> f64 {
        let steps = (Per::Iter, Per::Iter.place(step));
        match self {
            Self::Constant { value } => *value,
            Self::Linear { start, end, per } => lerp(*start, *end, progress(per.place(step))),
            Self::Cosine { start, end, per } => {
                half_cosine(*start, *end, progress(per.place(step)))
            }
            Self::MaeCosine {
                peak,
                min,
                warmup_epochs,
            } => warmed_cosine(
                (*peak, *min),
                *warmup_epochs,
                (step.fractional_epoch(), step.epochs as f64),
            ),
            Self::WarmupCosine { peak, min, warmup } => {
                warmed_cosine((*peak, *min), warmup.length(steps.0, step), steps.1)
            }
            Self::TableCosine { .. } | Self::LongCosine { .. } | Self::Poly { .. } => {
                self.warmed(step)
            }
            Self::TimmCosine { .. } | Self::MultiStep { .. } => self.set_after_step(step),
            Self::Piecewise { points, per } => piecewise(
                points,
                match per {
                    Per::Epoch => step.epoch as f64,
                    Per::Iter => step.fractional_epoch(),
                },
            ),
            Self::Ramp { value, factor } => {
                let grown = factor * (1 + step.epoch) as f64 / step.epochs.max(1) as f64;
                value * grown.min(1.)
            }
            Self::Ahead { steps, inner } => inner.at(&StepContext {
                iter: step.iter + steps,
                ..step.clone()
            }),
            Self::Staged { starts, inner } => inner.at(&stage(starts, step)),
        }
    }

    /// Variants with a warm-up of their own kind.
    fn warmed(&self, step: &StepContext) -> f64 {
        let steps = (Per::Iter, Per::Iter.place(step));
        match self {
            Self::TableCosine {
                peak,
                min,
                warmup_start,
                warmup,
            } => {
                let ((done, total), warmup) = (steps.1, warmup.length(steps.0, step));
                if done < warmup {
                    // A table of one warm-up step holds only its start.
                    lerp(*warmup_start, *peak, done / (warmup - 1.).max(1.))
                } else {
                    half_cosine(*peak, *min, progress((done - warmup, total - warmup)))
                }
            }
            Self::LongCosine {
                peak,
                min,
                warmup_start,
                warmup,
                share,
                closed,
            } => {
                let ((done, total), warmup) = (steps.1, warmup.length(steps.0, step));
                if done < warmup {
                    let last = if *closed { warmup - 1. } else { warmup };
                    lerp(*warmup_start, *peak, done / last.max(1.))
                } else {
                    half_cosine(
                        *peak,
                        *min,
                        share * progress((done - warmup, total - warmup)),
                    )
                }
            }
            Self::Poly {
                start,
                end,
                power,
                warmup_factor,
                warmup,
            } => {
                let value = lerp(*end, *start, (1. - progress(steps.1)).powf(*power));
                let warmup = warmup.length(steps.0, step);
                let warm = progress((steps.1.0, warmup));
                value * lerp(*warmup_factor, 1., warm)
            }
            other => other.at(step),
        }
    }

    /// Variants whose value is set after a step for the next one.
    fn set_after_step(&self, step: &StepContext) -> f64 {
        match self {
            Self::TimmCosine {
                peak,
                min,
                warmup_start,
                warmup,
                cycle_epochs,
                per,
            } => {
                let (done, total) = per.place(step);
                let last = (done - 1.).max(0.);
                let warmup = warmup.length(*per, step);
                if last < warmup {
                    return lerp(*warmup_start, *peak, last / warmup);
                }
                let total = cycle_epochs.map_or(total, |epochs| per.epochs(epochs, step));
                half_cosine(*peak, *min, progress((last, total)))
            }
            Self::MultiStep {
                peak,
                gamma,
                milestones,
                warmup_start,
                warmup,
            } => {
                let last = step.global_iter().saturating_sub(1);
                let warmup = warmup.length(Per::Iter, step);
                if (last as f64) < warmup {
                    return lerp(*warmup_start, *peak, last as f64 / warmup);
                }
                let passed = milestones
                    .iter()
                    .filter(|epoch| **epoch * step.iters_per_epoch <= last);
                passed.fold(*peak, |value, _| value * gamma)
            }
            other => other.at(step),
        }
    }
}

fn lerp(start: f64, end: f64, share: f64) -> f64 {
    start + (end - start) * share
}

fn half_cosine(start: f64, end: f64, share: f64) -> f64 {
    end + (start - end) * 0.5 * (1. + (PI * share).cos())
}

/// Completed share of a length, in `[0, 1]`; an empty length is complete.
fn progress((done, total): (f64, f64)) -> f64 {
    if total > 0. {
        (done / total).clamp(0., 1.)
    } else {
        1.
    }
}

fn warmed_cosine((peak, min): (f64, f64), warmup: f64, (done, total): (f64, f64)) -> f64 {
    if done < warmup {
        return peak * done / warmup;
    }
    half_cosine(peak, min, progress((done - warmup, total - warmup)))
}

fn piecewise(points: &[Point], epoch: f64) -> f64 {
    let after = points.partition_point(|point| point.epoch <= epoch);
    match (after.checked_sub(1).map(|i| points[i]), points.get(after)) {
        (Some(a), Some(b)) => lerp(a.value, b.value, (epoch - a.epoch) / (b.epoch - a.epoch)),
        (Some(last), None) => last.value,
        (None, Some(first)) => first.value,
        (None, None) => 0.,
    }
}

/// The stage, from 0, of an epoch; `starts` are the first epochs of all stages, ascending from 0.
pub fn stage_of(starts: &[usize], epoch: usize) -> usize {
    let next = starts.partition_point(|start| *start <= epoch);
    next.saturating_sub(1)
}

/// `step` relative to its stage: counted from the start of the stage, in a run that ends where the next stage starts.
fn stage(starts: &[usize], step: &StepContext) -> StepContext {
    let stage = stage_of(starts, step.epoch);
    let start = starts.get(stage).copied().unwrap_or(0);
    let end = starts.get(stage + 1).copied().unwrap_or(step.epochs);
    StepContext {
        epoch: step.epoch - start,
        epochs: end.saturating_sub(start),
        ..step.clone()
    }
}
