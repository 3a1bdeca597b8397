//! Which columns of a file are images and labels.

use ::parquet::basic::{ConvertedType, LogicalType, Type};
use ::parquet::file::metadata::FileMetaData;
use ::parquet::schema::types::ColumnDescriptor;
use serde_json::Value;

use crate::Text;

/// Names that columns of images have, the likelier first.
const IMAGES: [&str; 7] = ["image", "img", "jpg", "jpeg", "png", "webp", "pixels"];
const LABELS: [&str; 5] = ["label", "labels", "fine_label", "class", "target"];

/// Places of columns, and what the file says of them.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) image: usize,
    pub(super) label: Option<usize>,
    /// Names of the labels.
    pub(super) classes: Vec<String>,
}

impl Columns {
    /// Finds them by what Hugging Face's `datasets` notes in the file, else by their names.
    ///
    /// # Errors
    ///
    /// What is missing, and what to do.
    pub(super) fn find(file: &FileMetaData) -> Result<Self, (String, Text)> {
        let features = features(file);
        let columns: Vec<(usize, String, bool)> = file
            .schema_descr()
            .columns()
            .iter()
            .enumerate()
            .map(|(place, column)| (place, column.path().string(), column.max_rep_level() == 0))
            .collect();
        let kind = |place: usize| file.schema_descr().column(place);
        let find = |name: &str, fits: &dyn Fn(&ColumnDescriptor) -> bool| {
            let found = columns
                .iter()
                .find(|(place, path, is_single)| *is_single && path == name && fits(&kind(*place)));
            found.map(|(place, ..)| *place)
        };
        let image = names(&features, "Image", &IMAGES).find_map(|name| {
            find(&format!("{name}.bytes"), &is_bytes).or_else(|| find(&name, &is_bytes))
        });
        // A struct that holds bytes and a path is an image whatever its name.
        let image = image.or_else(|| {
            let structs = columns
                .iter()
                .filter_map(|(_, path, _)| path.strip_suffix(".bytes"));
            let mut images = structs.filter(|name| {
                columns
                    .iter()
                    .any(|(_, path, _)| *path == format!("{name}.path"))
            });
            images
                .next()
                .and_then(|name| find(&format!("{name}.bytes"), &is_bytes))
        });
        let Some(image) = image else {
            let names: Vec<&str> = columns.iter().map(|(_, path, _)| path.as_str()).collect();
            return Err((
                format!("has no column of images; its columns are {}", names.join(", ")),
                "it needs a column `image` of encoded images (JPEG, PNG, WebP): bytes, or a struct of bytes and path"
                    .into(),
            ));
        };
        let label = names(&features, "ClassLabel", &LABELS)
            .find_map(|name| Some((find(&name, &is_number)?, name)));
        let classes = label.as_ref().map_or_else(Vec::new, |(_, name)| {
            let names = features[name.as_str()]["names"].as_array();
            let names = names.into_iter().flatten().filter_map(Value::as_str);
            names.map(str::to_owned).collect()
        });
        Ok(Self {
            image,
            label: label.map(|(place, _)| place),
            classes,
        })
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

/// Columns noted as `kind`, those of a usual name first, then all usual names.
fn names(features: &Value, kind: &str, usual: &[&'static str]) -> impl Iterator<Item = String> {
    let noted = features.as_object().into_iter().flatten();
    let mut noted: Vec<String> = noted
        .filter(|(_, feature)| feature["_type"] == kind)
        .map(|(name, _)| name.clone())
        .collect();
    let rank = |name: &String| {
        usual
            .iter()
            .position(|usual| usual == name)
            .unwrap_or(usual.len())
    };
    noted.sort_by_key(rank);
    noted.extend(usual.iter().map(|name| (*name).to_owned()));
    noted.into_iter()
}

/// Whether values are bytes, not text.
fn is_bytes(column: &ColumnDescriptor) -> bool {
    let is_text = column.converted_type() == ConvertedType::UTF8
        || matches!(column.logical_type_ref(), Some(LogicalType::String));
    column.physical_type() == Type::BYTE_ARRAY && !is_text
}

fn is_number(column: &ColumnDescriptor) -> bool {
    matches!(column.physical_type(), Type::INT32 | Type::INT64)
}
