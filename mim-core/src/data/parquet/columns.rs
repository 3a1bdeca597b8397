//! Which columns of a file are images and labels.

use std::path::Path;

use ::parquet::basic::{ConvertedType, LogicalType, Type};
use ::parquet::file::metadata::FileMetaData;
use ::parquet::schema::types::ColumnDescriptor;
use serde_json::Value;

use super::super::Reading;
use super::super::labels::LABEL_COLUMNS;
use crate::{Error, Result};

/// Names that columns of images have, the likelier first.
const IMAGES: [&str; 7] = ["image", "img", "jpg", "jpeg", "png", "webp", "pixels"];

/// Places of columns, and what the file says of them.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) image: usize,
    /// Paths beside the images.
    pub(super) path: Option<usize>,
    pub(super) label: Option<usize>,
    /// Names of the labels.
    pub(super) classes: Vec<String>,
    /// What was chosen, and what could not be used.
    pub(super) notes: Vec<String>,
}

/// The columns of a file and what is noted of them.
struct Schema<'a> {
    file: &'a FileMetaData,
    columns: Vec<(usize, String, bool)>,
    features: Value,
}

impl Columns {
    /// Finds them by the names that `reading` gives, else by what Hugging Face's `datasets` notes in the file, else by
    /// their usual names. Of several columns of images the one of a usual name, else the first of the file is taken.
    ///
    /// # Errors
    ///
    /// [`Error::Format`] without a column of images; [`Error::InvalidConfig`] for a name that is not there or of another
    /// type.
    pub(super) fn find(path: &Path, file: &FileMetaData, reading: &Reading) -> Result<Self> {
        let columns = file.schema_descr().columns().iter().enumerate();
        let schema = Schema {
            file,
            columns: columns
                .map(|(place, column)| (place, column.path().string(), column.max_rep_level() == 0))
                .collect(),
            features: features(file),
        };
        let names = schema.images();
        let (image, name) = match (&reading.image_column, names.as_slice()) {
            (Some(name), _) => match schema.image(name) {
                Some(image) => (image, name.clone()),
                None => return Err(schema.refused(path, "image_column", name, "images")),
            },
            (None, [first, ..]) => first.clone(),
            (None, []) => {
                return Err(Error::format(
                    path,
                    format!(
                        "has no column of images; its columns are {}",
                        schema.names()
                    ),
                    "it needs a column `image` of encoded images (JPEG, PNG, WebP): bytes, or a struct of bytes and path",
                ));
            }
        };
        let mut notes = vec![];
        let others: Vec<String> = names
            .iter()
            .filter(|(_, other)| *other != name)
            .map(|(_, other)| format!("`{other}`"))
            .collect();
        if !others.is_empty() {
            let others = others.join(", ");
            notes.push(format!(
                "images are those of the column `{name}`; data.image_column chooses another: {others}"
            ));
        }
        let label = schema.label(path, reading, &mut notes)?;
        let classes = label.as_ref().map_or_else(Vec::new, |(_, name)| {
            let names = schema.features[name.as_str()]["names"].as_array();
            let names = names.into_iter().flatten().filter_map(Value::as_str);
            names.map(str::to_owned).collect()
        });
        Ok(Self {
            image,
            path: schema.single(&format!("{name}.path")),
            label: label.map(|(place, _)| place),
            classes,
            notes,
        })
    }
}

