//! TIFF pages with separate tiles for each channel.
//!
//! Tiles may reach beyond the last row of the image. The decoder takes this into account for the first channel only, so
//! the tiles are read one by one and joined here.

use tiff::TiffResult;
use tiff::decoder::ChunkType;
use tiff::tags::Tag;

use super::pages::{Reader, undecoded, values};
use crate::augment::Depth;

/// The most values of a page.
const MOST: usize = 1 << 29;
/// Value of the tag for channels that are stored one after another.
const APART: u16 = 2;

/// Whether the page is of that kind.
pub(super) fn are_of_channels(decoder: &mut Reader<'_>) -> TiffResult<bool> {
    let planes = decoder.find_tag_unsigned::<u16>(Tag::PlanarConfiguration)?;
    Ok(planes == Some(APART) && decoder.get_chunk_type() == ChunkType::Tile)
}

/// The values of a page, channel by channel, and their type.
///
/// # Errors
///
/// What is wrong with the page.
pub(super) fn read(
    decoder: &mut Reader<'_>,
    (height, width): (usize, usize),
) -> Result<(Vec<f32>, Depth), String> {
    let (wide, high) = decoder.chunk_dimensions();
    let (wide, high) = (wide as usize, high as usize);
    if wide == 0 || high == 0 {
        return Err("has tiles without a size".to_owned());
    }
    let (across, down) = (width.div_ceil(wide), height.div_ceil(high));
    let count = decoder.tile_count().map_err(|error| undecoded(&error))?;
    let channels = count as usize / (across * down).max(1);
    let all = channels.saturating_mul(height).saturating_mul(width);
    if all > MOST {
        return Err(format!("has more than {MOST} values"));
    }
    let (mut planes, mut depth) = (vec![0f32; all], Depth::U8);
    for tile in 0..channels * across * down {
        let number = u32::try_from(tile).map_err(|error| error.to_string())?;
        let (cols, rows) = decoder.chunk_data_dimensions(number);
        let read = decoder.read_chunk(number);
        let (part, found) = values(read.map_err(|error| undecoded(&error))?)?;
        if part.len() != cols as usize * rows as usize {
            return Err("has tiles of fewer than 8 bits a value".to_owned());
        }
        let (channel, place) = (tile / (across * down), tile % (across * down));
        let (top, left) = (place / across * high, place % across * wide);
        let lines = part.chunks_exact(cols as usize).take(height - top);
        for (row, line) in lines.enumerate() {
            let start = (channel * height + top + row) * width + left;
            planes[start..][..line.len()].copy_from_slice(line);
        }
        depth = found;
    }
    Ok((planes, depth))
}
