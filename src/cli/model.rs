//! The encoder that a command works on.

use std::path::PathBuf;

use crate::backbone::{Backbone, WeightsOf};
use candle_core::Device;
use mim_core::{Error, Result};

/// A run, published weights, or a file of weights.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Model {
    /// A run folder, one of its checkpoints, or zoo:NAME[=PATH] for published weights (`mim zoo`).
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "weights",
        conflicts_with = "weights"
    )]
    pub(crate) checkpoint: Option<PathBuf>,
    /// A file or folder of weights, or hf:owner/name; the sizes are read from it.
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,
    /// Project whose names the weights have, such as timm or hf_vit_mae [default: found automatically].
    #[arg(long, value_name = "NAME", requires = "weights")]
    source: Option<String>,
    /// Size of the ViT or Swin of --weights, such as vit_small [default: read from the file].
    #[arg(long, requires = "weights")]
    arch: Option<String>,
    /// A setting of the encoder of --weights, its images or its evaluation: encoder.norm_eps=1e-12, norm.mean=[..],
    /// eval.pooling=cls, data.range=dtype; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

impl Model {
    /// Opens it, and prints what was found in a file of weights.
    pub(crate) fn open(&self, device: &Device) -> Result<Backbone> {
        if let (None, Some(setting)) = (&self.weights, self.set.first()) {
            let why = "a run and published weights have their own settings";
            let fix = "leave it out, or give a file by --weights";
            return Err(Error::config("command line", "--set", setting, why, fix));
        }
        match (&self.weights, &self.checkpoint) {
            (Some(weights), _) => {
                let of = WeightsOf {
                    source: self.source.as_deref(),
                    arch: self.arch.as_deref(),
                    set: &self.set,
                };
                let (backbone, line) = Backbone::of_file(weights, &of, device)?;
                eprintln!("{line}");
                Ok(backbone)
            }
            (None, checkpoint) => Backbone::open(checkpoint.clone().unwrap_or_default(), device),
        }
    }

    /// The path that the user gave.
    pub(crate) fn path(&self) -> Option<&PathBuf> {
        self.weights.as_ref().or(self.checkpoint.as_ref())
    }
}
