//! Masks: an order of tokens, split into visible and hidden.

mod tensors;

use crate::{Error, PatchGrid, Result};

/// Which tokens of each row are visible and which are hidden.
///
/// A row is an order of token ids; the first `keep` are visible and the rest are hidden
/// (mask value 1). This form covers shuffled, sorted, varying-count, disjoint and complementary
/// masks. `width() < grid.len()` is allowed: unlisted tokens are not used. With `k` masks per
/// image, rows are copy-major: all images under the first mask, then all under the second.
/// The data lives on the host; tensors are created on demand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    grid: PatchGrid,
    width: usize,
    order: Vec<u32>,
    keep: Vec<usize>,
}

impl Mask {
    /// A mask of `keep.len()` rows; `order` holds the token ids of each row, visible first.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the rows differ in length, an id is outside the grid or listed twice
    /// in a row, or `keep` exceeds the row.
    pub fn new(grid: PatchGrid, order: Vec<u32>, keep: Vec<usize>) -> Result<Self> {
        Self::checked(grid, order, keep, false)
    }

    /// As [`Mask::new`], but a token may be both visible and hidden in a row: parts of the prediction have been
    /// seen (I-JEPA).
    ///
    /// # Errors
    ///
    /// As [`Mask::new`], except for tokens in both parts.
    pub fn overlapping(grid: PatchGrid, order: Vec<u32>, keep: Vec<usize>) -> Result<Self> {
        Self::checked(grid, order, keep, true)
    }

    fn checked(
        grid: PatchGrid,
        order: Vec<u32>,
        keep: Vec<usize>,
        overlapping: bool,
    ) -> Result<Self> {
        let bad = |expected: String, got: String| {
            Error::shape(
                "mask",
                expected,
                got,
                "list each token of the grid at most once per row",
            )
        };
        let rows = keep.len();
        if rows == 0 || order.is_empty() || !order.len().is_multiple_of(rows) {
            let expected = format!("a multiple of {rows} (> 0) ids");
            return Err(bad(expected, format!("{} ids", order.len())));
        }
        let width = order.len() / rows;
        let mut seen = vec![usize::MAX; grid.len()];
        for (row, ids) in order.chunks(width).enumerate() {
            if keep[row] > width {
                return Err(bad(
                    format!("keep <= {width}"),
                    format!("keep {}", keep[row]),
                ));
            }
            for (place, &id) in ids.iter().enumerate() {
                let part = 2 * row + usize::from(overlapping && place >= keep[row]);
                match seen.get_mut(id as usize) {
                    Some(last) if *last != part => *last = part,
                    _ => {
                        return Err(bad(
                            format!("distinct ids below {}", grid.len()),
                            format!("id {id} in row {row}"),
                        ));
                    }
                }
            }
        }
        Ok(Self {
            grid,
            width,
            order,
            keep,
        })
    }

    /// A mask from 0/1 values, `[rows, tokens]` flattened, 1 = hidden; ids are ascending in both parts.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the length is not a multiple of the grid or a value is neither 0 nor 1.
    pub fn from_bits(grid: PatchGrid, bits: &[u8]) -> Result<Self> {
        let tokens = grid.len();
        if bits.is_empty() || !bits.len().is_multiple_of(tokens) || bits.iter().any(|&b| b > 1) {
            return Err(Error::shape(
                "mask bits",
                format!("a multiple of {tokens} values of 0 or 1"),
                format!("{} values", bits.len()),
                "give one value per token, 1 = hidden",
            ));
        }
        let mut order = Vec::with_capacity(bits.len());
        let mut keep = Vec::with_capacity(bits.len() / tokens);
        for row in bits.chunks(tokens) {
            let ids = |value: u8| {
                (0u32..)
                    .zip(row)
                    .filter(move |(_, b)| **b == value)
                    .map(|(id, _)| id)
            };
            let start = order.len();
            order.extend(ids(0));
            keep.push(order.len() - start);
            order.extend(ids(1));
        }
        Self::new(grid, order, keep)
    }

    /// The grid of the token ids.
    pub fn grid(&self) -> PatchGrid {
        self.grid
    }

    /// Number of tokens listed per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows: images times masks per image.
    pub fn rows(&self) -> usize {
        self.keep.len()
    }

