//! Checks of settings before training.

use mim_core::augment::{Sample, ViewPlan};
use mim_core::rng::{Purpose, stream};
use mim_core::{Error, Method, Result, Schedule, StepContext, Warmup};
use mim_eval::Pooling;
use toml::Value;

use super::RunConfig;

/// Number of steps at which the learning rate is sampled.
const LOOKS: usize = 1000;

/// Warnings about settings that are valid but probably a mistake, one line each.
pub fn warnings(config: &RunConfig, iters_per_epoch: usize) -> Vec<String> {
    let (train, mut lines) = (&config.train, Vec::new());
    let steps = train.epochs * iters_per_epoch;
    let at = |step: usize| StepContext {
        epoch: step / iters_per_epoch,
        epochs: train.epochs,
        iter: step % iters_per_epoch,
        iters_per_epoch,
        ..StepContext::new(train.seed)
    };
    let looked = (0..steps)
        .step_by((steps / LOOKS).max(1))
        .chain([steps - 1]);
    let highest = looked
        .map(|step| train.lr_schedule.at(&at(step)))
        .fold(0., f64::max);
    let warmup = warmup_epochs(&train.lr_schedule, train.epochs, iters_per_epoch);
    if highest == 0. {
        lines.push(format!(
            "the learning rate is 0 in all {steps} steps, so nothing is learned: train longer (train.epochs is {}), \
             or shorten the warm-up of train.lr_schedule",
            train.epochs
        ));
    } else if warmup > train.epochs as f64 {
        lines.push(format!(
            "train.lr_schedule warms up for {warmup} epochs, but train.epochs is {}: the run ends on the ramp, at \
             {:.3} of the peak; shorten the warm-up, or train longer",
            train.epochs,
            train.lr_schedule.at(&at(steps - 1)) / peak(&train.lr_schedule)
        ));
    }
    lines
}

/// Number of epochs in which a schedule rises to its peak.
fn warmup_epochs(schedule: &Schedule, epochs: usize, iters_per_epoch: usize) -> f64 {
    match schedule {
        Schedule::MaeCosine { warmup_epochs, .. } => *warmup_epochs,
        Schedule::WarmupCosine { warmup, .. }
        | Schedule::TableCosine { warmup, .. }
        | Schedule::TimmCosine { warmup, .. }
        | Schedule::MultiStep { warmup, .. }
        | Schedule::Poly { warmup, .. } => match *warmup {
            Warmup::Steps(steps) => steps as f64 / iters_per_epoch as f64,
            Warmup::Epochs(epochs) => epochs,
            Warmup::Share(share) => share * epochs as f64,
        },
        _ => 0.,
    }
}

fn peak(schedule: &Schedule) -> f64 {
    match schedule {
        Schedule::MaeCosine { peak, .. }
        | Schedule::WarmupCosine { peak, .. }
        | Schedule::TableCosine { peak, .. }
        | Schedule::TimmCosine { peak, .. }
        | Schedule::MultiStep { peak, .. } => *peak,
        _ => 1.,
    }
}

impl RunConfig {
    /// Refuses settings that would fail late: views whose size differs from the encoder's images, and a class token as
    /// feature if the encoder has none.
    ///
    /// Views may differ if the method changes them during training (FastMIM-P), or the encoder accepts any size
    /// (`encoder.any_size = true`).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] naming the setting.
    pub fn check_views(&self, method: &dyn Method) -> Result<()> {
        let encoder = self.model.get("encoder").and_then(Value::as_table);
        let says = |key: &str| {
            let value = encoder.and_then(|encoder| encoder.get(key));
            value.and_then(Value::as_bool).unwrap_or(false)
        };
        let tokens = encoder.and_then(|encoder| encoder.get("num_class_tokens"));
        let none = !says("class_token") || tokens.and_then(Value::as_integer) == Some(0);
        if self.eval.pooling == Pooling::Cls && method.encoder().is_some() && none {
            let (why, fix) = ("the encoder has no class token", "use mean");
            return Err(Error::config("settings", "eval.pooling", "cls", why, fix));
        }
        let input = method.input();
        let wanted = (input.size.height, input.size.width);
        let plan = method.views(0);
        if says("any_size") || plan != method.views(self.train.epochs.saturating_sub(1)) {
            return Ok(());
        }
        let eval = self.eval.view_plan(input.size, input.channels());
        for (field, plan) in [("views", plan), ("eval.views", eval)] {
            let is_of_points = plan.is_of_points();
            let (height, width) = size(plan, wanted)?;
            if (height, width) != wanted && is_of_points {
                let (value, why) = (
                    format!("of {height} points"),
                    format!("encoder.num_points is {}", wanted.0),
                );
                let fix = "set the count of sample_points to the same number";
                return Err(Error::config("settings", field, value, why, fix));
            }
            if (height, width) != wanted {
                let value = format!("of {height}x{width} pixels");
                let key = match encoder {
                    Some(_) => "encoder.image_size",
                    None => "image_size",
                };
                let why = format!("{key} is {}x{}", wanted.0, wanted.1);
                let fix = "write size = \"image_size\" in the views, or give both the same size";
                return Err(Error::config("settings", field, value, why, fix));
            }
        }
        Ok(())
    }
}

/// Height and width of the first view.
fn size(plan: ViewPlan, wanted: (usize, usize)) -> Result<(usize, usize)> {
    let blank = plan.blank(wanted)?;
    let views = plan.apply(blank, &mut stream(0, Purpose::Augment, [0, 0]))?;
    Ok(views.first().map_or((0, 0), Sample::size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_config::read_file;
    use candle_core::Device;

    fn config(recipe: &str, more: &str) -> RunConfig {
        let mut table = read_file(recipe).unwrap();
        mim_core::settings::overlay(&mut table, more.parse().unwrap());
        RunConfig::from_table(table).unwrap()
    }

    #[test]
    fn the_warning_about_a_long_warmup_has_both_numbers() {
        let lines = warnings(&config("mae_base", "[train]\nepochs = 5"), 10);
        assert!(
            lines[0].contains("40 epochs") && lines[0].contains("train.epochs is 5"),
            "{lines:?}"
        );
        assert_eq!(warnings(&config("mae_base", ""), 10), Vec::<String>::new());
        let lines = warnings(&config("mae_base", "[train]\nepochs = 1"), 1);
        assert!(lines[0].contains("is 0 in all 1 steps"), "{lines:?}");
    }

    #[test]
    fn small_recipes_have_no_warnings() {
        for entry in mim_methods::registry::methods() {
            let config = config(entry.recipes[0].0, "");
            assert_eq!(
                warnings(&config, 10),
                Vec::<String>::new(),
                "{}",
                entry.name
            );
            if let Ok(method) = config.build(&Device::Cpu) {
                config.check_views(method.as_ref()).unwrap();
            }
        }
    }

    #[test]
    fn views_of_another_size_and_a_missing_class_token_are_refused() {
        let check = |more: &str| {
            let config = config("mae_32px", more);
            let method = config.build(&Device::Cpu).unwrap();
            config.check_views(method.as_ref())
        };
        check("[encoder]\nimage_size = [32, 64]").unwrap();
        for (more, wanted) in [
            (
                "views = { views = [[{ type = \"random_resized_crop\", size = 24 }]] }",
                "`views` is of 24x24",
            ),
            (
                "[eval]\nviews = { views = [[{ type = \"center_crop\", size = 16 }]] }",
                "`eval.views` is of 16x16",
            ),
            (
                "[encoder]\nclass_token = false\n[eval]\npooling = \"cls\"",
                "`eval.pooling` is cls",
            ),
        ] {
            let error = check(more).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
