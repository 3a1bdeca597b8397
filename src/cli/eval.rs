//! `mim eval`.

use std::process::ExitCode;
use std::sync::Arc;

use crate::DataConfig;
use candle_core::Device;
use mim_core::data::{DataSource, Dataset, Split};
use mim_core::{Error, Result, settings};
use mim_eval::{EvalConfig, Outcome, Pooling, ProtocolSettings, SegmentConfig, protocols};
use serde_json::{Value, json};
use toml::Table;

use crate::backbone::Backbone;
use crate::cli::model::Model;
use crate::cli::pretrain::probe::{Pair, cap};
use crate::cli::pretrain::summary::version;
use crate::cli::{device, segment};

/// Settings of `mim eval`.
#[derive(Debug, clap::Args)]
#[command(after_help = PROTOCOLS)]
pub(crate) struct Args {
    /// What to measure: linear, knn, lowshot, retrieval, signals or segment.
    protocol: String,
    /// A setting of the protocol, such as c=1 or k_sweep=[5, 20] (see `mim parts protocol`). With --weights also a setting
    /// of the encoder, its images or its evaluation: encoder.norm_eps=1e-12, norm.mean=[..], eval.pooling=cls. Repeatable.
    #[command(flatten)]
    model: Model,
    /// The encoder, if the method has several: teacher (then the default) or student.
    #[arg(long, value_name = "NAME")]
    pub(crate) encoder: Option<String>,
    /// Images, as in `mim pretrain` [default: those of the run; `embedded` for published weights].
    #[arg(long)]
    data: Option<DataSource>,
    /// Images to measure on: train, val or test [default: as in the table of the run: val, else test, else the training
    /// images that were held out].
    #[arg(long)]
    pub(crate) split: Option<Split>,
    /// Format of the results.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The same as --format json.
    #[arg(long)]
    json: bool,
    /// What becomes the feature: mean or max of the patches, or cls [default: as in the evaluation of the run].
    #[arg(long, value_parser = pooling)]
    pub(crate) pooling: Option<Pooling>,
    /// Blocks of the encoder, from 0, whose outputs are joined into one feature, such as 8,9,10,11 [default: the final
    /// output].
    #[arg(long, value_delimiter = ',')]
    layers: Option<Vec<usize>>,
    /// Number of neighbours that vote in knn [default: as in the evaluation of the run].
    #[arg(long)]
    k: Option<usize>,
    /// Device.
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
    /// Number of threads [default: all cores].
    #[arg(long)]
    pub(crate) threads: Option<usize>,
}

const PROTOCOLS: &str = "Examples:
  mim eval linear --checkpoint runs/mae-1
  mim eval knn --weights vit.safetensors --source timm --data folder:photos

Protocols:
  linear     logistic regression on the features: top-1 and top-5 in percent, with a 95 % interval
  knn        the votes of the nearest training images
  lowshot    the linear probe on 1 % of the labels (share=0.1, per_class=5), mean and deviation over draws
  retrieval  training images of the same class: recall@k and mean average precision
  signals    RankMe, effective rank and deviation of the features, without labels
  segment    classes of pixels (mIoU) by a head on the frozen encoder, and by the same head on a random encoder
             (head=linear or upernet). Images are in PATH/SPLIT/images, masks as PNG in PATH/SPLIT/masks, for the splits
             train and val; without masks, labelled objects on black are pasted on textures";

/// Format of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// One line per figure.
    Text,
    /// All figures, settings and the confusion matrix.
    Json,
    /// Names and values.
    Csv,
    /// A table.
    Markdown,
}

