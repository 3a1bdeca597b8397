//! Checks of schedules.

use super::{Schedule, Warmup};
use crate::{Error, Result};

impl Schedule {
    /// Checks that every number is finite, and that lengths and orders are valid.
    ///
    /// A warm-up longer than the run is allowed: only the step knows the length of the run.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] naming the field.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Constant { value } => finite("value", *value),
            Self::Ramp { value, factor } => {
                finite("value", *value)?;
                positive("factor", *factor)
            }
            Self::Linear { start, end, .. } | Self::Cosine { start, end, .. } => {
                finite("start", *start)?;
                finite("end", *end)
            }
            Self::MaeCosine {
                peak,
                min,
                warmup_epochs,
            } => {
                finite("peak", *peak)?;
                finite("min", *min)?;
                length(Warmup::Epochs(*warmup_epochs))
            }
            Self::WarmupCosine { peak, min, warmup } => {
                finite("peak", *peak)?;
                finite("min", *min)?;
                length(*warmup)
            }
            Self::TableCosine { .. }
            | Self::LongCosine { .. }
            | Self::TimmCosine { .. }
            | Self::MultiStep { .. } => self.validate_warmed(),
            Self::Ahead { inner, .. } => inner.validate(),
            Self::Piecewise { points, .. } => {
                for point in points {
                    finite("points.epoch", point.epoch)?;
                    finite("points.value", point.value)?;
                }
                let epochs: Vec<f64> = points.iter().map(|point| point.epoch).collect();
                ascending("points", &epochs)
            }
            Self::Poly {
                start,
                end,
                power,
                warmup_factor,
                warmup,
            } => {
                finite("start", *start)?;
                finite("end", *end)?;
                positive("power", *power)?;
                finite("warmup_factor", *warmup_factor)?;
                length(*warmup)
            }
            Self::Staged { starts, inner } => staged(starts, inner),
        }
    }

    /// The part of [`Schedule::validate`] for variants with a `warmup_start`.
    fn validate_warmed(&self) -> Result<()> {
        let (peak, start, warmup) = match self {
            Self::TableCosine {
                peak,
                min,
                warmup_start,
                warmup,
            } => {
                finite("min", *min)?;
                (peak, warmup_start, warmup)
            }
            Self::LongCosine {
                peak,
                min,
                warmup_start,
                warmup,
                share,
                ..
            } => {
                finite("min", *min)?;
                if !(*share > 0. && *share <= 1.) {
                    return Err(bad(
                        "share",
                        share.to_string(),
                        "it must be above 0 and at most 1",
                    ));
                }
                (peak, warmup_start, warmup)
            }
            Self::TimmCosine {
                peak,
                min,
                warmup_start,
                warmup,
                cycle_epochs,
                ..
            } => {
                finite("min", *min)?;
                positive("cycle_epochs", cycle_epochs.unwrap_or(1.))?;
                (peak, warmup_start, warmup)
            }
            Self::MultiStep {
                peak,
                gamma,
                milestones,
                warmup_start,
                warmup,
            } => {
                finite("gamma", *gamma)?;
                if !milestones.is_empty() {
                    ascending("milestones", milestones)?;
                }
                (peak, warmup_start, warmup)
            }
            _ => return Ok(()),
        };
        finite("peak", *peak)?;
        finite("warmup_start", *start)?;
        length(*warmup)
    }
}

fn staged(starts: &[usize], inner: &Schedule) -> Result<()> {
    ascending("starts", starts)?;
    if starts[0] != 0 {
        let why = "the first stage must start at epoch 0";
        return Err(bad("starts", format!("{starts:?}"), why));
    }
    inner.validate()
}

fn bad(field: &'static str, value: String, why: &'static str) -> Error {
    Error::config("schedule", field, value, why, format!("change `{field}`"))
}

fn finite(field: &'static str, value: f64) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    Err(bad(field, value.to_string(), "it must be a finite number"))
}

fn positive(field: &'static str, value: f64) -> Result<()> {
    if value > 0. && value.is_finite() {
        return Ok(());
    }
    Err(bad(
        field,
        value.to_string(),
        "it must be a positive number",
    ))
}

fn ascending<T: PartialOrd + std::fmt::Debug>(field: &'static str, values: &[T]) -> Result<()> {
    if !values.is_empty() && values.windows(2).all(|pair| pair[0] < pair[1]) {
        return Ok(());
    }
    let why = "it must list at least one epoch, in ascending order";
    Err(bad(field, format!("{values:?}"), why))
}

fn length(warmup: Warmup) -> Result<()> {
    let good = match warmup {
        Warmup::Steps(_) => true,
        Warmup::Epochs(epochs) => epochs >= 0. && epochs.is_finite(),
        Warmup::Share(share) => (0. ..=1.).contains(&share),
    };
    if good {
        return Ok(());
    }
    let why = "a warm-up needs a non-negative number of epochs, or a share of the run in [0, 1]";
    Err(bad("warmup", format!("{warmup:?}"), why))
}
