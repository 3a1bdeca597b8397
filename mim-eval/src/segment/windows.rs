//! Cuts images of any size into windows for an encoder of one size.

use mim_core::augment::{CropBox, ImageOp, Interpolation, Sample, ToChannels, resize};
use mim_core::rng::{Purpose, stream};
use mim_core::{Error, Result};

use super::axis::Size;

/// How images are cut into windows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows {
    /// Height and width of a window.
    pub(super) size: Size,
    /// Distance between windows in pixels; the last window on an axis ends with the image.
    pub(super) stride: Size,
    /// Size to which the shorter side of an image is resized first.
    pub(super) short_side: Option<usize>,
}

impl Windows {
    /// The size at which an image is cut: its own or the configured one, but at least a window.
    pub(super) fn working_size(&self, (height, width): Size) -> Size {
        let scaled = |side: usize, to: usize, from: usize| (2 * side * to + from) / (2 * from);
        let shorter = height.min(width);
        let (tall, wide) = match self.short_side {
            Some(side) => (scaled(height, side, shorter), scaled(width, side, shorter)),
            None => (height, width),
        };
        let (least_tall, least_wide) = self.size;
        if tall >= least_tall && wide >= least_wide {
            return (tall, wide);
        }
        match least_tall * width >= least_wide * height {
            true => (
                least_tall,
                scaled(width, least_tall, height).max(least_wide),
            ),
            false => (
                scaled(height, least_wide, width).max(least_tall),
                least_wide,
            ),
        }
    }

    /// The image resized for cutting, with the encoder's channels.
    pub(super) fn prepared(&self, image: Sample, channels: usize) -> Result<Sample> {
        if image.is_cloud() {
            let (why, fix) = ("the data are point clouds", "use images");
            return Err(Error::unsupported("segmentation", why, fix));
        }
        let (whole, size) = (
            CropBox::whole(image.size()),
            self.working_size(image.size()),
        );
        let image = resize(image, whole, size, Interpolation::Bicubic)?;
        let mut rng = stream(0, Purpose::Augment, [0, 0]);
        ToChannels { channels }.apply(image, &mut rng)
    }

    /// Top and left of each window in an image of this working size.
    pub(super) fn places(&self, size: Size) -> Vec<Size> {
        let columns = starts(size.1, self.size.1, self.stride.1);
        let rows = starts(size.0, self.size.0, self.stride.0).into_iter();
        rows.flat_map(|top| columns.iter().map(move |left| (top, *left)))
            .collect()
    }

    /// Appends the bytes of a window, channel by channel.
    pub(super) fn cut(&self, image: &Sample, (top, left): Size, planes: &mut Vec<u8>) {
        let (channels, width) = (image.channels(), image.size().1);
        let (tall, wide) = self.size;
        for channel in 0..channels {
            for row in top..top + tall {
                let line = &image.pixels()[(row * width + left) * channels..][..wide * channels];
                planes.extend(line.iter().skip(channel).step_by(channels));
            }
        }
    }

    /// Appends the classes of a window, from a mask that is `width` pixels wide.
    pub(super) fn cut_mask(&self, mask: &[u8], width: usize, (top, left): Size, to: &mut Vec<u8>) {
        for row in top..top + self.size.0 {
            to.extend_from_slice(&mask[row * width + left..][..self.size.1]);
        }
    }
}

/// Starts of the windows along an axis that is at least as long as a window.
fn starts(length: usize, window: usize, stride: usize) -> Vec<usize> {
    let last = length - window;
    (0..last).step_by(stride).chain([last]).collect()
}

/// Resizes a mask by nearest neighbour.
pub(super) fn nearest(mask: &[u8], (height, width): Size, (tall, wide): Size) -> Vec<u8> {
    let source = |place: usize, from: usize, to: usize| (2 * place + 1) * from / (2 * to);
    let pixel =
        |row: usize, col: usize| mask[source(row, height, tall) * width + source(col, width, wide)];
    (0..tall)
        .flat_map(|row| (0..wide).map(move |col| pixel(row, col)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: Windows = Windows {
        size: (4, 4),
        stride: (3, 3),
        short_side: None,
    };

    #[test]
    fn windows_cover_the_image_and_end_with_it() {
        assert_eq!(starts(4, 4, 3), [0]);
        assert_eq!(starts(7, 4, 3), [0, 3]);
        assert_eq!(starts(9, 4, 3), [0, 3, 5]);
        assert_eq!(WINDOWS.places((4, 7)), [(0, 0), (0, 3)]);
    }

    #[test]
    fn images_have_at_least_the_size_of_a_window() {
        assert_eq!(WINDOWS.working_size((5, 9)), (5, 9));
        assert_eq!(WINDOWS.working_size((2, 3)), (4, 6));
        assert_eq!(WINDOWS.working_size((3, 1)), (12, 4));
        let scaled = Windows {
            short_side: Some(8),
            ..WINDOWS
        };
        assert_eq!(scaled.working_size((16, 20)), (8, 10));
    }

    #[test]
    fn pixels_and_classes_of_a_window_match() {
        let bytes: Vec<u8> = (0..5 * 6 * 3).collect();
        let image = Sample::new(bytes, (5, 6), 3).unwrap();
        let mask: Vec<u8> = (0..30).collect();
        let (mut planes, mut classes) = (vec![], vec![]);
        WINDOWS.cut(&image, (1, 2), &mut planes);
        WINDOWS.cut_mask(&mask, 6, (1, 2), &mut classes);
        assert_eq!(classes[..5], [8, 9, 10, 11, 14]);
        let red: Vec<u8> = classes.iter().map(|at| 3 * at).collect();
        let blue: Vec<u8> = classes.iter().map(|at| 3 * at + 2).collect();
        assert_eq!((&planes[..16], &planes[32..]), (&red[..], &blue[..]));
        assert_eq!(nearest(&[1, 2, 3, 4], (2, 2), (3, 4))[4..8], [3, 3, 4, 4]);
    }
}
