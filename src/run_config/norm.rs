//! `norm = "auto"`: mean and deviation of the training images.

use mim_core::data::{ChannelMoments, DataSource, Dataset, Split};
use mim_core::{Error, Norm, Result, settings};
use mim_methods::registry::{self, Entry};
use toml::{Table, Value};

use super::DataConfig;

/// Maximum number of images measured, spread over the data set.
const IMAGES: usize = 2000;
/// Mean and deviation of Fashion-MNIST's training images; the embedded images are a subset.
const EMBEDDED: (f64, f64) = (0.286, 0.353);

/// Whether the settings have `norm = "auto"`.
fn asks(table: &Table) -> bool {
    table.get("norm").and_then(Value::as_str) == Some("auto")
}

/// Replaces `norm = "auto"` by the values of the embedded images if no data is available.
pub(super) fn without_data(table: &mut Table, entry: &Entry) -> Result<()> {
    if asks(table) {
        let channels = channels(table, entry)?;
        put(table, &Norm::uniform(EMBEDDED.0, EMBEDDED.1, channels))?;
    }
    Ok(())
}

/// Replaces `norm = "auto"` by the mean and deviation of each channel over at most 2,000 whole training images, and
/// returns a line that reports this. The embedded images use Fashion-MNIST's values.
///
/// # Errors
///
/// If the images cannot be read, or all have one and the same colour.
pub(super) fn measure(table: &mut Table) -> Result<Option<String>> {
    if !asks(table) {
        return Ok(None);
    }
    let entry = registry::method(&super::method(table)?)?;
    let data = table.get("data").and_then(Value::as_table);
    let data: DataConfig = settings::read("data", data.cloned().unwrap_or_default())?;
    if data.source == DataSource::Embedded {
        return Ok(None);
    }
    let images = data.open_source(Split::Train)?;
    let (norm, count) = of_some(images.as_ref(), channels(table, entry)?)?;
    let line = format!(
        "norm = \"auto\": mean {:?}, std {:?}, measured on {count} of {} images",
        norm.mean,
        norm.std,
        images.len()
    );
    put(table, &norm)?;
    Ok(Some(line))
}

fn put(table: &mut Table, norm: &Norm) -> Result<()> {
    let value = Value::try_from(norm).map_err(|error| super::unwritable(&error))?;
    table.insert("norm".to_owned(), value);
    Ok(())
}

/// Number of channels of the encoder's images.
fn channels(table: &Table, entry: &Entry) -> Result<usize> {
    let mut model = Table::new();
    for key in ["arch", "encoder"] {
        if let Some(value) = table.get(key) {
            model.insert(key.to_owned(), value.clone());
        }
    }
    Ok(channels_of(&entry.resolve(model)?))
}

/// Number of channels in complete settings of a method: that of its encoder, or of its network.
pub(super) fn channels_of(model: &Table) -> usize {
    let channels = ["encoder", "network"].into_iter().find_map(|part| {
        let channels = model.get(part)?.get("in_channels")?.as_integer()?;
        usize::try_from(channels).ok()
    });
    channels.unwrap_or(3)
}

/// The norm of images with `channels` channels, and how many were measured.
fn of_some(images: &dyn Dataset, channels: usize) -> Result<(Norm, usize)> {
    let step = images.len().div_ceil(IMAGES).max(1);
    let some: Vec<usize> = (0..images.len()).step_by(step).collect();
    // Training counts and reports unreadable images.
    let (moments, _) = ChannelMoments::of(images, &some, channels)?;
    Ok((rounded(&of_images(&moments)?), moments.images()))
}

/// Four digits after the point, as in papers; of numbers below 0.01 four digits in all.
fn rounded(norm: &Norm) -> Norm {
    let digits = |value: &f64| match value.abs() {
        0.01.. => (value * 1e4).round() / 1e4,
        _ => format!("{value:.3e}").parse().unwrap_or(*value),
    };
    Norm {
        mean: norm.mean.iter().map(digits).collect(),
        std: norm.std.iter().map(digits).collect(),
        ..norm.clone()
    }
}

/// The norm of measured images.
///
/// # Errors
///
/// [`Error::InvalidConfig`] if a channel has the same value everywhere.
pub fn of_images(moments: &ChannelMoments) -> Result<Norm> {
    let std = moments.std();
    let is_flat = |(mean, deviation): (&f64, &f64)| *deviation <= 1e-7 * mean.abs();
    if let Some(flat) = moments.mean().iter().zip(&std).position(is_flat) {
        let (value, why) = (
            format!("{std:?}"),
            format!("channel {flat} has the same value in all images"),
        );
        let fix = "write norm = { mean = [..], std = [..] }";
        return Err(Error::config("settings", "norm", value, why, fix));
    }
    Ok(Norm {
        mean: moments.mean().to_vec(),
        std,
        ..Norm::uniform(0., 1., moments.mean().len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mim_core::data::MemoryDataset;

    #[test]
    fn channels_are_measured_separately() {
        // Two images of one pixel.
        let images = MemoryDataset::new(vec![0, 51, 255, 255, 102, 0], (1, 1), 3).unwrap();
        let (norm, count) = of_some(&images, 3).unwrap();
        assert_eq!((norm.mean, count), (vec![0.5, 0.3, 0.5], 2));
        assert_eq!(norm.std, [0.5, 0.1, 0.5]);
        let black = MemoryDataset::new(vec![0; 6], (1, 1), 3).unwrap();
        let error = of_some(&black, 3).unwrap_err().to_string();
        assert!(error.contains("channel 0 has the same value"), "{error}");
        let small = rounded(&Norm::uniform(0.012_345_6, 0.000_123_456, 1));
        assert_eq!((small.mean, small.std), (vec![0.0123], vec![0.000_123_5]));
    }
}
