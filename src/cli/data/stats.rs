//! `mim data stats`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mim_core::data::{ChannelMoments, DataSource, Dataset, Split};
use mim_core::{Error, Norm, Result, files, settings};
use toml::{Table, Value};

use crate::cli::folder;
use crate::{DataConfig, run_config};

/// Settings of `mim data stats`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Images, as in `mim pretrain --data`.
    data: DataSource,
    /// A setting of the data, such as data.range=dtype or data.array_layout=chw; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Channels to measure [default: those of the first image].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    channels: Option<u16>,
    /// Also write the table to this file: a new one, or a recipe without `norm`.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Threads; all cores by default.
    #[arg(long)]
    threads: Option<usize>,
}

impl Args {
    /// Threads asked for.
    pub(super) fn threads(&self) -> Option<usize> {
        self.threads
    }

    /// The settings of the data, with a measured range where one is asked for.
    fn config(&self) -> Result<DataConfig> {
        let source = self.data.to_string();
        let data = Table::from_iter([("source".to_owned(), Value::String(source))]);
        let mut table = Table::from_iter([("data".to_owned(), Value::Table(data))]);
        for setting in &self.set {
            settings::set(&mut table, setting)?;
        }
        if let Some(other) = table.keys().find(|key| *key != "data") {
            let (why, fix) = ("it is no setting of the data", "write data.KEY=VALUE");
            return Err(Error::config("command line", "--set", other, why, fix));
        }
        for line in run_config::measure(&mut table)? {
            eprintln!("{line}");
        }
        match table.remove("data") {
            Some(Value::Table(data)) => settings::read("data", data),
            _ => Ok(DataConfig::default()),
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let config = args.config()?;
    let old = args.write.as_deref().map(check_target).transpose()?;
    let images = config.open_source(Split::Train)?;
    for note in images.notes() {
        eprintln!("{note}");
    }
    let channels = match args.channels {
        Some(channels) => usize::from(channels),
        None => channels_of(images.as_ref())?,
    };
    let all: Vec<usize> = (0..images.len()).collect();
    let (moments, unreadable) = ChannelMoments::of(images.as_ref(), &all, channels)?;
    if let Some(error) = unreadable.first() {
        let count = unreadable.len();
        eprintln!(
            "warning: {count} of {} images cannot be read, such as: {error}",
            all.len()
        );
    }
    eprintln!("{} images of {channels} channels", moments.images());
    for (channel, ([low, high], mean)) in moments.range().iter().zip(moments.mean()).enumerate() {
        eprintln!("channel {channel}: from {low:.6} to {high:.6}, mean {mean:.6}");
    }
    let text = table(&run_config::norm_of(&moments)?);
    print!("{text}");
    if let (Some(path), Some(old)) = (&args.write, old) {
        files::write(path, format!("{old}{text}"))?;
        eprintln!("written to {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Channels of the first image that can be read.
fn channels_of(images: &dyn Dataset) -> Result<usize> {
    let mut last = None;
    for index in 0..images.len() {
        match images.read(index) {
            Ok(sample) => return Ok(sample.channels()),
            Err(error) => last = Some(error),
        }
    }
    Err(last
        .unwrap_or_else(|| Error::unsupported("measuring images", "there are none", "give images")))
}

/// The `norm` table as TOML. A table at the end of a file may follow any other.
fn table(norm: &Norm) -> String {
    let list = |values: &[f64]| {
        let values: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
        values.join(", ")
    };
    let mut text = String::from("[norm]\n");
    for (key, values) in [("mean", &norm.mean), ("std", &norm.std)] {
        let _ = writeln!(text, "{key} = [{}]", list(values));
    }
    text
}

/// What a file holds already, with an empty line behind it; nothing of a new one.
fn check_target(path: &Path) -> Result<String> {
    folder::check_parent(path)?;
    if !path.exists() {
        return Ok(String::new());
    }
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let table = text.parse::<Table>();
    let table =
        table.map_err(|error| Error::format(path, error.to_string(), "correct the TOML"))?;
    if table.contains_key("norm") {
        let fix = "remove its `norm`, or write to another file";
        return Err(Error::format(path, "has a `norm` already", fix));
    }
    Ok(format!("{}\n\n", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_back_to_the_bit() {
        let norm = Norm {
            mean: vec![0.1 + 0.2, 1e-9, 3.],
            std: vec![1. / 3., 123_456.789, 1e-7],
            ..Norm::imagenet()
        };
        let mut read: Table = table(&norm).parse().unwrap();
        let read: Norm = settings::read(
            "norm",
            match read.remove("norm") {
                Some(Value::Table(table)) => table,
                other => panic!("{other:?}"),
            },
        )
        .unwrap();
        assert_eq!(read, norm);
    }
}
