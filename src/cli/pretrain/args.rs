//! The command line of `mim pretrain`.

use std::path::PathBuf;

use crate::init::InitFrom;
use crate::{RunConfig, run_config, zoo};
use mim_core::data::DataSource;
use mim_core::train::Checkpoint;
use mim_core::weights::Pattern;
use mim_core::{Error, Result, settings};
use mim_methods::registry;
use toml::{Table, Value};

use crate::cli::{device, folder};

/// Settings of `mim pretrain`. Later ones win: recipe, --config, options, --set.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// A TOML file (a run's config.toml will do), or the name of a shipped recipe (see `mim methods`).
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
    /// The method; its recipe for 32-pixel images is used unless --config is given [default: mae].
    #[arg(long)]
    method: Option<String>,
    /// The encoder's size, such as vit_small (see `mim methods`); it replaces the sizes of the recipe.
    #[arg(long)]
    arch: Option<String>,
    /// Images: embedded, PATH, idx:PATH, folder:PATH, cifar:PATH, parquet:PATH, or hf:owner/name of the
    /// Hugging Face Hub (the last two with --features parquet).
    #[arg(long)]
    data: Option<DataSource>,
    /// Passes over the data.
    #[arg(long)]
    epochs: Option<i64>,
    /// Images of a step.
    #[arg(long)]
    batch_size: Option<i64>,
    /// Peak learning rate, whatever the batch.
    #[arg(long, conflicts_with = "blr")]
    lr: Option<f64>,
    /// Peak learning rate for train.blr_batch (256) images a step; it grows with the batch.
    #[arg(long)]
    blr: Option<f64>,
    /// The run folder [default: runs/<method>-<n>].
    #[arg(long, value_name = "DIR")]
    pub(super) output_dir: Option<PathBuf>,
    /// Resume from the newest checkpoint of --output-dir (auto; without --output-dir that of the method's newest
    /// unfinished run below runs), or from this checkpoint, under the settings of that run.
    #[arg(long, value_name = "auto|PATH")]
    pub(super) resume: Option<String>,
    /// Start from these weights: a run, a checkpoint of one, a file (.safetensors, .pth, ...), hf:owner/name or
    /// zoo:NAME[=PATH]; the whole model if they hold it, else the encoder. A resumed run has weights of its own.
    #[arg(long, value_name = "PATH")]
    init: Option<PathBuf>,
    /// Whose names the weights of --init have, such as timm or hf_vit_mae [default: mae, mim's own].
    #[arg(long, value_name = "NAME", requires = "init")]
    init_source: Option<String>,
    /// The key of the weights in a checkpoint of PyTorch; found if not given.
    #[arg(long, value_name = "KEY", requires = "init")]
    init_key: Option<String>,
    /// Parameters that --init may leave at their initial values, `*` for any characters; repeatable.
    #[arg(long, value_name = "PATTERN", requires = "init")]
    allow_missing: Vec<Pattern>,
    /// End after training, without probes and pictures.
    #[arg(long)]
    pub(super) no_eval: bool,
    /// Replace what an earlier run left in the run folder.
    #[arg(long, conflicts_with = "resume")]
    pub(super) overwrite: bool,
    /// Where to run.
    #[arg(long, default_value = "auto", help = device::HELP)]
    pub(super) device: String,
    /// Threads; all cores by default.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Type of matrix products: f32 or bf16.
    #[arg(long)]
    precision: Option<String>,
    /// Everything random follows from it.
    #[arg(long)]
    seed: Option<i64>,
    /// Threads that decode and augment images.
    #[arg(long)]
    workers: Option<i64>,
    /// Any setting, as dotted.key=value; repeatable, in any order. Setting a `type` replaces that table by the type's
    /// defaults.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print all settings and end.
    #[arg(long)]
    pub(super) print_config: bool,
}

