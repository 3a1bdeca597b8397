//! The rows of a list: paths, and perhaps labels and splits.

use std::ffi::OsStr;
use std::path::Path;

use csv_core::ReadRecordResult;
use serde_json::Value;

use super::super::labels::LABEL_COLUMNS;
use super::super::{Reading, Split};
use crate::{Error, Result, files};

const IMAGE_COLUMNS: [&str; 9] = [
    "file_name",
    "filename",
    "file",
    "path",
    "filepath",
    "file_path",
    "image",
    "image_path",
    "img",
];
const SPLIT_COLUMNS: [&str; 4] = ["split", "set", "subset", "partition"];
/// Endings of lists.
pub(super) const ENDINGS: [&str; 7] = ["txt", "lst", "csv", "tsv", "tab", "jsonl", "ndjson"];

/// A row of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) path: String,
    pub(super) label: Option<String>,
    /// As it is written.
    pub(super) split: Option<String>,
}

/// The rows of a list, and the columns that were taken.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) rows: Vec<Row>,
    /// Whether a column says the split of each row.
    pub(super) has_splits: bool,
    pub(super) note: Option<String>,
}

/// Reads a list; the ending of its name says its form.
pub(super) fn read(path: &Path, reading: &Reading) -> Result<Rows> {
    let bytes = files::read(path)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::format(path, "is not written in UTF-8", "save it as UTF-8"))?;
    let text = text.trim_start_matches('\u{feff}');
    let rows = match ending(path).as_str() {
        "csv" | "tsv" | "tab" => of_columns(path, text, reading)?,
        "jsonl" | "ndjson" => of_objects(path, text, reading)?,
        _ => of_lines(path, text, reading)?,
    };
    if rows.rows.is_empty() {
        return Err(Error::format(
            path,
            "lists no images",
            "add a line for each image",
        ));
    }
    Ok(rows)
}

/// The ending of a file's name, in lower case.
pub(super) fn ending(path: &Path) -> String {
    let ending = path.extension().and_then(OsStr::to_str);
    ending.unwrap_or_default().to_lowercase()
}

/// A path a line.
fn of_lines(path: &Path, text: &str, reading: &Reading) -> Result<Rows> {
    let column = reading
        .image_column
        .as_ref()
        .or(reading.label_column.as_ref());
    if let Some(column) = column {
        let what = format!("has a path a line and no columns, so none called {column}");
        let fix = "leave data.image_column and data.label_column out, or give a .csv, .tsv or .jsonl file";
        return Err(Error::format(path, what, fix));
    }
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    Ok(Rows {
        rows: lines
            .map(|line| Row {
                path: line.to_owned(),
                label: None,
                split: None,
            })
            .collect(),
        has_splits: false,
        note: None,
    })
}