impl Schema<'_> {
    fn column(&self, place: usize) -> std::sync::Arc<ColumnDescriptor> {
        self.file.schema_descr().column(place)
    }

    /// The place of a column that has one value a row.
    fn single(&self, name: &str) -> Option<usize> {
        let mut columns = self.columns.iter();
        let found = columns.find(|(_, path, is_single)| *is_single && path == name)?;
        Some(found.0)
    }

    /// The place of the bytes of images in a column.
    fn image(&self, name: &str) -> Option<usize> {
        let bytes = |name: &str| {
            self.single(name)
                .filter(|place| is_bytes(&self.column(*place)))
        };
        bytes(&format!("{name}.bytes")).or_else(|| bytes(name))
    }

    /// All columns of images, the one to take first.
    fn images(&self) -> Vec<(usize, String)> {
        let mut found: Vec<(usize, String)> = vec![];
        // A struct that holds bytes and a path is an image whatever its name.
        let structs = self.columns.iter().filter_map(|(_, path, _)| {
            let name = path.strip_suffix(".bytes")?;
            self.single(&format!("{name}.path"))?;
            Some(name.to_owned())
        });
        for name in self.named("Image", &IMAGES).chain(structs) {
            if let Some(place) = self.image(&name)
                && !found.iter().any(|(other, _)| *other == place)
            {
                found.push((place, name));
            }
        }
        found
    }

    /// The column of labels and its name.
    fn label(
        &self,
        path: &Path,
        reading: &Reading,
        notes: &mut Vec<String>,
    ) -> Result<Option<(usize, String)>> {
        let usable = |name: &str| {
            let place = self.single(name)?;
            is_label(&self.column(place)).then(|| (place, name.to_owned()))
        };
        if let Some(name) = &reading.label_column {
            let refused = || self.refused(path, "label_column", name, "numbers, text or booleans");
            return usable(name).map(Some).ok_or_else(refused);
        }
        let found = self
            .named("ClassLabel", &LABEL_COLUMNS)
            .find_map(|name| usable(&name));
        let unusable = LABEL_COLUMNS.iter().find(|name| {
            let inner = format!("{name}.");
            let mut paths = self.columns.iter().map(|(_, path, _)| path);
            paths.any(|path| path == *name || path.starts_with(&inner))
        });
        if let (None, Some(name)) = (&found, unusable) {
            notes.push(format!(
                "the column `{name}` holds no number, text or boolean a row, so images are taken without labels; data.label_column chooses another"
            ));
        }
        Ok(found)
    }

    /// Columns noted as `kind`, those of a usual name first, else in the order of the file; then all usual names.
    fn named(&self, kind: &str, usual: &[&'static str]) -> impl Iterator<Item = String> {
        let noted = self.features.as_object().into_iter().flatten();
        let mut noted: Vec<String> = noted
            .filter(|(_, feature)| feature["_type"] == kind)
            .map(|(name, _)| name.clone())
            .collect();
        let rank = |name: &String| {
            let mut names = usual.iter();
            let usual = names.position(|usual| usual == name);
            let inner = format!("{name}.");
            let mut paths = self.columns.iter().map(|(_, path, _)| path);
            let place = paths.position(|path| path == name || path.starts_with(&inner));
            (usual.unwrap_or(usize::MAX), place)
        };
        noted.sort_by_key(rank);
        noted.extend(usual.iter().map(|name| (*name).to_owned()));
        noted.into_iter()
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self
            .columns
            .iter()
            .map(|(_, path, _)| path.as_str())
            .collect();
        names.join(", ")
    }

    fn refused(&self, path: &Path, setting: &'static str, name: &str, what: &str) -> Error {
        let (path, names) = (path.display(), self.names());
        let why = format!("{path} has no such column of {what}; its columns are {names}");
        Error::config("data", setting, name, why, "use one of them")
    }
}

/// What `datasets` says of the columns: an object by name.
fn features(file: &FileMetaData) -> Value {
    let pairs = file.key_value_metadata().into_iter().flatten();
    let note = pairs
        .filter(|pair| pair.key == "huggingface")
        .find_map(|pair| pair.value.as_deref());
    let note: Option<Value> = note.and_then(|json| serde_json::from_str(json).ok());
    note.map_or(Value::Null, |note| note["info"]["features"].clone())
}

/// Whether values are bytes, not text.
fn is_bytes(column: &ColumnDescriptor) -> bool {
    let is_text = column.converted_type() == ConvertedType::UTF8
        || matches!(column.logical_type_ref(), Some(LogicalType::String));
    column.physical_type() == Type::BYTE_ARRAY && !is_text
}

/// Whether values may be labels.
fn is_label(column: &ColumnDescriptor) -> bool {
    match column.physical_type() {
        Type::INT32 | Type::INT64 | Type::BOOLEAN => true,
        Type::BYTE_ARRAY => !is_bytes(column),
        _ => false,
    }
}
