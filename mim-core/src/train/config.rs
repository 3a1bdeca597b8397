//! Settings of training.

use serde::{Deserialize, Serialize};

use crate::ops::Precision;
use crate::optim::{Clip, Freeze, OptimizerConfig};
use crate::schedule::Schedule;
use crate::{Error, Result};

/// Settings of a training run; `Default` is MAE's published pre-training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the data. Default 800.
    pub epochs: usize,
    /// Images per forward pass of each process. Default 64.
    pub batch_size: usize,
    /// Forward passes per optimizer step. Default 1.
    pub accum_iter: usize,
    /// Learning rate for [`TrainConfig::blr_batch`] images per step; the rate of the run is
    /// `blr * batch_size * accum_iter * processes / blr_batch`, times the method's
    /// [`batch_factor`](crate::Method::batch_factor) (1 for most). Set this or `lr`. Default 1.5e-4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blr: Option<f64>,
    /// Images per step that `blr` refers to: 256 (MAE) or 512 (SimMIM). Default 256.
    pub blr_batch: usize,
    /// Learning rate of the run, for any batch size. Set this or `blr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Schedule of the learning rate, as a factor of it. Default: 40 epochs of warm-up, then a half cosine to 0.
    pub lr_schedule: Schedule,
    /// The optimizer. Default [`AdamW`](crate::optim::AdamW).
    pub optimizer: OptimizerConfig,
    /// Schedule of the weight decay. Default: `optimizer.weight_decay` throughout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay_schedule: Option<Schedule>,
    /// Gradient clipping. Default none.
    pub clip: Clip,
    /// Parameters that are not trained in the first epochs. Default none.
    #[serde(alias = "hold")]
    pub freeze: Vec<Freeze>,
    /// Precision of matrix products: `"f32"` (default) or `"bf16"`, see [`Precision`]. Parameters, their moments and all
    /// other arithmetic stay f32.
    pub precision: Precision,
    /// Whether transformer blocks store only their input and recompute the rest in the backward pass. This saves memory,
    /// costs about a third more time, and gives the same gradients. Default false.
    pub recompute: bool,
    /// Seed of everything random. Default 0.
    pub seed: u64,
    /// Number of checkpoints that are kept, newest first. Default 2.
    pub keep_checkpoints: usize,
    /// Epochs between checkpoints. Default 1.
    pub checkpoint_every: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 800,
            batch_size: 64,
            accum_iter: 1,
            blr: None,
            blr_batch: 256,
            lr: None,
            lr_schedule: Schedule::MaeCosine {
                peak: 1.,
                min: 0.,
                warmup_epochs: 40.,
            },
            optimizer: OptimizerConfig::default(),
            weight_decay_schedule: None,
            clip: Clip::None,
            freeze: vec![],
            precision: Precision::F32,
            recompute: false,
            seed: 0,
            keep_checkpoints: 2,
            checkpoint_every: 1,
        }
    }
}

/// Base learning rate if neither `lr` nor `blr` is set.
const DEFAULT_BLR: f64 = 1.5e-4;

impl TrainConfig {
    /// Images per optimizer step of `world` processes.
    pub fn effective_batch(&self, world: usize) -> usize {
        self.batch_size * self.accum_iter * world
    }

    /// Optimizer steps per epoch of `images` images with `world` processes.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the images do not fill one step.
    pub fn steps_per_epoch(&self, images: usize, world: usize) -> Result<usize> {
        let batch = self.effective_batch(world);
        match images / batch {
            0 => Err(Error::config(
                "train",
                "batch_size",
                batch,
                format!("the data has only {images} images, fewer than one step needs"),
                "lower batch_size or accum_iter, or start fewer processes",
            )),
            steps => Ok(steps),
        }
    }

    /// The peak learning rate of a method with this [`batch_factor`](crate::Method::batch_factor) in `world` processes.
    pub fn peak_lr(&self, batch_factor: f64, world: usize) -> f64 {
        let batch = self.effective_batch(world) as f64 * batch_factor;
        let scaled = |blr: f64| blr * batch / self.blr_batch as f64;
        self.lr
            .unwrap_or_else(|| scaled(self.blr.unwrap_or(DEFAULT_BLR)))
    }

    /// The learning rate of every step.
    pub fn lr(&self, batch_factor: f64, world: usize) -> Schedule {
        self.lr_schedule.scaled(self.peak_lr(batch_factor, world))
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for the first invalid setting.
    pub fn validate(&self) -> Result<()> {
        let bad = |field: &'static str, value: String, why: &'static str, fix: &'static str| {
            Err(Error::config("train", field, value, why, fix))
        };
        let counts = [
            ("epochs", self.epochs),
            ("batch_size", self.batch_size),
            ("accum_iter", self.accum_iter),
            ("blr_batch", self.blr_batch),
            ("keep_checkpoints", self.keep_checkpoints),
            ("checkpoint_every", self.checkpoint_every),
        ];
        if let Some((field, _)) = counts.into_iter().find(|(_, value)| *value == 0) {
            return bad(field, "0".into(), "it must be at least 1", "use 1 or more");
        }
        if let (Some(lr), Some(blr)) = (self.lr, self.blr) {
            let value = format!("{lr} beside blr = {blr}");
            return bad(
                "lr",
                value,
                "only one of them can set the learning rate",
                "remove lr or blr",
            );
        }
        let peak = self.peak_lr(1., 1);
        if !peak.is_finite() || peak <= 0. {
            return bad(
                "lr",
                peak.to_string(),
                "a learning rate must be positive",
                "use a positive number, such as blr = 1.5e-4",
            );
        }
        self.optimizer.validate()?;
        self.clip.validate()?;
        if let Some(schedule) = &self.weight_decay_schedule {
            schedule.validate()?;
        }
        self.lr_schedule.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_rates_grow_with_the_batch() {
        let config = TrainConfig {
            batch_size: 512,
            accum_iter: 8,
            ..TrainConfig::default()
        };
        assert!((config.peak_lr(1., 1) - 2.4e-3).abs() < 1e-12);
        assert!((config.peak_lr(1., 4) - 9.6e-3).abs() < 1e-12);
        // DMJD: 512 images a step that count for 853.
        let dmjd = TrainConfig {
            accum_iter: 1,
            blr: Some(6e-4),
            ..config.clone()
        };
        assert!((dmjd.peak_lr(1. / 0.6, 1) - 2e-3).abs() < 1e-12);
        let absolute = TrainConfig {
            lr: Some(1e-3),
            ..config
        };
        assert_eq!(absolute.peak_lr(2., 4), 1e-3);
    }

    #[test]
    fn bad_settings_are_named() {
        let both = TrainConfig {
            lr: Some(1.),
            blr: Some(1.),
            ..TrainConfig::default()
        };
        assert!(
            both.validate()
                .unwrap_err()
                .to_string()
                .contains("only one of them")
        );
        let none = TrainConfig {
            batch_size: 0,
            ..TrainConfig::default()
        };
        assert!(
            none.validate()
                .unwrap_err()
                .to_string()
                .contains("batch_size")
        );
    }
}
