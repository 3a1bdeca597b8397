//! What is printed about the images before training.

use mim_core::data::Dataset;

use crate::run_config::Images;

/// Number of images whose sizes are read.
const LOOKED: usize = 16;

/// The images by split and class, and the sizes of some of them.
pub(super) fn images(images: &Images) -> Vec<String> {
    let train = images.train.as_ref();
    let mut line = format!("train: {}", counts(train));
    if let Some((which, held_out)) = &images.held_out {
        line += &format!("; {which}: {}", counts(held_out.as_ref()));
    }
    std::iter::once(line).chain(sizes(train)).collect()
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

/// Sizes of some images, spread over the data; `None` for point clouds, or if none can be read.
fn sizes(images: &dyn Dataset) -> Option<String> {
    let looked = LOOKED.min(images.len());
    let places = (0..looked).map(|place| place * images.len() / looked);
    let read = places.filter_map(|index| images.read(index).ok());
    let mut sizes: Vec<((usize, usize), usize)> = read
        .filter(|sample| !sample.is_cloud())
        .map(|sample| (sample.size(), sample.channels()))
        .collect();
    sizes.sort_by_key(|((height, width), _)| height * width);
    let text = |((height, width), _): &((usize, usize), usize)| format!("{height}x{width}");
    let (first, last) = (text(sizes.first()?), text(sizes.last()?));
    let range = match first == last {
        true => first,
        false => format!("from {first} to {last}"),
    };
    let channels = sizes.iter().map(|(_, channels)| channels);
    let (least, most) = (channels.clone().min()?, channels.max()?);
    let channels = match least == most {
        true => format!("{most} channels"),
        false => format!("{least} to {most} channels"),
    };
    let count = sizes.len();
    Some(format!(
        "sizes of {count} images: {range} pixels (height x width), {channels}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DataConfig;

    #[test]
    fn splits_classes_and_sizes_are_named() {
        let embedded = DataConfig::default().open(0).unwrap();
        let lines = images(&embedded);
        assert_eq!(lines.len(), 2);
        assert_eq!(
            lines[0],
            "train: 1000 images, 100 of each of 10 classes; test: 500 images, 50 of each of 10 classes"
        );
        assert_eq!(
            lines[1],
            "16 images looked at: 28x28 pixels (height x width), 1 channels"
        );
    }
}
