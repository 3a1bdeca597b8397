//! `data.range = "percentile"`: the usual range of the training images.

use mim_core::data::{Dataset, Split, ValueRange};
use mim_core::{Error, Result, settings};
use toml::{Table, Value};

use super::DataConfig;

/// The most images that are measured, spread over the data set, and the most values of each.
const IMAGES: usize = 2000;
const VALUES: usize = 4096;

/// Replaces `data.range = "percentile"` by the 1st and the 99th percentile, and returns a line that reports this.
pub(super) fn measure(table: &mut Table) -> Result<Option<String>> {
    let Some(data) = table.get_mut("data").and_then(Value::as_table_mut) else {
        return Ok(None);
    };
    if data.get("range").and_then(Value::as_str) != Some("percentile") {
        return Ok(None);
    }
    let config: DataConfig = settings::read("data", data.clone())?;
    let config = DataConfig {
        // Values as their files have them.
        range: Some(ValueRange::Bounds([0., 1.])),
        ..config
    };
    let images = config.open_source(Split::Train)?;
    let ([low, high], count) = percentiles(images.as_ref())?;
    data.insert("range".to_owned(), vec![low, high].into());
    Ok(Some(format!(
        "data.range = \"percentile\": [{low}, {high}], measured on {count} of {} images",
        images.len()
    )))
}

/// The 1st and the 99th percentile of values of all channels, and how many images were measured.
///
/// # Errors
///
/// If no image can be read, or the two are the same.
pub fn percentiles(images: &dyn Dataset) -> Result<([f64; 2], usize)> {
    let step = images.len().div_ceil(IMAGES).max(1);
    let (mut values, mut count, mut last) = (Vec::new(), 0, None);
    for index in (0..images.len()).step_by(step) {
        let sample = match images.read(index) {
            Ok(sample) => sample,
            Err(error) => {
                last = Some(error);
                continue;
            }
        };
        let all = sample.values();
        // A step that has no factor in common with the number of channels takes values of all of them.
        let step = stride(all.len().div_ceil(VALUES), sample.channels());
        values.extend(all.iter().step_by(step));
        count += 1;
    }
    if let (0, Some(error)) = (count, last) {
        return Err(error);
    }
    values.sort_unstable_by(f32::total_cmp);
    let at = |share: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place in a list"
        )]
        let place = (share * values.len().saturating_sub(1) as f64).round() as usize;
        values.get(place).map_or(0., |value| f64::from(*value))
    };
    let (low, high) = (at(0.01), at(0.99));
    if low < high {
        return Ok(([low, high], count));
    }
    let (value, why) = (
        "\"percentile\"",
        format!("99 of 100 values of the images are {low}"),
    );
    let fix = "write data.range = [low, high]";
    Err(Error::config("data", "range", value, why, fix))
}

/// The least step from `step` on that meets all channels in turn.
fn stride(step: usize, channels: usize) -> usize {
    let common = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    (step.max(1)..)
        .find(|step| common(*step, channels) == 1)
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mim_core::augment::Sample;

    #[derive(Debug)]
    struct Ramps;

    impl Dataset for Ramps {
        fn len(&self) -> usize {
            3
        }

        /// Two channels: a ramp from 0 to 9999, and -50.
        fn read(&self, _index: usize) -> Result<Sample> {
            let values = (0..20_000u16).map(|at| match at % 2 {
                0 => f32::from(at / 2),
                _ => -50.,
            });
            Sample::of_values(values.collect(), (100, 100), 2)
        }

        fn label(&self, _index: usize) -> Option<u32> {
            None
        }

        fn classes(&self) -> usize {
            0
        }
    }

    #[test]
    fn percentiles_are_of_all_channels() {
        let ([low, high], count) = percentiles(&Ramps).unwrap();
        assert_eq!((low, count), (-50., 3));
        // The upper half is the ramp, so the 99th percentile is the 98th of it.
        assert!((high - 9800.).abs() < 20., "{high}");
        assert_eq!([stride(4, 12), stride(1, 3), stride(5, 1)], [5, 1, 5]);
    }
}
