//! `mim finetune`.

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::Device;
use mim_core::data::{DataSource, Split};
use mim_core::encoders::EncoderConfig;
use mim_core::weights::ChannelFit;
use mim_core::{Error, Norm, Pooling, Result, settings};
use mim_methods::FinetuneConfig;
use toml::{Table, Value};

use crate::backbone::{WeightsOf, choose, encoder_of_file};
use crate::cli::options::{Options, channel_fit};
use crate::cli::pretrain;
use crate::init::{InitFrom, encoder_of, is_run};
use crate::{DataConfig, Pretrained, RunConfig, run_config, zoo};

/// The method that trains with labels.
const METHOD: &str = "finetune";
/// Maximum side in pixels of small images.
const SMALL: usize = 64;

/// Settings of `mim finetune`. The settings of the encoder, normalisation and images are those of --checkpoint.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The encoder: a run, one of its checkpoints, zoo:NAME[=PATH] for published weights, or a file of weights.
    #[arg(long, value_name = "PATH", required_unless_present = "resume")]
    checkpoint: Option<PathBuf>,
    /// Project whose names a file of weights has, such as timm or hf_vit_mae [default: found automatically].
    #[arg(long, value_name = "NAME", requires = "checkpoint")]
    source: Option<String>,
    /// The encoder of a run, if its method has several: teacher (then the default) or student.
    #[arg(long, value_name = "NAME", requires = "checkpoint")]
    encoder: Option<String>,
    /// Train the same network from random weights instead.
    #[arg(long)]
    scratch: bool,
    /// What the patch embedding becomes for another number of channels (encoder.in_channels): its kernels in turn, as
    /// in timm (repeat), their mean for every channel, or zero for additional channels.
    #[arg(long, value_name = "repeat|mean|zero", requires = "checkpoint", value_parser = channel_fit)]
    init_channels: Option<ChannelFit>,
    #[command(flatten)]
    pub(crate) options: Options,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let options = args.options.located(METHOD)?;
    let resumed = match &options.config {
        None => options.resumed()?,
        Some(_) => None,
    };
    if let Some((table, _)) = resumed {
        let config = options.complete(table, None)?;
        // Needed only if the run ended before its first checkpoint.
        let init = || args.encoder()?.init(args.scratch, &config);
        return pretrain::start(&options, &config, &init);
    }
    let encoder = args.encoder()?;
    let config = options.complete(
        encoder.settings(options.config.as_deref(), options.data.as_ref())?,
        None,
    )?;
    pretrain::start(&options, &config, &|| encoder.init(args.scratch, &config))
}

impl Args {
    fn encoder(&self) -> Result<Trained> {
        let mut encoder = self.found()?;
        encoder.from.channels = self.init_channels.unwrap_or_default();
        Ok(encoder)
    }

    fn found(&self) -> Result<Trained> {
        let Some(path) = &self.checkpoint else {
            let why = "the run has no checkpoint to resume from";
            let fix = "name the encoder it starts from";
            return Err(Error::config(
                "command line",
                "--checkpoint",
                "none",
                why,
                fix,
            ));
        };
        if let Some((entry, path)) = zoo::find(path)? {
            return Ok(Trained {
                encoder: entry.encoder()?,
                norm: entry.images.norm(),
                run: None,
                from: from(path, None, Some(entry.source)),
            });
        }
        if is_run(path) {
            return Trained::of_run(path.clone(), self.encoder.as_deref());
        }
        let of = WeightsOf {
            source: self.source.as_deref(),
            ..WeightsOf::default()
        };
        let (encoder, source) = encoder_of_file(path, &of)?;
        Ok(Trained {
            encoder,
            norm: Norm::imagenet(),
            run: None,
            from: from(path.clone(), None, Some(&source)),
        })
    }
}

fn from(path: PathBuf, store: Option<&str>, source: Option<&str>) -> InitFrom {
    InitFrom {
        path,
        store: store.map(str::to_owned),
        source: source.map(str::to_owned),
        encoder_alone: true,
        ..InitFrom::default()
    }
}

/// A pretrained encoder.
pub(crate) struct Trained {
    encoder: EncoderConfig,
    norm: Norm,
    /// The settings of its run.
    run: Option<RunConfig>,
    from: InitFrom,
}

impl Trained {
    /// The encoder of a run: the one called `name`, or the one that is evaluated.
    pub(crate) fn of_run(path: PathBuf, name: Option<&str>) -> Result<Self> {
        let Pretrained { config, method, .. } = Pretrained::open(&path, &Device::Cpu)?;
        let (store, _) = choose(method.as_ref(), name)?;
        let stores = method.stores();
        let found = stores
            .first()
            .and_then(|(_, student)| encoder_of(&config, student));
        let (encoder, _) = found.ok_or_else(|| {
            Error::unsupported(
                format!("fine-tuning the encoder of {}", config.method),
                "its settings have no table `encoder`",
                "export the encoder (mim export), and fine-tune the file",
            )
        })?;
        Ok(Self {
            encoder,
            norm: method.input().norm.clone(),
            from: from(path, Some(store), None),
            run: Some(config),
        })
    }