/// A table with a line of names of columns.
fn of_columns(path: &Path, text: &str, reading: &Reading) -> Result<Rows> {
    let first = text.lines().next().unwrap_or_default();
    let delimiter = match ending(path).as_str() {
        // Programs of many languages write `;` where the comma separates decimals.
        "csv" if first.contains(';') && !first.contains(',') => b';',
        "csv" => b',',
        _ => b'\t',
    };
    let mut records = records(text, delimiter).into_iter();
    let (_, header) = records.next().unwrap_or_default();
    let header: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
    let columns = Columns::find(path, &header, reading)?;
    let mut rows = Vec::new();
    for (line, record) in records {
        if record.len() != header.len() {
            let (cells, names) = (record.len(), header.len());
            let what = format!("line {line} has {cells} cells, and the first line {names}");
            return Err(Error::format(
                path,
                what,
                "correct that line; cells with a comma need quotes",
            ));
        }
        let cell = |place: Option<usize>| {
            let text = place.and_then(|place| record.get(place))?.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        let Some(image) = cell(Some(columns.image)) else {
            let what = format!("line {line} has no path");
            return Err(Error::format(path, what, "add it, or remove the line"));
        };
        rows.push(Row {
            path: image,
            label: cell(columns.label),
            split: cell(columns.split),
        });
    }
    Ok(Rows {
        rows,
        has_splits: columns.split.is_some(),
        note: columns.note(&header),
    })
}

/// The lines of a table and the cells of each; empty lines are skipped.
fn records(text: &str, delimiter: u8) -> Vec<(u64, Vec<String>)> {
    let mut reader = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
    let mut input = text.as_bytes();
    // Cells are never longer than what they are written in, nor more than its bytes.
    let (mut cells, mut ends) = (vec![0; input.len() + 1], vec![0; 16]);
    let (mut filled, mut count) = (0, 0);
    let mut records = Vec::new();
    loop {
        let line = reader.line();
        let (result, read, written, ended) =
            reader.read_record(input, &mut cells[filled..], &mut ends[count..]);
        (input, filled, count) = (&input[read..], filled + written, count + ended);
        match result {
            ReadRecordResult::InputEmpty | ReadRecordResult::OutputFull => {}
            ReadRecordResult::OutputEndsFull => ends.resize(2 * ends.len(), 0),
            ReadRecordResult::Record => {
                let starts = std::iter::once(&0).chain(&ends);
                let cell = |(from, to): (&usize, &usize)| {
                    String::from_utf8_lossy(&cells[*from..*to]).into_owned()
                };
                let record = starts.zip(&ends[..count]).map(cell).collect();
                records.push((line, record));
                (filled, count) = (0, 0);
            }
            ReadRecordResult::End => return records,
        }
    }
}

/// A JSON object a line.
fn of_objects(path: &Path, text: &str, reading: &Reading) -> Result<Rows> {
    let mut objects = Vec::new();
    let mut header: Vec<String> = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        if line.trim().is_empty() {
            continue;
        }
        let object: serde_json::Map<String, Value> = serde_json::from_str(line).map_err(|error| {
            let what = format!("line {number} is no JSON object: {error}");
            Error::format(path, what, "write an object a line, such as {\"file_name\": \"a.jpg\", \"label\": \"cat\"}")
        })?;
        for name in object.keys() {
            if !header.contains(name) {
                header.push(name.clone());
            }
        }
        objects.push((number, object));
    }
    let columns = Columns::find(path, &header, reading)?;
    let mut rows = Vec::new();
    for (number, object) in objects {
        let cell = |place: Option<usize>| match place.and_then(|place| object.get(&header[place])) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Bool(value)) => Ok(Some(value.to_string())),
            Some(Value::Number(value)) => Ok(Some(value.to_string())),
            Some(other) => Err(Error::format(
                path,
                format!("line {number}: {other} is no text, number or boolean"),
                "name another column by data.image_column and data.label_column",
            )),
        };
        let Some(image) = cell(Some(columns.image))? else {
            let what = format!("line {number} has no path");
            return Err(Error::format(path, what, "add it, or remove the line"));
        };
        rows.push(Row {
            path: image,
            label: cell(columns.label)?,
            split: cell(columns.split)?,
        });
    }
    Ok(Rows {
        rows,
        has_splits: columns.split.is_some(),
        note: columns.note(&header),
    })
}

/// Places of columns.
struct Columns {
    image: usize,
    label: Option<usize>,
    split: Option<usize>,
}

impl Columns {
    fn find(path: &Path, header: &[String], reading: &Reading) -> Result<Self> {
        let named = |setting: &'static str, name: &Option<String>, usual: &[&str]| {
            let Some(name) = name else {
                let place = |usual: &&str| {
                    let mut names = header.iter();
                    names.position(|name| name.eq_ignore_ascii_case(usual))
                };
                return Ok(usual.iter().find_map(place));
            };
            let place = header.iter().position(|column| column == name);
            place.map(Some).ok_or_else(|| {
                let why = format!("{} has the columns {}", path.display(), header.join(", "));
                Error::config("data", setting, name, why, "use one of them")
            })
        };
        let image = named("image_column", &reading.image_column, &IMAGE_COLUMNS)?;
        let image = image.ok_or_else(|| {
            let what = format!("has no column of paths; its columns are {}", header.join(", "));
            let fix = "name it by data.image_column, or give the table a first line with `path` and `label`";
            Error::format(path, what, fix)
        })?;
        Ok(Self {
            image,
            label: named("label_column", &reading.label_column, &LABEL_COLUMNS)?,
            split: named("", &None, &SPLIT_COLUMNS)?,
        })
    }

    fn note(&self, header: &[String]) -> Option<String> {
        let name = |place: usize| format!("`{}`", header[place]);
        let label = self.label.map_or("none".to_owned(), name);
        let image = name(self.image);
        Some(format!(
            "paths are those of the column {image}, labels: {label}"
        ))
    }
}

/// The split that a row is of; none if its word is not known.
pub(super) fn split(row: &Row) -> Option<Split> {
    row.split.as_deref().and_then(Split::of_name)
}
