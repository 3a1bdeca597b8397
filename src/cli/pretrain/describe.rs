//! What is printed about the images before training.

use mim_core::augment::{Depth, Sample};
use mim_core::data::{Dataset, ValueRange};

use crate::DataConfig;
use crate::run_config::Images;

/// Number of images whose sizes are read.
const LOOKED: usize = 16;

/// The images by split and class, and what some of them look like.
pub(super) fn images(images: &Images, data: &DataConfig) -> Vec<String> {
    let train = images.train.as_ref();
    let mut line = format!("train: {}", counts(train));
    if let Some((which, held_out)) = &images.held_out {
        line += &format!("; {which}: {}", counts(held_out.as_ref()));
    }
    std::iter::once(line).chain(looks(train, data)).collect()
}

/// The number of images, and of those in the smallest and largest class.
fn counts(images: &dyn Dataset) -> String {
    let count = images.len();
    if images.classes() == 0 {
        return format!("{count} images without labels");
    }
    let mut of_class = vec![0; images.classes()];
    let labels = (0..count).filter_map(|index| images.label(index));
    for label in labels {
        if let Some(count) = of_class.get_mut(label as usize) {
            *count += 1;
        }
    }
    let name = |class: usize| {
        let name = images.class_names().get(class);
        name.map_or_else(|| format!("class {class}"), |name| format!("`{name}`"))
    };
    let places = || of_class.iter().enumerate();
    let least = places().min_by_key(|(_, count)| **count);
    let most = places().max_by_key(|(_, count)| **count);
    match (least, most) {
        (Some((_, fewest)), Some((_, most))) if fewest == most => {
            format!(
                "{count} images, {most} of each of {} classes",
                of_class.len()
            )
        }
        (Some((few, fewest)), Some((many, most))) => format!(
            "{count} images of {} classes, from {fewest} ({}) to {most} ({})",
            of_class.len(),
            name(few),
            name(many)
        ),
        _ => format!("{count} images"),
    }
}

/// What an image looked like.
struct Look {
    size: (usize, usize),
    channels: usize,
    depth: Depth,
    is_deep: bool,
    /// The least and the greatest value, of bytes from 0 to 1.
    range: [f32; 2],
}

impl Look {
    fn at(sample: &Sample) -> Self {
        let ends = [f32::INFINITY, f32::NEG_INFINITY];
        let widen = |[low, high]: [f32; 2], value: f32| [low.min(value), high.max(value)];
        let bytes = sample.pixels().iter().map(|byte| f32::from(*byte) / 255.);
        Self {
            size: sample.size(),
            channels: sample.channels(),
            depth: sample.depth(),
            is_deep: sample.is_deep(),
            range: bytes
                .chain(sample.values().iter().copied())
                .fold(ends, widen),
        }
    }
}

/// Sizes, channels, depth and values of some images, spread over all; nothing of point clouds, or if none can be read.
fn looks(images: &dyn Dataset, data: &DataConfig) -> Vec<String> {
    let looked = LOOKED.min(images.len());
    let places = (0..looked).map(|place| place * images.len() / looked);
    let read = places.filter_map(|index| images.read(index).ok());
    let read = read.filter(|sample| !sample.is_cloud());
    let mut looks: Vec<Look> = read.map(|sample| Look::at(&sample)).collect();
    looks.sort_by_key(|look| look.size.0 * look.size.1);
    let (Some(first), Some(last)) = (looks.first(), looks.last()) else {
        return vec![];
    };
    let text = |(height, width): (usize, usize)| format!("{height}x{width}");
    let sizes = match first.size == last.size {
        true => text(first.size),
        false => format!("from {} to {}", text(first.size), text(last.size)),
    };
    let counts = || looks.iter().map(|look| look.channels);
    let (least, most) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
    let channels = match (least, most) {
        (1, 1) => "1 channel".to_owned(),
        (least, most) if least == most => format!("{most} channels"),
        (least, most) => format!("{least} to {most} channels"),
    };
    let mut depths: Vec<String> = looks.iter().map(|look| look.depth.to_string()).collect();
    depths.sort_unstable();
    depths.dedup();
    let values = match (first.is_deep, depths.as_slice()) {
        (false, [only]) if only == "u8" => String::new(),
        (false, _) => ", read as u8".to_owned(),
        (true, _) => {
            let [low, high] = range(&looks);
            format!(", values from {low} to {high} where data.range is from 0 to 1")
        }
    };
    let line = format!(
        "{} images looked at: {sizes} pixels (height x width), {channels} of {}{values}",
        looks.len(),
        depths.join(" and "),
    );
    std::iter::once(line).chain(narrow(&looks, data)).collect()
}

/// The least and the greatest value of all.
fn range(looks: &[Look]) -> [f32; 2] {
    let ends = [f32::INFINITY, f32::NEG_INFINITY];
    looks.iter().fold(ends, |[low, high], look| {
        [low.min(look.range[0]), high.max(look.range[1])]
    })
}

/// The share of the type's range below which images are nearly black, such as those of 12 bits in 16.
const SMALL: f64 = 1. / 8.;

/// A warning if images have a small part of the values that their type can have, and nobody said so.
fn narrow(looks: &[Look], data: &DataConfig) -> Option<String> {
    let depth = looks.iter().map(|look| look.depth).max()?;
    let is_said = !matches!(data.range, None | Some(ValueRange::Dtype));
    let (full, high) = (depth.largest()?, f64::from(range(looks)[1]));
    if is_said || !(0. ..SMALL).contains(&high) {
        return None;
    }
    // Of 16 bits in a byte, only the upper ones are known.
    let is_cut = looks.iter().any(|look| !look.is_deep) && depth != Depth::U8;
    let (most, greatest) = match is_cut {
        true => ("at most ", ((high * 255. + 1.) * 256. - 1.).round()),
        false => ("", (high * full).round()),
    };
    // The range of whole bits: 4095 for 12 of them.
    let bits = (greatest + 1.).log2().ceil().max(1.);
    let wanted = bits.exp2() - 1.;
    Some(format!(
        "warning: the greatest value of the images looked at is {most}{greatest} of {full}: they are nearly black; \
         set data.range, such as [0, {wanted}]"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mim_core::data::MemoryDataset;

    #[test]
    fn splits_classes_and_sizes_are_named() {
        let data = DataConfig::default();
        let lines = images(&data.open(0).unwrap(), &data);
        assert_eq!(lines.len(), 2);
        assert_eq!(
            lines[0],
            "train: 1000 images, 100 of each of 10 classes; test: 500 images, 50 of each of 10 classes"
        );
        assert_eq!(
            lines[1],
            "16 images looked at: 28x28 pixels (height x width), 1 channel of u8"
        );
    }

    #[test]
    fn dark_images_are_warned_of_unless_a_range_is_said() {
        let dark = MemoryDataset::new(vec![0, 15, 3, 2], (2, 2), 1).unwrap();
        let mut data = DataConfig::default();
        let lines = looks(&dark, &data);
        assert!(
            lines[1].contains("15 of 255") && lines[1].contains("[0, 15]"),
            "{lines:?}"
        );
        data.range = Some(ValueRange::Bounds([0., 15.]));
        assert_eq!(looks(&dark, &data).len(), 1);
        let bright = MemoryDataset::new(vec![0, 64], (1, 2), 1).unwrap();
        assert_eq!(looks(&bright, &DataConfig::default()).len(), 1);
    }
}