    /// Number of masks for each of `images` images.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the rows are not a multiple of the images.
    pub fn copies(&self, images: usize) -> Result<usize> {
        if images == 0 || !self.rows().is_multiple_of(images) {
            return Err(Error::shape(
                "mask rows",
                format!("a multiple of the {images} images"),
                self.rows(),
                "sample the mask for this batch",
            ));
        }
        Ok(self.rows() / images)
    }

    /// Number of visible tokens per row, if it is the same in all rows.
    pub fn constant_keep(&self) -> Option<usize> {
        let first = *self.keep.first()?;
        self.keep.iter().all(|&k| k == first).then_some(first)
    }

    /// Ids of `row`'s visible tokens, in the mask's order.
    pub fn visible(&self, row: usize) -> &[u32] {
        &self.order[row * self.width..row * self.width + self.keep[row]]
    }

    /// Ids of `row`'s hidden tokens, in the mask's order.
    pub fn hidden(&self, row: usize) -> &[u32] {
        &self.order[row * self.width + self.keep[row]..(row + 1) * self.width]
    }

    /// Ids of one part of a row, in the mask's order.
    fn part(&self, row: usize, hidden: bool) -> &[u32] {
        if hidden {
            self.hidden(row)
        } else {
            self.visible(row)
        }
    }

    /// Number of hidden tokens over all rows.
    pub fn hidden_total(&self) -> usize {
        self.rows() * self.width - self.keep.iter().sum::<usize>()
    }

    /// Number of visible tokens per row.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if it differs between rows.
    pub fn exact_keep(&self) -> Result<usize> {
        self.constant_keep().ok_or_else(|| {
            Error::shape(
                "mask ids",
                "the same number of visible tokens in every row",
                format!("{:?}", self.keep),
                "use a masker with an exact count for encoders that drop tokens",
            )
        })
    }

    /// 1 for hidden tokens and 0 for all others, `[rows, tokens]` flattened, in image order.
    pub fn to_bits(&self) -> Vec<u8> {
        let tokens = self.grid.len();
        let mut bits = vec![0u8; self.rows() * tokens];
        for row in 0..self.rows() {
            for &id in self.hidden(row) {
                bits[row * tokens + id as usize] = 1;
            }
        }
        bits
    }

    /// If copies repeat the visible tokens of earlier copies: the shortest mask without repetitions, and the number of
    /// repetitions. `None` if nothing repeats. Encoders that drop hidden tokens need to see only these rows.
    pub fn distinct_visible(&self, images: usize) -> Option<(Self, usize)> {
        let rows = self.rows();
        let repeats = |period: &usize| {
            rows.is_multiple_of(*period)
                && (*period..rows).all(|row| self.visible(row) == self.visible(row % period))
        };
        let periods = (images.max(1)..rows).step_by(images.max(1));
        let period = periods.into_iter().find(repeats)?;
        let first = Self {
            grid: self.grid,
            width: self.width,
            order: self.order[..period * self.width].to_vec(),
            keep: self.keep[..period].to_vec(),
        };
        Some((first, rows / period))
    }

    /// The mask with visible and hidden swapped.
    pub fn complement(&self) -> Self {
        let mut order = self.order.clone();
        for (row, &keep) in order.chunks_mut(self.width).zip(&self.keep) {
            row.rotate_left(keep);
        }
        let keep = self.keep.iter().map(|k| self.width - k).collect();
        Self {
            grid: self.grid,
            width: self.width,
            order,
            keep,
        }
    }

