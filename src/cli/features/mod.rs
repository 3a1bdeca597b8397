//! `mim features`.

mod format;
mod part;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::Device;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mim_core::data::{DataSource, Dataset, Split, fingerprint};
use mim_core::{Error, Result, files};
use mim_eval::{FeaturePass, Pooling};
use serde_json::{Map, Value, json};

use self::format::Format;
use self::part::{Part, Record};
use crate::backbone::Backbone;
use crate::cli::eval::pooling;
use crate::cli::model::Model;
use crate::cli::{device, folder};

/// Settings of `mim features`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: Model,
    /// Images, with or without labels, as in `mim pretrain` [default: those of the run].
    #[arg(long)]
    data: Option<DataSource>,
    /// Split of the data: train, val or test.
    #[arg(long, default_value = "train")]
    split: Split,
    /// Output file, one row per image in the order of the data: .npy, or .safetensors with `features` and `labels`.
    /// A .csv next to it has the name, label and class of each row. Rows are written as they are computed; if the
    /// command is interrupted, the same command continues.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// The encoder, if the method has several: teacher (then the default) or student.
    #[arg(long, value_name = "NAME")]
    encoder: Option<String>,
    /// What becomes the feature: mean of the patches, or cls [default: as in the evaluation of the run].
    #[arg(long, value_parser = pooling)]
    pooling: Option<Pooling>,
    /// Rows are the tokens of all patches, [images, tokens, width], instead of one feature per image.
    #[arg(long, conflicts_with = "pooling")]
    tokens: bool,
    /// Device.
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
    /// Number of threads [default: all cores].
    #[arg(long)]
    pub(crate) threads: Option<usize>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let format = Format::of(&args.output)?;
    folder::check_parent(&args.output)?;
    let table = args.output.with_extension("csv");
    check_free(args, &table)?;
    let device = device::open(&args.device)?;
    let mut model = args.model.open(&device)?;
    if let Some(pooling) = args.pooling {
        model.eval.pooling = pooling;
    }
    if let Some(source) = &args.data {
        model.data = model.data.of(source.clone());
    }
    let data = model.data.open_split(args.split, model.seed)?;
    for note in data.notes() {
        eprintln!("{note}");
    }
    let (name, encoder) = model.encoder(args.encoder.as_deref())?;
    let pass = FeaturePass::new(encoder, data.clone(), &model.input, &model.eval).on(&device);
    let pass = match args.tokens {
        true => pass.of_tokens(),
        false => pass,
    };
    let labelled = is_labelled(data.as_ref());
    let start = format.start(data.len(), labelled);
    let of = origin(args, &model, (name, &device), data.as_ref())?;
    let (mut part, said) = Part::open(&args.output, of, start)?;
    if let Some(said) = said {
        eprintln!("{said}");
    }
    compute(&pass, data.len(), &mut part)?;
    let images = images(data.as_ref(), part.record())?;
    let dims = part.dims();
    let labels = images.iter().filter_map(|image| data.label(*image));
    let labels: Option<Vec<i64>> = labelled.then(|| labels.map(i64::from).collect());
    let head = format.head(&dims, labels.as_deref(), start)?;
    files::replace(&table, |new| write_table(new, data.as_ref(), &images))?;
    part.finish(&head)?;
    let (split, source) = (args.split, &model.data.source);
    let table = table.display();
    eprintln!("{name}, {split} of {source}, rows in {table}");
    println!("{} {dims:?}", args.output.display());
    Ok(ExitCode::SUCCESS)
}

