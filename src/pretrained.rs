//! Trained models from runs and checkpoints.

use std::path::Path;

use candle_core::Device;
use mim_core::train::Checkpoint;
use mim_core::{Error, Method, Result};

use crate::RunConfig;
use crate::init::InitFrom;

/// A method with the weights of a checkpoint, and the settings of its run.
///
/// ```
/// use mim::prelude::*;
///
/// # fn main() -> Result<()> {
/// # let run = std::env::temp_dir().join(format!("mim-doc-pretrained-{}", std::process::id()));
/// # let text = "[encoder]\nimage_size = 32\npatch_size = 16\nembed_dim = 8\ndepth = 1\nnum_heads = 2\n\
/// #     [decoder]\nembed_dim = 8\ndepth = 1\nnum_heads = 2";
/// # let config = RunConfig::from_table(text.parse().expect("it is TOML"))?;
/// # let data = (DataSource::Embedded.open(Split::Train)?, LoaderConfig::default());
/// # let trainer = Trainer::new(config.build(&Device::Cpu)?, data, config.train.clone(), &run)?;
/// # trainer.settings(config.to_json()?).save()?;
/// // `run` is the folder of a run, such as `runs/mae-1`.
/// let model = Pretrained::open(&run, &Device::Cpu)?;
/// let encoder = model.method.encoder().expect("MAE has an encoder");
/// let pixels = Tensor::zeros((1, 3, 32, 32), DType::F32, &Device::Cpu)?; // in [0, 1]
/// let images = model.method.input().norm.apply(&pixels)?;
/// let (options, step) = (EncodeOptions::default(), StepContext::inference());
/// let encoded = encoder.encode(&images, Masking::None, &options, &step)?;
/// assert_eq!(encoded.patches()?.dims(), [1, 4, encoder.dim()]);
/// # std::fs::remove_dir_all(&run).ok();
/// # Ok(())
/// # }
/// ```
///
/// [`Backbone`](crate::backbone::Backbone) also opens published weights, and files of an encoder alone.
pub struct Pretrained {
    /// The settings of the run.
    pub config: RunConfig,
    /// The method.
    pub method: Box<dyn Method>,
    /// Number of optimizer steps it was trained for.
    pub step: usize,
}

impl Pretrained {
    /// Opens a checkpoint folder, or the newest checkpoint of a run folder.
    ///
    /// # Errors
    ///
    /// If there is no checkpoint, the program that wrote it saved no settings, or it does not fit its settings.
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        if checkpoint.state().config.is_null() {
            return Err(Error::format(
                checkpoint.path(),
                format!(
                    "the program that trained {} saved no settings",
                    checkpoint.state().method
                ),
                "build the method in your program and call Checkpoint::load_method, or save the settings with Trainer::settings",
            ));
        }
        let config = RunConfig::from_json(&checkpoint.state().config)?;
        let method = config.build(device)?;
        checkpoint.load_method(method.as_ref())?;
        Ok(Self {
            config,
            method,
            step: checkpoint.state().step,
        })
    }
}

impl Pretrained {
    /// Builds the method of `config` and loads all its weights from a file. Also returns a line about what was loaded.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, does not fit, or contains only an encoder.
    pub fn of_file(config: RunConfig, file: &InitFrom, device: &Device) -> Result<(Self, String)> {
        let method = config.build(device)?;
        let started = file.apply(&config, method.as_ref())?;
        if started.encoder_only {
            return Err(Error::format(
                &file.path,
                format!("it contains only the encoder of {}", config.method),
                "give weights of the whole method, such as those that mim convert writes from a run",
            ));
        }
        let model = Self {
            config,
            method,
            step: 0,
        };
        Ok((model, started.to_string()))
    }
}

impl std::fmt::Debug for Pretrained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pretrained")
            .field("method", &self.method.name())
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mim_core::data::{DataSource, LoaderConfig, Split};
    use mim_core::train::{TrainConfig, Trainer};

    #[test]
    fn a_run_without_settings_says_how_to_load_it() {
        let text = "[encoder]\nimage_size = 32\npatch_size = 16\nembed_dim = 8\ndepth = 1\nnum_heads = 2\n\
             [decoder]\nembed_dim = 8\ndepth = 1\nnum_heads = 2";
        let config = RunConfig::from_table(text.parse().unwrap()).unwrap();
        let run = tempfile::tempdir().unwrap();
        let trainer = |run: &Path| {
            let images = DataSource::Embedded.open(Split::Train).unwrap();
            let train = TrainConfig::default();
            let method = config.build(&Device::Cpu).unwrap();
            Trainer::new(method, (images, LoaderConfig::default()), train, run).unwrap()
        };
        trainer(run.path()).save().unwrap();
        let error = Pretrained::open(run.path(), &Device::Cpu).unwrap_err();
        assert!(
            error.to_string().contains("Checkpoint::load_method"),
            "{error}"
        );
        let saved = trainer(run.path()).settings(config.to_json().unwrap());
        saved.save().unwrap();
        let model = Pretrained::open(run.path(), &Device::Cpu).unwrap();
        assert_eq!(model.config, config);
    }
}