    /// Upsamples to a finer grid: every token becomes a square of tokens.
    ///
    /// The visible (hidden) tokens of the result follow the order of the cells, row by row inside each cell.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if `finer` is not a whole multiple of this grid.
    pub fn upsample(&self, finer: PatchGrid) -> Result<Self> {
        let scale = self.grid.scale_to(finer)?;
        let area = scale * scale;
        let mut order = Vec::with_capacity(self.order.len() * area);
        for &id in &self.order {
            let (top, left) = (
                id as usize / self.grid.cols * scale,
                id as usize % self.grid.cols * scale,
            );
            for row in top..top + scale {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "ids fit the grid, and grids fit u32"
                )]
                order.extend((left..left + scale).map(|col| (row * finer.cols + col) as u32));
            }
        }
        let keep = self.keep.iter().map(|k| k * area).collect();
        Self::new(finer, order, keep)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    fn grid() -> PatchGrid {
        PatchGrid::new(2, 3)
    }

    #[test]
    fn visible_and_hidden_follow_the_given_order() {
        let mask = Mask::new(grid(), vec![4, 0, 5, 1, 2, 3], vec![2]).unwrap();
        assert_eq!(
            (mask.visible(0), mask.hidden(0)),
            (&[4, 0][..], &[5, 1, 2, 3][..])
        );
        assert_eq!(mask.to_bits(), [0, 1, 1, 1, 0, 1]);
    }

    #[test]
    fn refuses_ids_listed_twice_or_outside_the_grid() {
        assert!(Mask::new(grid(), vec![0, 0, 1], vec![1]).is_err());
        assert!(Mask::new(grid(), vec![0, 6], vec![1]).is_err());
        assert!(Mask::new(grid(), vec![0, 1], vec![3]).is_err());
    }

    #[test]
    fn overlapping_parts_are_refused_by_default() {
        let order = vec![0, 1, 1, 2];
        let grid = PatchGrid::new(2, 2);
        assert!(Mask::new(grid, order.clone(), vec![2]).is_err());
        let mask = Mask::overlapping(grid, order, vec![2]).unwrap();
        assert_eq!(
            (mask.visible(0), mask.hidden(0)),
            (&[0, 1][..], &[1, 2][..])
        );
        let error = mask.ids_restore(&Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("lists every token once"), "{error}");
        assert!(Mask::overlapping(grid, vec![0, 0, 1, 2], vec![2]).is_err());
    }

    #[test]
    fn rows_with_equal_visible_tokens_are_found() {
        // Two images with two masks each; the masks show the same and hide different patches.
        let order = vec![0, 1, 2, 3, 0, 2, 2, 1];
        let mask = Mask::new(PatchGrid::new(2, 2), order, vec![1; 4]).unwrap();
        let (first, times) = mask.distinct_visible(2).unwrap();
        assert_eq!((first.rows(), times), (2, 2));
        assert_eq!((first.visible(0), first.visible(1)), (&[0][..], &[2][..]));
        assert!(mask.distinct_visible(4).is_none());
        let other = Mask::new(PatchGrid::new(1, 2), vec![0, 1, 1, 0], vec![1; 2]).unwrap();
        assert!(other.distinct_visible(1).is_none());
    }

    #[test]
    fn flat_positions_are_copy_major() {
        let mask = Mask::from_bits(PatchGrid::new(1, 2), &[0, 1, 1, 0, 1, 1, 0, 0]).unwrap();
        let flat = mask
            .flat(true, 2, &Device::Cpu)
            .unwrap()
            .to_vec1::<u32>()
            .unwrap();
        assert_eq!(flat, [1, 2, 0, 1]); // rows: image 0, image 1, image 0 again, image 1 again
    }

    #[test]
    fn upsampling_repeats_cells() {
        let mask = Mask::from_bits(PatchGrid::new(1, 2), &[0, 1]).unwrap();
        assert_eq!(
            mask.upsample(PatchGrid::new(2, 4)).unwrap().to_bits(),
            [0, 0, 1, 1, 0, 0, 1, 1]
        );
        assert!(mask.upsample(PatchGrid::new(2, 3)).is_err());
    }

    proptest! {
        #[test]
        fn restore_inverts_order(bits in proptest::collection::vec(0u8..2, 12)) {
            let mask = Mask::from_bits(grid(), &bits).unwrap();
            prop_assert_eq!(&mask.to_bits(), &bits);
            prop_assert_eq!(mask.complement().to_bits(), bits.iter().map(|b| 1 - b).collect::<Vec<_>>());
            let order = mask.ids_order(&Device::Cpu).unwrap().to_vec2::<u32>().unwrap();
            let restore = mask.ids_restore(&Device::Cpu).unwrap().to_vec2::<u32>().unwrap();
            for (order, restore) in order.iter().zip(&restore) {
                for (token, &place) in restore.iter().enumerate() {
                    prop_assert_eq!(order[place as usize] as usize, token);
                }
            }
        }
    }
}