/// What the rows depend on. The number of threads is not part of it: it changes the last bits at most.
fn origin(
    args: &Args,
    model: &Backbone,
    (name, device): (&str, &Device),
    data: &dyn Dataset,
) -> Result<Map<String, Value>> {
    let (input, eval) = (&model.input, &model.eval);
    let value = |name: &str, value: serde_json::Result<Value>| {
        let value = value.map_err(|error| {
            let what = format!("{name} cannot be recorded: {error}");
            Error::format(&args.output, what, "report this as a bug")
        })?;
        Ok((name.to_owned(), value))
    };
    let text = |text: String| Ok(Value::String(text));
    let tokens = match args.tokens {
        true => Value::from("tokens"),
        false => json!(eval.pooling),
    };
    [
        ("version of mim", text(env!("CARGO_PKG_VERSION").to_owned())),
        ("weights", text(format!("{:08x}", model.checksum()?))),
        ("encoder", text(name.to_owned())),
        ("pooling", Ok(tokens)),
        ("layers", serde_json::to_value(&eval.layers)),
        (
            "views",
            serde_json::to_value(eval.view_plan(input.size, input.channels())),
        ),
        ("norm", serde_json::to_value(&input.norm)),
        ("batch size", serde_json::to_value(eval.batch_size)),
        ("device", text(format!("{:?}", device.location()))),
        ("data", serde_json::to_value(&model.data)),
        ("split", text(args.split.to_string())),
        ("images", text(format!("{:08x}", fingerprint(data)))),
    ]
    .into_iter()
    .map(|(name, found)| value(name, found))
    .collect()
}

/// First line of the table of rows.
const COLUMNS: &str = "row,name,label,class";

/// Refuses to write over what is not the output of such a command, before anything is computed.
fn check_free(args: &Args, table: &Path) -> Result<()> {
    let taken =
        |path: &Path, what: &'static str| Err(Error::format(path, what, "give another --output"));
    for path in [&args.output, table] {
        if path.is_dir() {
            return taken(path, "this is a folder");
        }
        let same = |input: &PathBuf| input.canonicalize().ok() == path.canonicalize().ok();
        if path.exists() && args.model.weights.as_ref().is_some_and(same) {
            return taken(path, "these are the weights of the command");
        }
    }
    match files::read_if_there(table)? {
        Some(old) if !old.starts_with(COLUMNS.as_bytes()) => {
            taken(table, "this table was not written by `mim features`")
        }
        _ => Ok(()),
    }
}

/// Whether every image has a label.
fn is_labelled(data: &dyn Dataset) -> bool {
    data.classes() > 0 && (0..data.len()).all(|image| data.label(image).is_some())
}

/// Adds the rows that are missing.
fn compute(pass: &FeaturePass<'_>, count: usize, part: &mut Part) -> Result<()> {
    let bar =
        ProgressBar::with_draw_target(Some(count as u64), ProgressDrawTarget::stderr_with_hz(5));
    if let Ok(style) = ProgressStyle::with_template("{bar:20} {pos}/{len} images, {eta} left") {
        bar.set_style(style);
    }
    let done = |record: &Record| (record.rows + record.left_out.len()) as u64;
    bar.set_position(done(part.record()));
    bar.reset_eta();
    let (batches, left_out) = (part.record().batches, part.record().left_out.clone());
    for rows in pass.batches(batches, left_out)? {
        part.add(&rows?)?;
        bar.set_position(done(part.record()));
    }
    bar.finish_and_clear();
    Ok(())
}

/// The image of each row; says which images have none.
///
/// # Errors
///
/// [`Error::Unsupported`] if no image has a row.
fn images(data: &dyn Dataset, record: &Record) -> Result<Vec<usize>> {
    let left_out = &record.left_out;
    if let [first, ..] = left_out.as_slice() {
        let (count, first) = (left_out.len(), data.name_of(*first));
        if record.rows == 0 {
            let why = format!("none of {count} images could be read, such as {first}");
            return Err(Error::unsupported("features", why, "repair the images"));
        }
        eprintln!("{count} images could not be read and have no row, such as {first}");
    }
    let images = (0..data.len()).filter(|image| left_out.binary_search(image).is_err());
    Ok(images.collect())
}

/// Writes one line per row: its number, the name of the image, its label and the name of its class.
fn write_table(path: &Path, data: &dyn Dataset, images: &[usize]) -> Result<()> {
    let quoted = |text: &str| match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    };
    let file = File::create(path).map_err(Error::io("create", path))?;
    let mut table = BufWriter::new(file);
    let mut write = || {
        writeln!(table, "{COLUMNS}")?;
        for (row, image) in images.iter().enumerate() {
            let label = data.label(*image);
            let class = label.and_then(|label| data.class_names().get(label as usize));
            let label = label.map_or(String::new(), |label| label.to_string());
            let class = class.map_or(String::new(), |class| quoted(class));
            let name = quoted(&data.name_of(*image));
            writeln!(table, "{row},{name},{label},{class}")?;
        }
        table.flush()
    };
    write().map_err(Error::io("write", path))
}
