//! `mim features`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::{DType, Tensor};
use mim_core::data::{DataSource, Dataset, Split};
use mim_core::weights::WeightMap;
use mim_core::{Error, Result, files};
use mim_eval::{FeatureRows, Pooling, features};

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
    /// A .csv beside it gives the name, label and class of each row.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// The encoder, if the method has several: teacher (then the default) or student.
    #[arg(long, value_name = "NAME")]
    encoder: Option<String>,
    /// What becomes the feature: mean of the patches, or cls [default: as in the evaluation of the run].
    #[arg(long, value_parser = pooling)]
    pooling: Option<Pooling>,
    /// Device.
    #[arg(long, default_value = "auto", help = device::HELP)]
    device: String,
    /// Number of threads [default: all cores].
    #[arg(long)]
    pub(crate) threads: Option<usize>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let kind = args
        .output
        .extension()
        .and_then(|extension| extension.to_str());
    if !matches!(kind, Some("npy" | "safetensors")) {
        return Err(Error::format(
            &args.output,
            "features are written as .npy or .safetensors",
            "give the file one of these endings",
        ));
    }
    folder::check_parent(&args.output)?;
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
    let input = &model.input;
    let rows = features(
        encoder,
        data.clone(),
        input.size,
        &input.norm,
        &device,
        &model.eval,
    )?;
    if !rows.left_out.is_empty() {
        eprintln!(
            "{} images could not be read and have no row",
            rows.left_out.len()
        );
    }
    write(&args.output, data.as_ref(), &rows)?;
    let table = args.output.with_extension("csv");
    files::write(&table, csv(data.as_ref(), &rows))?;
    eprintln!(
        "{name}, {} of {}, rows in {}",
        args.split,
        model.data.source,
        table.display()
    );
    println!("{} {:?}", args.output.display(), rows.values.dims());
    Ok(ExitCode::SUCCESS)
}

/// Writes the features, and the labels if the format can hold them.
fn write(output: &Path, data: &dyn Dataset, rows: &FeatureRows) -> Result<()> {
    match output.extension() {
        Some(kind) if kind == "npy" => files::write(output, npy(&rows.values)?)?,
        _ => {
            let mut out = WeightMap::default();
            out.insert("features", rows.values.clone());
            let labels = rows
                .images
                .iter()
                .map(|image| data.label(*image).map(i64::from));
            if let Some(labels) = labels
                .collect::<Option<Vec<_>>>()
                .filter(|_| data.classes() > 0)
            {
                out.insert("labels", Tensor::new(labels, &candle_core::Device::Cpu)?);
            }
            out.write(output, None)?;
        }
    }
    Ok(())
}

/// The content of numpy's `.npy` file (version 1.0) of a matrix of f32.
fn npy(values: &Tensor) -> Result<Vec<u8>> {
    let (rows, columns) = values.dims2()?;
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    // The values start at a multiple of 64 bytes, after the end of a line.
    let start = (PREFIX + header.len() + 1).next_multiple_of(64);
    header.extend(std::iter::repeat_n(' ', start - PREFIX - 1 - header.len()));
    header.push('\n');
    let length = u16::try_from(header.len()).unwrap_or(u16::MAX);
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend(header.as_bytes());
    for row in values.to_dtype(DType::F32)?.to_vec2::<f32>()? {
        bytes.extend(row.into_iter().flat_map(f32::to_le_bytes));
    }
    Ok(bytes)
}

/// Bytes before the header of a `.npy` file.
const PREFIX: usize = 10;

/// One line per row: its number, the name of the image, its label and the name of its class.
fn csv(data: &dyn Dataset, rows: &FeatureRows) -> String {
    let quoted = |text: &str| match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    };
    let mut table = "row,name,label,class\n".to_owned();
    for (row, image) in rows.images.iter().enumerate() {
        let label = data.label(*image);
        let class = label.and_then(|label| data.class_names().get(label as usize));
        let label = label.map_or(String::new(), |label| label.to_string());
        let class = class.map_or(String::new(), |class| quoted(class));
        table += &format!("{row},{},{label},{class}\n", quoted(&data.name_of(*image)));
    }
    table
}
