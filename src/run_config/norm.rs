//! `norm = "auto"`: mean and deviation of the training images.

use mim_core::augment::{Augment, ImageOp, ToChannels};
use mim_core::data::{DataSource, Dataset, Split};
use mim_core::rng::{Purpose, stream};
use mim_core::{Error, Norm, Result, settings};
use mim_methods::registry::{self, Entry};
use toml::{Table, Value};

use super::DataConfig;

/// Images that are measured at most, spread over the data set.
const IMAGES: usize = 2000;
/// Mean and deviation of Fashion-MNIST's training images, of which the embedded ones are an excerpt.
const EMBEDDED: (f64, f64) = (0.286, 0.353);

/// Whether settings ask for a measurement.
fn asks(table: &Table) -> bool {
    table.get("norm").and_then(Value::as_str) == Some("auto")
}

/// Replaces `norm = "auto"` by numbers where no data is at hand: those of the embedded images.
pub(super) fn without_data(table: &mut Table, entry: &Entry) -> Result<()> {
    if asks(table) {
        let channels = channels(table, entry)?;
        put(table, &Norm::uniform(EMBEDDED.0, EMBEDDED.1, channels))?;
    }
    Ok(())
}

/// Replaces `norm = "auto"` by mean and deviation of each channel of the training images, over whole images and at
/// most 2,000 of them; gives a line that says so. The embedded images have those of Fashion-MNIST.
///
/// # Errors
///
/// If the images cannot be read, or are all of one colour.
pub fn measure(table: &mut Table) -> Result<Option<String>> {
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
    let (norm, count) = of_images(images.as_ref(), channels(table, entry)?)?;
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

/// Channels of the encoder's images.
fn channels(table: &Table, entry: &Entry) -> Result<usize> {
    let mut model = Table::new();
    for key in ["arch", "encoder"] {
        if let Some(value) = table.get(key) {
            model.insert(key.to_owned(), value.clone());
        }
    }
    let model = entry.resolve(model)?;
    let channels = model
        .get("encoder")
        .and_then(|encoder| encoder.get("in_channels"));
    let channels = channels.and_then(Value::as_integer).unwrap_or(3);
    Ok(usize::try_from(channels).unwrap_or(3))
}

/// The norm of images in `channels` channels, and how many were measured.
fn of_images(images: &dyn Dataset, channels: usize) -> Result<(Norm, usize)> {
    let (mut sums, mut squares) = (vec![0f64; channels], vec![0f64; channels]);
    let (mut count, mut pixels, mut last) = (0, 0f64, None);
    let mut rng = stream(0, Purpose::Augment, [0, 0]);
    let step = images.len().div_ceil(IMAGES).max(1);
    for index in (0..images.len()).step_by(step) {
        // Training counts and names what cannot be read.
        let sample = match images.read(index) {
            Ok(sample) => sample,
            Err(error) => {
                last = Some(error);
                continue;
            }
        };
        let sample = Augment::ToChannels(ToChannels { channels }).apply(sample, &mut rng)?;
        let mut add = |at: usize, value: f64| {
            sums[at % channels] += value;
            squares[at % channels] += value * value;
        };
        let bytes = sample.pixels().iter().map(|byte| f64::from(*byte) / 255.);
        bytes.enumerate().for_each(|(at, value)| add(at, value));
        let values = sample.values().iter().map(|value| f64::from(*value));
        values.enumerate().for_each(|(at, value)| add(at, value));
        let (height, width) = sample.size();
        pixels += (height * width) as f64;
        count += 1;
    }
    if let (0, Some(error)) = (count, last) {
        return Err(error);
    }
    let means: Vec<f64> = sums.iter().map(|sum| sum / pixels).collect();
    let deviation = |(square, mean): (&f64, &f64)| (square / pixels - mean * mean).max(0.).sqrt();
    let deviations: Vec<f64> = squares.iter().zip(&means).map(deviation).collect();
    if !deviations.iter().all(|deviation| *deviation > 1e-4) {
        let (value, why) = (
            format!("{deviations:?}"),
            "the images are all of one colour",
        );
        let fix = "write norm = { mean = [..], std = [..] }";
        return Err(Error::config("settings", "norm", value, why, fix));
    }
    // Four digits, as papers give them.
    let rounded = |values: Vec<f64>| {
        values
            .iter()
            .map(|value| (value * 1e4).round() / 1e4)
            .collect()
    };
    let norm = Norm {
        mean: rounded(means),
        std: rounded(deviations),
        ..Norm::uniform(0., 1., channels)
    };
    Ok((norm, count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mim_core::data::MemoryDataset;

    #[test]
    fn channels_are_measured_apart() {
        // Two images of one pixel.
        let images = MemoryDataset::new(vec![0, 51, 255, 255, 102, 0], (1, 1), 3).unwrap();
        let (norm, count) = of_images(&images, 3).unwrap();
        assert_eq!((norm.mean, count), (vec![0.5, 0.3, 0.5], 2));
        assert_eq!(norm.std, [0.5, 0.1, 0.5]);
        let black = MemoryDataset::new(vec![0; 6], (1, 1), 3).unwrap();
        let error = of_images(&black, 3).unwrap_err().to_string();
        assert!(error.contains("all of one colour"), "{error}");
    }
}
