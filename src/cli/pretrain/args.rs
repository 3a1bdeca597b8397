//! The command line of `mim pretrain`.

use std::path::PathBuf;

use crate::init::InitFrom;
use crate::{RunConfig, run_config, zoo};
use mim_core::weights::{ChannelFit, Pattern};
use mim_core::{Error, Result};
use mim_methods::registry;
use toml::Table;

use crate::cli::options::{Options, channel_fit};

/// Settings of `mim pretrain`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Method; without --config its recipe for 32-pixel images is used [default: mae].
    #[arg(long)]
    method: Option<String>,
    /// Size of the encoder, such as vit_small (see `mim methods`); it replaces the sizes of the recipe.
    #[arg(long)]
    arch: Option<String>,
    /// Start from these weights: a run, one of its checkpoints, a file (.safetensors, .pth, ...), hf:owner/name or
    /// zoo:NAME[=PATH]. Loads the whole model if they hold it, else the encoder. A resumed run keeps its own weights.
    #[arg(long, value_name = "PATH")]
    init: Option<PathBuf>,
    /// Project whose names the weights of --init have, such as timm or hf_vit_mae [default: mae, mim's own].
    #[arg(long, value_name = "NAME", requires = "init")]
    init_source: Option<String>,
    /// Key of the weights in a PyTorch checkpoint [default: found automatically].
    #[arg(long, value_name = "KEY", requires = "init")]
    init_key: Option<String>,
    /// Parameters that --init may leave at their initial values if they are missing or have another shape; `*` matches
    /// any characters; repeatable.
    #[arg(long, value_name = "PATTERN", requires = "init")]
    allow_missing: Vec<Pattern>,
    /// What the patch embedding of --init becomes for another number of channels: its kernels in turn, as in timm
    /// (repeat), their mean for every channel, or zero for additional channels.
    #[arg(long, value_name = "repeat|mean|zero", requires = "init", value_parser = channel_fit)]
    init_channels: Option<ChannelFit>,
    #[command(flatten)]
    pub(crate) options: Options,
}

impl Args {
    /// The settings below the options: --config, the resumed run, or the first recipe of the method.
    fn base(&self) -> Result<Table> {
        let (table, from) = match (&self.options.config, self.options.resumed()?) {
            (Some(file), _) => (run_config::read_file(file)?, format!("--config {file}")),
            (None, Some((table, from))) => (table, from),
            (None, None) => {
                let method = self
                    .method
                    .as_deref()
                    .unwrap_or(registry::methods()[0].name);
                match registry::method(method)?.recipes {
                    [(recipe, _), ..] => (run_config::read_file(recipe)?, (*recipe).to_owned()),
                    // A method that the program adds may have no recipe; then its defaults are used.
                    [] => {
                        let table = [("method".to_owned(), method.into())];
                        (Table::from_iter(table), "--method".to_owned())
                    }
                }
            }
        };
        let theirs = run_config::method(&table)?;
        match &self.method {
            Some(method) if *method != theirs => {
                registry::method(method)?;
                let fix = "omit --method, or give settings of that method";
                let why = format!("{from} is of {theirs}");
                Err(Error::config("command line", "--method", method, why, fix))
            }
            _ => Ok(table),
        }
    }

    /// The method of the run.
    fn method(&self) -> Result<String> {
        Ok(match (&self.method, &self.options.config) {
            (Some(method), _) => method.clone(),
            (None, Some(file)) => run_config::method(&run_config::read_file(file)?)?,
            (None, None) => registry::methods()[0].name.to_owned(),
        })
    }

    /// The options with their run folder ([`Options::located`]).
    pub(super) fn located(&self) -> Result<Self> {
        let options = self.options.located(&self.method()?)?;
        Ok(Self {
            options,
            ..self.clone()
        })
    }

    /// The weights to start from.
    ///
    /// # Errors
    ///
    /// If no published weights have this name, or they must be downloaded by hand.
    pub(super) fn init(&self) -> Result<Option<InitFrom>> {
        let Some(path) = &self.init else {
            return Ok(None);
        };
        let (path, source) = match zoo::find(path)? {
            Some((entry, path)) => (path, Some(entry.source.to_owned())),
            None => (path.clone(), None),
        };
        Ok(Some(InitFrom {
            path,
            store: None,
            source: self.init_source.clone().or(source),
            key: self.init_key.clone(),
            allow_missing: self.allow_missing.clone(),
            encoder_alone: false,
            channels: self.init_channels.unwrap_or_default(),
        }))
    }

    /// All settings.
    pub(crate) fn config(&self) -> Result<RunConfig> {
        self.options.complete(self.base()?, self.arch.as_deref())
    }
}