impl Args {
    /// What the options build on: --config, the run that is resumed, or the method's first recipe.
    fn base(&self) -> Result<Table> {
        let (table, from) = match (&self.config, self.resumed()?) {
            (Some(file), _) => (run_config::read_file(file)?, format!("--config {file}")),
            (None, Some((table, from))) => (table, from),
            (None, None) => {
                let method = self
                    .method
                    .as_deref()
                    .unwrap_or(registry::methods()[0].name);
                match registry::method(method)?.recipes {
                    [(recipe, _), ..] => (run_config::read_file(recipe)?, (*recipe).to_owned()),
                    // A method of the program's own may have none: its defaults are all.
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
                let fix = "leave --method out, or give settings of that method";
                let why = format!("{from} is of {theirs}");
                Err(Error::config("command line", "--method", method, why, fix))
            }
            _ => Ok(table),
        }
    }

    /// The settings of the run that is resumed, and where they are.
    fn resumed(&self) -> Result<Option<(Table, String)>> {
        let (settings, from) = match (self.resume.as_deref(), &self.output_dir) {
            (None, _) | (Some("auto"), None) => return Ok(None),
            (Some("auto"), Some(run)) => {
                if !run.join("config.toml").exists() {
                    return Ok(None);
                }
                (
                    run_config::read_run(run)?,
                    format!("the run {}", run.display()),
                )
            }
            (Some(path), _) => {
                let checkpoint = Checkpoint::open(path)?;
                let config = RunConfig::from_json(&checkpoint.state().config)?;
                (config.to_table()?, format!("the checkpoint {path}"))
            }
        };
        Ok(Some((settings, from)))
    }

    /// The same options with the run folder that `--resume auto` means without --output-dir: the newest unfinished
    /// run of the method below `runs`.
    pub(super) fn located(&self) -> Result<Self> {
        if self.output_dir.is_some() || self.resume.as_deref() != Some("auto") || self.print_config
        {
            return Ok(self.clone());
        }
        let method = match (&self.method, &self.config) {
            (Some(method), _) => method.clone(),
            (None, Some(file)) => run_config::method(&run_config::read_file(file)?)?,
            (None, None) => registry::methods()[0].name.to_owned(),
        };
        let run = folder::unfinished(&method)?.ok_or_else(|| {
            let why = format!("there is no unfinished run of {method} below runs");
            let fix = "name the run by --output-dir, or leave --resume out to start one";
            Error::config("command line", "--resume", "auto", why, fix)
        })?;
        eprintln!("resuming {}", run.display());
        Ok(Self {
            output_dir: Some(run),
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
            source: self.init_source.clone().or(source),
            key: self.init_key.clone(),
            allow_missing: self.allow_missing.clone(),
        }))
    }

    /// All settings. Images are measured where `norm = "auto"` asks for it, unless the settings are only printed.
    pub(super) fn config(&self) -> Result<RunConfig> {
        let mut table = self.base()?;
        self.put_options(&mut table);
        // A size comes before the keys that refine it, and a type before the keys of its table.
        let set = |setting: &&String| {
            setting
                .split('=')
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let (archs, others): (Vec<_>, Vec<_>) = self.set.iter().partition(|one| set(one) == "arch");
        let archs = archs.iter().filter_map(|one| one.split_once('='));
        let archs = archs.map(|(_, arch)| arch.trim().trim_matches('"'));
        if let Some(arch) = self.arch.as_deref().into_iter().chain(archs).last() {
            run_config::replace_sizes(&mut table, arch)?;
        }
        let (types, others): (Vec<_>, Vec<_>) = others
            .into_iter()
            .partition(|one| set(one).rsplit('.').next() == Some("type"));
        for setting in types.into_iter().chain(others) {
            settings::set(&mut table, setting)?;
        }
        if !self.print_config
            && let Some(line) = run_config::measure_norm(&mut table)?
        {
            eprintln!("{line}");
        }
        RunConfig::from_table(table)
    }

    /// Lays the options that stand for settings over `table`.
    fn put_options(&self, table: &mut Table) {
        let mut put = |part: &str, key: &str, value: Option<Value>| {
            if let Some(value) = value {
                let inner = Value::Table(Table::from_iter([(key.to_owned(), value)]));
                settings::overlay(table, Table::from_iter([(part.to_owned(), inner)]));
            }
        };
        let source = self.data.as_ref().map(|source| source.to_string().into());
        put("data", "source", source);
        put("data", "workers", self.workers.map(Value::from));
        put("train", "epochs", self.epochs.map(Value::from));
        put("train", "batch_size", self.batch_size.map(Value::from));
        let precision = self.precision.clone().map(Value::from);
        put("train", "precision", precision);
        put("train", "seed", self.seed.map(Value::from));
        put("train", "lr", self.lr.map(Value::from));
        put("train", "blr", self.blr.map(Value::from));
        // One of them says the rate: an option takes the place of what a file says.
        if let Some(train) = table.get_mut("train").and_then(Value::as_table_mut) {
            if self.lr.is_some() {
                train.remove("blr");
            }
            if self.blr.is_some() {
                train.remove("lr");
            }
        }
    }
}
