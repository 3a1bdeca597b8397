//! Options shared by all commands that train.

use std::path::PathBuf;

use crate::{RunConfig, run_config};
use mim_core::data::DataSource;
use mim_core::train::Checkpoint;
use mim_core::weights::ChannelFit;
use mim_core::{Error, Result, settings};
use toml::{Table, Value};

use crate::cli::mlflow::LogArgs;
use crate::cli::pretrain::watch::WatchArgs;
use crate::cli::{device, folder};

/// How a run is trained. Later sources win: recipe, --config, options, --set.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// A TOML file, such as the config.toml of a run, or the name of a shipped recipe (see `mim methods`).
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<String>,
    /// Images: embedded, PATH, folder:PATH, list:FILE (.csv, .tsv, .jsonl, .txt), tar:PATH, idx:PATH, cifar:PATH,
    /// parquet:PATH, or hf:owner/name on the Hugging Face Hub (the last two need a build with --features parquet). Join
    /// several as "A + B".
    #[arg(long)]
    pub(crate) data: Option<DataSource>,
    /// Column of the images, or of their paths, in lists, tar and parquet files [default: the first with a usual name].
    #[arg(long, value_name = "NAME")]
    pub(crate) image_column: Option<String>,
    /// Column of the labels in these files [default: the first with a usual name].
    #[arg(long, value_name = "NAME")]
    pub(crate) label_column: Option<String>,
    /// Number of passes over the data.
    #[arg(long)]
    pub(crate) epochs: Option<i64>,
    /// Images per forward pass of each process.
    #[arg(long)]
    pub(crate) batch_size: Option<i64>,
    /// Peak learning rate, for any batch size.
    #[arg(long, conflicts_with = "blr")]
    pub(crate) lr: Option<f64>,
    /// Peak learning rate for train.blr_batch (256) images per step; it grows with the batch.
    #[arg(long)]
    pub(crate) blr: Option<f64>,
    /// The run folder [default: runs/<method>-<n>].
    #[arg(long, value_name = "DIR")]
    pub(crate) output_dir: Option<PathBuf>,
    /// Resume from this checkpoint, under the settings of its run. `auto` takes the newest checkpoint of --output-dir, or
    /// without --output-dir that of the newest unfinished run of the method in `runs`.
    #[arg(long, value_name = "auto|PATH")]
    pub(crate) resume: Option<String>,
    /// Do all checks and one step, print how long it took, and keep nothing.
    #[arg(long, conflicts_with = "resume")]
    pub(crate) dry_run: bool,
    /// Stop after training, without probes and pictures.
    #[arg(long)]
    pub(crate) no_eval: bool,
    /// Replace an earlier run in the run folder.
    #[arg(long, conflicts_with = "resume")]
    pub(crate) overwrite: bool,
    /// Device.
    #[arg(long, default_value = "auto", help = device::HELP)]
    pub(crate) device: String,
    /// Number of threads [default: all cores].
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Precision of matrix products: f32 or bf16.
    #[arg(long)]
    pub(crate) precision: Option<String>,
    /// Seed of everything random.
    #[arg(long)]
    pub(crate) seed: Option<i64>,
    /// Number of threads that decode and augment images.
    #[arg(long)]
    pub(crate) workers: Option<i64>,
    /// A setting, as dotted.key=value; repeatable, in any order. Setting a `type` replaces its table by the defaults of
    /// that type.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Print all settings and exit.
    #[arg(long)]
    pub(crate) print_config: bool,
    #[command(flatten)]
    pub(crate) watch: WatchArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Reads `--init-channels`.
pub(crate) fn channel_fit(text: &str) -> std::result::Result<ChannelFit, String> {
    let mut names = ChannelFit::NAMES.iter();
    let found = names.find(|(name, _)| *name == text);
    let found = found.map(|(_, fit)| *fit);
    found.ok_or_else(|| "write repeat, mean or zero".to_owned())
}

impl Options {
    /// The settings of the run that is resumed, and where they were found.
    pub(crate) fn resumed(&self) -> Result<Option<(Table, String)>> {
        let (settings, from) = match (self.resume.as_deref(), &self.output_dir) {
            (None, _) | (Some("auto"), None) => return Ok(None),
            (Some("auto"), Some(run)) => {
                if !run.join("config.toml").exists() || folder::is_being_cleared(run) {
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

    /// The same options with the run folder of `--resume auto` without --output-dir: the newest unfinished run of
    /// `method` in `runs`.
    pub(crate) fn located(&self, method: &str) -> Result<Self> {
        if self.output_dir.is_some() || self.resume.as_deref() != Some("auto") || self.print_config
        {
            return Ok(self.clone());
        }
        let run = folder::unfinished(method)?.ok_or_else(|| {
            let why = format!("there is no unfinished run of {method} in `runs`");
            let fix = "name the run by --output-dir, or omit --resume to start one";
            Error::config("command line", "--resume", "auto", why, fix)
        })?;
        eprintln!("resuming {}", run.display());
        Ok(Self {
            output_dir: Some(run),
            ..self.clone()
        })
    }

    /// All settings: `table` with the sizes of `arch`, if given, overlaid with the options. Images are measured where
    /// settings ask for it (`norm = "auto"`), unless the settings are only printed.
    pub(crate) fn complete(&self, mut table: Table, arch: Option<&str>) -> Result<RunConfig> {
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
        if let Some(arch) = arch.into_iter().chain(archs).last() {
            run_config::replace_sizes(&mut table, arch)?;
        }
        let (types, others): (Vec<_>, Vec<_>) = others
            .into_iter()
            .partition(|one| set(one).rsplit('.').next() == Some("type"));
        let before = RunConfig::from_table(table.clone());
        for setting in types.into_iter().chain(others) {
            settings::set(&mut table, setting)?;
        }
        // Errors in the rest are reported below.
        if let Ok(before) = before {
            settings::fill_types(&mut table, &before.to_table()?);
        }
        if !self.print_config {
            for line in run_config::measure(&mut table)? {
                eprintln!("{line}");
            }
        }
        RunConfig::from_table(table)
    }

    /// Overlays `table` with the options that stand for settings.
    fn put_options(&self, table: &mut Table) {
        let mut put = |part: &str, key: &str, value: Option<Value>| {
            if let Some(value) = value {
                let inner = Value::Table(Table::from_iter([(key.to_owned(), value)]));
                settings::overlay(table, Table::from_iter([(part.to_owned(), inner)]));
            }
        };
        let source = self.data.as_ref().map(|source| source.to_string().into());
        put("data", "source", source);
        let column = |name: &Option<String>| name.clone().map(Value::from);
        put("data", "image_column", column(&self.image_column));
        put("data", "label_column", column(&self.label_column));
        put("data", "workers", self.workers.map(Value::from));
        put("train", "epochs", self.epochs.map(Value::from));
        put("train", "batch_size", self.batch_size.map(Value::from));
        let precision = self.precision.clone().map(Value::from);
        put("train", "precision", precision);
        put("train", "seed", self.seed.map(Value::from));
        put("train", "lr", self.lr.map(Value::from));
        put("train", "blr", self.blr.map(Value::from));
        // Only one of them sets the rate, and an option replaces the value of a file.
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
