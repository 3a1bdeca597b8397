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
    /// What is measured: linear, knn, lowshot, retrieval, signals or segment.
    protocol: String,
    /// A setting of the protocol (c=1, k_sweep=[5, 20], see `mim parts protocol`), or with --weights one of the encoder, its
    /// images or its evaluation (encoder.norm_eps=1e-12, norm.mean=[..], eval.pooling=cls); repeatable.
    #[command(flatten)]
    model: Model,
    /// Which encoder, where a method has several: teacher (the default there) or student.
    #[arg(long, value_name = "NAME")]
    pub(crate) encoder: Option<String>,
    /// Images, as in `mim pretrain`; those of the run by default (`embedded` for published weights).
    #[arg(long)]
    data: Option<DataSource>,
    /// Which images are measured on: train, val or test; what the table of a run uses by default (val, test, or the
    /// share of the training images that was held out).
    #[arg(long)]
    pub(crate) split: Option<Split>,
    /// How results are printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// The same as --format json.
    #[arg(long)]
    json: bool,
    /// What becomes the feature: mean or max (of the patches) or cls; that of the run's evaluation by default.
    #[arg(long, value_parser = pooling)]
    pub(crate) pooling: Option<Pooling>,
    /// Blocks of the encoder, from 0, whose outputs become features side by side, such as 8,9,10,11; the final output by
    /// default.
    #[arg(long, value_delimiter = ',')]
    layers: Option<Vec<usize>>,
    /// Neighbours of knn that vote; that of the run's evaluation by default.
    #[arg(long)]
    k: Option<usize>,
    /// Where to run.
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
    /// Threads; all cores by default.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
}

const PROTOCOLS: &str = "Protocols:
  linear     logistic regression on the features: top-1 and top-5 in percent, with a 95 % interval
  knn        the votes of the nearest training images
  lowshot    the linear probe on 1 % of the labels (share=0.1, per_class=5), mean and deviation over draws
  retrieval  training images of the same class: recall@k and mean average precision
  signals    RankMe, effective rank and deviation of the features, without labels
  segment    classes of pixels by a head (head=linear or upernet) on the frozen encoder, beside the same head on a random
             one: mIoU. Masks are PNG files in PATH/train/masks and PATH/val/masks, images beside them in images; without
             masks, labelled objects on black are pasted on textures";

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A line for each figure.
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
    /// Training images that were used, and images that were measured on.
    pub(crate) images: [usize; 2],
    pub(crate) outcome: Outcome,
}

/// What a protocol makes of one feature an image.
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

/// A figure as a reader wants it: percent with two digits, others with four, whole numbers as they are.
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

/// Adds the figures of a protocol, the confusion matrix and the rows of training images of each draw where there are some.
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

/// The protocol's settings: those of the run's evaluation or the defaults, and `set` over them.
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
    // Other protocols pool the layers into one feature an image; this one reads their patches.
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

    /// Puts the options that stand for settings.
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

/// The name of the split that is measured on, the training images and those of the split.
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
        // Signals are of any images.
        None if args.protocol == "signals" => {
            Ok(("train".to_owned(), [all.train.clone(), all.train]))
        }
        None => {
            let fix = "put images into a folder val, or give data with labels, of which a share is held out";
            Err(Error::no_split(&data.source, Split::Val, fix))
        }
    }
}