/// Reads `--pooling`.
pub(crate) fn pooling(name: &str) -> std::result::Result<Pooling, String> {
    match name {
        "mean" => Ok(Pooling::Mean),
        "max" => Ok(Pooling::Max),
        "cls" => Ok(Pooling::Cls),
        _ => Err("use mean, max or cls".to_owned()),
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let known = protocols();
    let entry = known.get(&args.protocol)?;
    let device = device::open(&args.device)?;
    let (own, of_model) = args.split_settings(&entry.info.defaults()?);
    let mut model = args.model.clone();
    model.set = of_model;
    let mut model = model.open(&device)?;
    args.change(&mut model);
    let table = settings_of(args, &model.eval, &own)?;
    let protocol = entry.read(table.clone())?;
    let measured = match protocol.segmentation() {
        Some(config) => segment::measure(args, &model, config, &device)?,
        None => measure(args, &model, protocol.as_ref(), &device)?,
    };
    let Measured { encoder, split, .. } = &measured;
    match args.format(&measured.outcome) {
        Some(text) => {
            eprintln!("{encoder}, {split} of {}", model.data.source);
            print!("{text}");
        }
        None => {
            let [probed, held_out] = measured.images;
            let mut all = json!({
                "checkpoint": args.model.path(),
                "encoder": encoder,
                "data": model.data.source,
                "split": split,
                "seed": model.seed,
                "protocol": args.protocol,
                "settings": table,
                "probed_images": { "train": probed, "held_out": held_out },
            });
            if protocol.segmentation().is_none() {
                all["pooling"] = json!(model.eval.pooling);
                all["layers"] = json!(model.eval.layers);
            }
            put(&mut all, &args.protocol, &measured.outcome);
            version(&mut all);
            println!("{all:#}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What was measured, and on what.
pub(crate) struct Measured {
    pub(crate) encoder: String,
    pub(crate) split: String,
    /// Numbers of training images and of images measured on.
    pub(crate) images: [usize; 2],
    pub(crate) outcome: Outcome,
}

/// The result of a protocol on one feature per image.
fn measure(
    args: &Args,
    model: &Backbone,
    protocol: &dyn ProtocolSettings,
    device: &Device,
) -> Result<Measured> {
    let (split, [train, test]) = images(args, &model.data, model.seed)?;
    let (name, encoder) = model.encoder(args.encoder.as_deref())?;
    let data = (&train, &test);
    let eval = (&model.eval, device);
    let pair = match protocol.without_labels() {
        true => Pair::with_or_without_labels(encoder, &model.input, data, eval)?,
        false => Pair::of_encoder(encoder, &model.input, data, eval)?,
    };
    let outcome = pair.measure(protocol)?;
    if args.protocol == "linear"
        && let Some(line) = cap(pair.images()[0], &model.eval)
    {
        eprintln!("{line}");
    }
    Ok(Measured {
        encoder: name.to_owned(),
        split,
        images: pair.images(),
        outcome,
    })
}

/// A figure for readers: percentages with two digits, others with four, whole numbers unchanged.
fn shown(name: &str, value: f64) -> String {
    let percent = [
        "top",
        "mean_per_class",
        "recall",
        "map",
        "miou",
        "iou",
        "pixel_accuracy",
        "mean_class_accuracy",
    ];
    let name = name.strip_prefix("random_").unwrap_or(name);
    match percent.iter().any(|start| name.starts_with(start)) {
        true => format!("{value:.2}"),
        false if value.fract() == 0. => format!("{value}"),
        false => format!("{value:.4}"),
    }
}

/// Adds the figures of a protocol and, if it has them, the confusion matrix and the training images of each draw.
fn put(all: &mut Value, protocol: &str, outcome: &Outcome) {
    for (name, value) in &outcome.figures {
        all[format!("{protocol}_{name}")] = json!(value);
    }
    if let Some(scores) = &outcome.scores {
        all["confusion"] = json!(scores.confusion());
    }
    if let Some(pixels) = &outcome.pixels {
        all["confusion"] = json!(pixels);
    }
    if !outcome.drawn.is_empty() {
        all["drawn"] = json!(outcome.drawn);
    }
}

/// The settings of the protocol: those of the run's evaluation or the defaults, overlaid with `set`.
fn settings_of(args: &Args, eval: &EvalConfig, set: &[String]) -> Result<Table> {
    let protocol = args.protocol.as_str();
    let mut table = match protocol {
        "linear" => settings::to_table(&eval.linear)?,
        "knn" => settings::to_table(&eval.knn)?,
        "segment" => settings::to_table(&SegmentConfig::default())?,
        _ => Table::new(),
    };
    if let Some(k) = args.k {
        if protocol != "knn" {
            let why = format!("{protocol} has no neighbours");
            return Err(Error::config("command line", "--k", k, why, "leave it out"));
        }
        table.insert("k".to_owned(), i64::try_from(k).unwrap_or(i64::MAX).into());
    }
    // Other protocols pool the layers into one feature per image; this one reads their patches.
    if let ("segment", Some(layers)) = (protocol, &args.layers) {
        let layers = layers
            .iter()
            .map(|layer| i64::try_from(*layer).unwrap_or(i64::MAX));
        table.insert("layers".to_owned(), layers.collect::<Vec<i64>>().into());
    }
    for setting in set {
        settings::set(&mut table, setting)?;
    }
    Ok(table)
}

impl Args {
    /// The settings of the protocol, whose keys are `known`, and those of the encoder in a file of weights: keys below
    /// another table.
    fn split_settings(&self, known: &Table) -> (Vec<String>, Vec<String>) {
        let of_model = |setting: &String| {
            let key = setting.split('=').next().unwrap_or_default();
            key.split_once('.')
                .is_some_and(|(table, _)| !known.contains_key(table.trim()))
        };
        self.model
            .set
            .iter()
            .cloned()
            .partition(|setting| !of_model(setting))
    }

    /// Overlays the options that stand for settings.
    fn change(&self, model: &mut Backbone) {
        if let Some(pooling) = self.pooling {
            model.eval.pooling = pooling;
        }
        if let Some(layers) = &self.layers {
            model.eval.layers.clone_from(layers);
        }
        if let Some(source) = &self.data {
            model.data = model.data.of(source.clone());
        }
    }

    /// The figures as text; none for JSON.
    fn format(&self, outcome: &Outcome) -> Option<String> {
        let protocol = &self.protocol;
        let line = |(name, value): &(String, f64)| match self.format {
            Format::Csv => format!("{protocol}_{name},{value}\n"),
            Format::Markdown => format!("| {protocol}_{name} | {} |\n", shown(name, *value)),
            _ => format!("{protocol}_{name} {}\n", shown(name, *value)),
        };
        let lines: String = outcome.figures.iter().map(line).collect();
        match self.format {
            _ if self.json => None,
            Format::Json => None,
            Format::Text => Some(lines),
            Format::Csv => Some(format!("figure,value\n{lines}")),
            Format::Markdown => Some(format!("| figure | value |\n|---|---|\n{lines}")),
        }
    }
}

/// The name of the split to measure on, the training images, and the images of that split.
pub(crate) fn images(
    args: &Args,
    data: &DataConfig,
    seed: u64,
) -> Result<(String, [Arc<dyn Dataset>; 2])> {
    let all = data.open(seed)?;
    for note in all.notes() {
        eprintln!("{note}");
    }
    if let Some(split) = args.split {
        let images = [all.train, data.open_split(split, seed)?];
        return Ok((split.to_string(), images));
    }
    match all.held_out {
        Some((which, images)) => Ok((which.to_string(), [all.train, images])),
        // Signals work on any images.
        None if args.protocol == "signals" => {
            Ok(("train".to_owned(), [all.train.clone(), all.train]))
        }
        None => {
            let fix = "put images into a folder val, or give data with labels, of which a share is held out";
            Err(Error::no_split(&data.source, Split::Val, fix))
        }
    }
}