    /// The settings of a run that trains it: those of a recipe, with this encoder, these images and their classes.
    ///
    /// Without `recipe` the size of the images decides; `data` replaces the images of the run.
    pub(crate) fn settings(
        &self,
        recipe: Option<&str>,
        data: Option<&DataSource>,
    ) -> Result<Table> {
        let size = self.encoder.image_size();
        let recipe = match recipe {
            Some(file) => file,
            None if size.height.max(size.width) <= SMALL => "finetune_32px",
            None => "finetune_base",
        };
        let mut table = run_config::read_file(recipe)?;
        let method = run_config::method(&table)?;
        if method != METHOD {
            let why = format!("{recipe} is of {method}");
            let fix = "give settings of finetune, such as finetune_32px or finetune_base";
            return Err(Error::config("command line", "--config", recipe, why, fix));
        }
        let pooling = match table.get("pooling").and_then(Value::as_str) {
            Some("cls") => Pooling::Cls,
            Some("max") => Pooling::Max,
            _ => Pooling::Mean,
        };
        let mut encoder = self.encoder.clone();
        let probes = table.get("linear_probe").and_then(Value::as_bool);
        match probes.unwrap_or(false) {
            true => FinetuneConfig::for_probe(&mut encoder),
            false => FinetuneConfig::adapt(&mut encoder, pooling),
        }
        let mut encoder = settings::to_table(&encoder)?;
        if let Some(Value::Table(own)) = table.remove("encoder") {
            let own = own.into_iter().filter(|(key, _)| key == "drop_path_rate");
            // ConvMAE's encoder has none.
            let own = own.filter(|(key, _)| encoder.contains_key(key));
            encoder.extend(own.collect::<Vec<_>>());
        }
        table.remove("arch");
        table.insert("encoder".to_owned(), Value::Table(encoder));
        table.insert(
            "norm".to_owned(),
            Value::Table(settings::to_table(&self.norm)?),
        );
        if let Some(run) = &self.run {
            let data = settings::to_table(&run.data)?;
            table.insert("data".to_owned(), Value::Table(data));
            if let Some(views) = &run.eval.views {
                let views = Table::from_iter([(
                    "views".to_owned(),
                    Value::Table(settings::to_table(views)?),
                )]);
                settings::overlay(
                    &mut table,
                    Table::from_iter([("eval".to_owned(), Value::Table(views))]),
                );
            }
        }
        let classes = classes(&table, data)?;
        let classes = i64::try_from(classes).unwrap_or(i64::MAX);
        table.insert("num_classes".to_owned(), classes.into());
        Ok(table)
    }

    /// What the run starts from: these weights, or none.
    pub(crate) fn init(&self, scratch: bool, config: &RunConfig) -> Result<Option<InitFrom>> {
        if scratch {
            return Ok(None);
        }
        let classes = |config: &RunConfig| config.model.get("num_classes").cloned();
        // The head of a fine-tuning run with the same number of classes fits.
        let has_head = self
            .run
            .as_ref()
            .is_some_and(|run| run.method == METHOD && classes(run) == classes(config));
        Ok(Some(InitFrom {
            encoder_alone: !has_head,
            ..self.from.clone()
        }))
    }
}

/// The number of classes of the images.
fn classes(table: &Table, given: Option<&DataSource>) -> Result<usize> {
    let own = table.get("data").and_then(Value::as_table);
    let own: DataConfig = settings::read("data", own.cloned().unwrap_or_default())?;
    let data = match given {
        Some(source) => own.of(source.clone()),
        None => own,
    };
    match data.open_source(Split::Train)?.classes() {
        0 => Err(Error::unsupported(
            format!("fine-tuning on {}", data.source),
            "the images have no labels",
            "give labelled images by --data, such as a folder with one sub-folder per class",
        )),
        classes => Ok(classes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoders_of_every_type_can_be_tuned() {
        for recipe in ["mae", "simmim_swin", "convmae", "capi", "pixio"] {
            let table = run_config::read_file(&format!("{recipe}_32px")).unwrap();
            let config = RunConfig::from_table(table).unwrap();
            let method = config.build(&Device::Cpu).unwrap();
            let (_, student) = method.stores()[0];
            let trained = Trained {
                encoder: encoder_of(&config, student).unwrap().0,
                norm: Norm::imagenet(),
                from: from(PathBuf::from(recipe), None, None),
                run: Some(config),
            };
            let tuned = RunConfig::from_table(trained.settings(None, None).unwrap()).unwrap();
            tuned
                .build(&Device::Cpu)
                .unwrap_or_else(|error| panic!("{recipe}: {error}"));
        }
    }
}
