//! Which settings of fine-tuning make sense.

use std::fmt::Display;

use mim_core::{Error, Result};

use super::{FinetuneConfig, NAME};

impl FinetuneConfig {
    pub(super) fn check(&self) -> Result<()> {
        self.norm.check(self.encoder.in_channels())?;
        self.mix.check()?;
        let rate = self.encoder.to_table()?.get("drop_path_rate").cloned();
        let rate = rate.and_then(|rate| rate.as_float()).unwrap_or_default();
        if self.linear_probe && rate > 0. {
            let why = "the encoder of a linear probe must not use stochastic depth";
            let fix = "set encoder.drop_path_rate = 0.0";
            return bad("encoder.drop_path_rate", rate, why, fix);
        }
        if self.num_classes < 2 {
            let why = "a head needs at least two classes";
            let fix = "use the number of classes of the data";
            return bad("num_classes", self.num_classes, why, fix);
        }
        let smoothing = self.label_smoothing;
        if !(0. ..1.).contains(&smoothing) {
            let (why, fix) = ("it must be in [0, 1)", "use 0.1, for example");
            return bad("label_smoothing", smoothing, why, fix);
        }
        if !is_share(self.erasing_prob) {
            let (why, fix) = ("it must be a probability", "use 0.25, for example");
            return bad("erasing_prob", self.erasing_prob, why, fix);
        }
        if let Some(momentum) = self.ema.filter(|momentum| !is_share(*momentum)) {
            let why = "it must be a momentum from 0 to 1";
            return bad("ema", momentum, why, "use 0.9999, for example");
        }
        let std = self.head_init_std;
        if !(std >= 0. && std.is_finite()) {
            let why = "it must be a standard deviation";
            return bad("head_init_std", std, why, "use 2e-5, for example");
        }
        Ok(())
    }
}

fn is_share(value: f64) -> bool {
    (0. ..=1.).contains(&value)
}

fn bad(
    field: &'static str,
    value: impl Display,
    why: &'static str,
    fix: &'static str,
) -> Result<()> {
    Err(Error::config(NAME, field, value, why, fix))
}
