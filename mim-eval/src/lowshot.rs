//! Accuracy with few labels.

use std::collections::BTreeMap;

use mim_core::parts::Part;
use mim_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::protocol::{Outcome, ProtocolSettings, mean_and_deviation};
use crate::split::{chosen, rows_of_each_class};
use crate::{Features, LinearConfig};

/// Settings of low-shot classification: a linear probe on a share of the training images, drawn class by class,
/// several times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LowshotConfig {
    /// Share of the images of each class, at least one image. Default 0.01.
    pub share: f64,
    /// Number of images per class, instead of a share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_class: Option<usize>,
    /// Number of draws. Default 3.
    pub draws: usize,
    /// Seed of the draws. Default 0.
    pub seed: u64,
    /// The classifier. Default: the linear probe's settings with `c` 1.
    pub linear: LinearConfig,
}

impl Default for LowshotConfig {
    fn default() -> Self {
        Self {
            share: 0.01,
            per_class: None,
            draws: 3,
            seed: 0,
            linear: LinearConfig {
                c: 1.,
                ..LinearConfig::default()
            },
        }
    }
}

impl Part for LowshotConfig {
    const ABOUT: &'static str = "a linear probe on few labels, over several draws";
    const PAPER: &'static str =
        "the mean over draws as in MSN: Assran et al., ECCV 2022, arXiv 2204.07141";
}

impl LowshotConfig {
    pub(crate) fn check(&self) -> Result<()> {
        let bad =
            |field, value: String, why, fix| Err(Error::config("low-shot", field, value, why, fix));
        if self.draws == 0 {
            return bad(
                "draws",
                "0".into(),
                "nothing would be measured",
                "use 3, or 1",
            );
        }
        if self.per_class == Some(0) {
            return bad(
                "per_class",
                "0".into(),
                "a class needs at least one image",
                "use 1 or more",
            );
        }
        if !(self.share > 0. && self.share <= 1.) {
            return bad(
                "share",
                self.share.to_string(),
                "it must be a share of the images",
                "use 0.01 or 0.1",
            );
        }
        self.linear.check()
    }

    /// Refuses more images per class than there are.
    fn check_counts(&self, train: &Features) -> Result<()> {
        let Some(wanted) = self.per_class else {
            return Ok(());
        };
        let mut counts = BTreeMap::new();
        for label in train.labels() {
            *counts.entry(*label).or_insert(0usize) += 1;
        }
        match counts.into_iter().find(|(_, count)| *count < wanted) {
            None => Ok(()),
            Some((class, count)) => {
                let why = format!("class {class} has {count} training images");
                let fix = "use fewer, or a share";
                Err(Error::config("low-shot", "per_class", wanted, why, fix))
            }
        }
    }

    fn count(&self, images: usize) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count"
        )]
        let share = (self.share * images as f64).round() as usize;
        self.per_class.unwrap_or(share.max(1))
    }
}

impl ProtocolSettings for LowshotConfig {
    fn measure(&self, train: &Features, test: &Features) -> Result<Outcome> {
        self.check()?;
        self.check_counts(train)?;
        let (mut outcome, mut top1, mut images) = (Outcome::default(), Vec::new(), 0);
        for draw in 0..self.draws as u64 {
            let count = |images| self.count(images);
            let (few, _) = rows_of_each_class(train, (self.seed, draw), count);
            images = few.len();
            let scores = self.linear.fit(&chosen(train, &few))?.scores(test)?;
            top1.push(scores.accuracy().top1);
            outcome.drawn.push(few);
        }
        let (mean, deviation) = mean_and_deviation(&top1);
        outcome.push("top1", mean);
        outcome.push("top1_deviation", deviation);
        outcome.push("images", images as f64);
        for (draw, top1) in top1.into_iter().enumerate() {
            outcome.push(format!("top1_draw_{draw}"), top1);
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::blobs;

    #[test]
    fn few_images_are_drawn_of_each_class_and_differ_between_draws() {
        let (train, test) = (blobs(200, 0), blobs(60, 1));
        let config = LowshotConfig {
            per_class: Some(2),
            ..LowshotConfig::default()
        };
        let outcome = config.measure(&train, &test).unwrap();
        let of = |name: &str| {
            outcome
                .figures
                .iter()
                .find(|(known, _)| known == name)
                .unwrap()
                .1
        };
        assert_eq!(of("images"), 6.);
        assert!(outcome.drawn.iter().all(|rows| rows.len() == 6));
        assert_ne!(outcome.drawn[0], outcome.drawn[1]);
        assert!(of("top1") > 60. && of("top1_deviation") > 0., "{outcome:?}");
        assert_eq!(outcome, config.measure(&train, &test).unwrap());
        let all = LowshotConfig {
            share: 1.,
            draws: 2,
            ..LowshotConfig::default()
        };
        let outcome = all.measure(&train, &test).unwrap();
        assert_eq!(outcome.figures[1].1, 0., "both draws are all images");
    }

    #[test]
    fn invalid_settings_are_named() {
        let few = blobs(30, 0);
        type Wrong = (&'static str, fn(&mut LowshotConfig));
        let wrong: [Wrong; 4] = [
            ("`per_class` is 31, but class 0 has", |c| {
                c.per_class = Some(31)
            }),
            ("`draws` is 0", |c| c.draws = 0),
            ("`share` is 2", |c| c.share = 2.),
            ("`per_class` is 0", |c| c.per_class = Some(0)),
        ];
        for (what, spoil) in wrong {
            let mut config = LowshotConfig::default();
            spoil(&mut config);
            let error = config.measure(&few, &few).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
