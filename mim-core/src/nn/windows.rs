//! Square windows over a token grid, shifted or not.

use candle_core::{D, Device, Tensor};

use crate::{Error, PatchGrid, Result, ops};

/// Cuts tokens into windows and puts them back (Swin: Liu et al., ICCV 2021, Sec. 3.2).
///
/// If windows do not tile the grid, it is padded at the right and bottom with zero tokens, which
/// take part like others and are removed afterwards. A shift then rolls the grid up and left,
/// cyclically. Partition and reverse are each one row gather, so the tokens are copied once.
#[derive(Debug, Clone)]
pub struct Windows {
    grid: PatchGrid,
    /// The grid tiled by the windows.
    padded: PatchGrid,
    side: usize,
    shift: usize,
    /// Token order of the windows; `None` if it is the existing order.
    orders: Option<Orders>,
}

#[derive(Debug, Clone)]
struct Orders {
    there: Vec<u32>,
    back: Vec<u32>,
}

impl Windows {
    /// Added to the logits of tokens that are neighbours only because of the roll.
    const APART: f32 = -100.;

    /// Windows of `side` x `side` tokens over `grid`, rolled by `shift` tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the windows do not tile the grid or the shift is not below the side.
    pub fn new(grid: PatchGrid, side: usize, shift: usize) -> Result<Self> {
        let tiles = |length: usize| length > 0 && length.is_multiple_of(side.max(1));
        if side == 0 || shift >= side || !tiles(grid.rows) || !tiles(grid.cols) {
            return Err(Error::shape(
                "windows",
                format!("whole windows of {side}x{side} tokens, shifted by less than {side}"),
                format!("a grid of {grid}, shifted by {shift}"),
                "choose a window that divides both sides of the grid",
            ));
        }
        Self::padded(grid, side, shift)
    }

    /// Windows for any grid, padded to whole windows.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the grid is empty or the shift is not below the side.
    pub fn padded(grid: PatchGrid, side: usize, shift: usize) -> Result<Self> {
        if shift >= side || grid.len() == 0 {
            return Err(Error::shape(
                "windows",
                format!("windows of {side}x{side} tokens, shifted by less than {side}"),
                format!("a grid of {grid}, shifted by {shift}"),
                "choose a larger window or a smaller shift",
            ));
        }
        let whole = |length: usize| length.next_multiple_of(side);
        let padded = PatchGrid::new(whole(grid.rows), whole(grid.cols));
        let mut windows = Self {
            grid,
            padded,
            side,
            shift,
            orders: None,
        };
        if shift > 0 || padded.cols > side || padded != grid {
            let there = windows.order();
            let mut back = vec![0u32; grid.len()];
            for (place, &token) in (0u32..).zip(&there) {
                if let Some(back) = back.get_mut(token as usize) {
                    *back = place;
                }
            }
            windows.orders = Some(Orders { there, back });
        }
        Ok(windows)
    }

    /// Number of windows.
    #[expect(clippy::len_without_is_empty, reason = "a grid is never empty")]
    pub fn len(&self) -> usize {
        self.padded.len() / self.area()
    }

    /// Tokens of a window.
    pub fn area(&self) -> usize {
        self.side * self.side
    }

    /// Positions (row, column) in the rolled grid, window by window, row by row inside each.
    fn places(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let (side, across) = (self.side, self.padded.cols / self.side);
        (0..self.padded.len()).map(move |place| {
            let (window, inside) = (place / self.area(), place % self.area());
            (
                window / across * side + inside / side,
                window % across * side + inside % side,
            )
        })
    }

    /// The token at each position; the number of tokens marks padding.
    fn order(&self) -> Vec<u32> {
        let token = |(row, col): (usize, usize)| {
            let (row, col) = (row + self.shift, col + self.shift);
            let (row, col) = (row % self.padded.rows, col % self.padded.cols);
            match row < self.grid.rows && col < self.grid.cols {
                true => row * self.grid.cols + col,
                false => self.grid.len(),
            }
        };
        #[expect(clippy::cast_possible_truncation, reason = "grids fit u32")]
        self.places().map(|place| token(place) as u32).collect()
    }

    /// `[rows, tokens, dim]` to `[rows * windows, window tokens, dim]`, image by image.
    ///
    /// # Errors
    ///
    /// If the number of tokens does not match the grid.
    pub fn partition(&self, xs: &Tensor) -> Result<Tensor> {
        let (rows, _, dim) = xs.dims3()?;
        self.check(xs, self.grid.len())?;
        let xs = match &self.orders {
            Some(orders) => gather_padded(xs, &orders.there)?,
            None => xs.clone(),
        };
        Ok(xs.reshape((rows * self.len(), self.area(), dim))?)
    }

    /// The inverse of [`Windows::partition`]: `[rows * windows, window tokens, dim]` to `[rows, tokens, dim]`.
    ///
    /// # Errors
    ///
    /// If the rows are not whole images in windows.
    pub fn reverse(&self, xs: &Tensor) -> Result<Tensor> {
        let dim = xs.dim(D::Minus1)?;
        let xs = xs.reshape(((), self.padded.len(), dim))?;
        match &self.orders {
            Some(orders) => Ok(ops::gather_tokens(&xs, &orders.back)?),
            None => Ok(xs),
        }
    }

    fn check(&self, xs: &Tensor, tokens: usize) -> Result<()> {
        if xs.dim(1)? == tokens {
            return Ok(());
        }
        Err(Error::shape(
            "windows",
            format!("[rows, {tokens} tokens, dim]"),
            xs.dims(),
            "give the tokens of the grid that the windows were built for",
        ))
    }

    /// The mask that separates tokens which only the roll made neighbours, `[windows, 1, area, area]`:
    /// 0 if query and key were neighbours before, -100 otherwise; `None` without a shift.
    ///
    /// Both axes of the rolled grid are cut at `-side` and `-shift` into regions; pairs from
    /// different regions are separated.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn shift_mask(&self, device: &Device) -> Result<Option<Tensor>> {
        if self.shift == 0 {
            return Ok(None);
        }
        let region = |at: usize, length: usize| {
            usize::from(at >= length - self.side) + usize::from(at >= length - self.shift)
        };
        let regions: Vec<usize> = self
            .places()
            .map(|(row, col)| 3 * region(row, self.padded.rows) + region(col, self.padded.cols))
            .collect();
        let mut mask = Vec::with_capacity(self.padded.len() * self.area());
        for window in regions.chunks(self.area()) {
            for query in window {
                let apart = |key: &usize| if key == query { 0. } else { Self::APART };
                mask.extend(window.iter().map(apart));
            }
        }
        let shape = (self.len(), 1, self.area(), self.area());
        Ok(Some(ops::upload(mask, shape, device)?))
    }
}

/// Tokens `order` of every row of `[rows, tokens, dim]`; id `tokens` gives zeros.
///
/// # Errors
///
/// As [`ops::gather_tokens`].
pub(crate) fn gather_padded(xs: &Tensor, order: &[u32]) -> Result<Tensor> {
    let (rows, tokens, dim) = xs.dims3()?;
    if order.iter().all(|id| (*id as usize) < tokens) {
        return Ok(ops::gather_tokens(xs, order)?);
    }
    let zeros = Tensor::zeros((rows, 1, dim), xs.dtype(), xs.device())?;
    Ok(ops::gather_tokens(&Tensor::cat(&[xs, &zeros], 1)?, order)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;
    use proptest::prelude::*;

    fn counting(rows: usize, tokens: usize) -> Tensor {
        let values: Vec<f32> = (0u16..).map(f32::from).take(rows * tokens).collect();
        Tensor::from_vec(values, (rows, tokens, 1), &Device::Cpu).unwrap()
    }

    fn values(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn windows_come_row_by_row_and_a_shift_rolls_up_and_left() {
        let plain = Windows::new(PatchGrid::new(2, 4), 2, 0).unwrap();
        let cut = plain.partition(&counting(2, 8)).unwrap();
        assert_eq!(cut.dims(), [4, 4, 1]);
        assert_eq!(
            values(&cut.narrow(0, 0, 2).unwrap()),
            [0., 1., 4., 5., 2., 3., 6., 7.]
        );
        let shifted = Windows::new(PatchGrid::new(2, 4), 2, 1).unwrap();
        let cut = shifted.partition(&counting(1, 8)).unwrap();
        assert_eq!(values(&cut), [5., 6., 1., 2., 7., 4., 3., 0.]);
    }

    #[test]
    fn rolled_neighbours_are_separated() {
        // Effectively 1-D: each window row has two tokens, which meet only across the edge in the last window.
        let windows = Windows::new(PatchGrid::new(2, 4), 2, 1).unwrap();
        let mask = windows.shift_mask(&Device::Cpu).unwrap().unwrap();
        assert_eq!(mask.dims(), [2, 1, 4, 4]);
        let first: Vec<f32> = values(&mask.get(0).unwrap());
        // Left window: rows 1 and 0 (rolled) are separated, columns belong together.
        assert_eq!(first[..4], [0., 0., -100., -100.]);
        let last: Vec<f32> = values(&mask.get(1).unwrap());
        assert_eq!(last[..4], [0., -100., -100., -100.]);
        let plain = Windows::new(PatchGrid::new(2, 4), 2, 0).unwrap();
        assert!(plain.shift_mask(&Device::Cpu).unwrap().is_none());
    }

    #[test]
    fn refuses_mismatched_grids_and_tokens() {
        for (grid, side, shift) in [
            ((3, 4), 2, 0),
            ((4, 3), 2, 0),
            ((4, 4), 0, 0),
            ((4, 4), 2, 2),
        ] {
            assert!(Windows::new(PatchGrid::new(grid.0, grid.1), side, shift).is_err());
        }
        let windows = Windows::new(PatchGrid::new(4, 4), 2, 0).unwrap();
        assert!(windows.partition(&counting(1, 8)).is_err());
    }

    #[test]
    fn windows_are_padded_with_zeros() {
        let windows = Windows::padded(PatchGrid::new(1, 3), 2, 0).unwrap();
        let xs = (counting(1, 3) + 1.).unwrap();
        let cut = windows.partition(&xs).unwrap();
        assert_eq!(values(&cut), [1., 2., 0., 0., 3., 0., 0., 0.]);
        assert_eq!(values(&windows.reverse(&cut).unwrap()), [1., 2., 3.]);
        // Rolled after padding: place (0, 0) is the padded grid's (1, 1).
        let shifted = Windows::padded(PatchGrid::new(1, 3), 2, 1).unwrap();
        let cut = shifted.partition(&xs).unwrap();
        assert_eq!(values(&cut), [0., 0., 2., 3., 0., 0., 0., 1.]);
        assert!(Windows::padded(PatchGrid::new(1, 3), 2, 2).is_err());
    }

    #[test]
    fn gradients_return_to_their_tokens() {
        let xs = Var::from_tensor(&counting(2, 16)).unwrap();
        let windows = Windows::new(PatchGrid::new(4, 4), 2, 1).unwrap();
        let cut = windows.partition(&xs).unwrap();
        let weights = counting(1, 32).reshape(cut.shape()).unwrap();
        let grads = (&cut * &weights)
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap();
        let want = windows.reverse(&weights).unwrap();
        assert_eq!(values(grads.get(&xs).unwrap()), values(&want));
    }

    proptest! {
        #[test]
        fn reverse_inverts_padded_partition(
            rows in 1usize..4, down in 1usize..9, across in 1usize..9, side in 1usize..5, shift in 0usize..4,
        ) {
            let grid = PatchGrid::new(down, across);
            let windows = Windows::padded(grid, side, shift % side).unwrap();
            let xs = counting(rows, grid.len());
            let cut = windows.partition(&xs).unwrap();
            prop_assert_eq!(values(&cut).iter().sum::<f32>(), values(&xs).iter().sum::<f32>());
            prop_assert_eq!(values(&windows.reverse(&cut).unwrap()), values(&xs));
        }

        #[test]
        fn reverse_inverts_partition(
            rows in 1usize..4, down in 1usize..4, across in 1usize..4, side in 1usize..5, shift in 0usize..4,
        ) {
            let grid = PatchGrid::new(down * side, across * side);
            let windows = Windows::new(grid, side, shift % side).unwrap();
            let xs = counting(rows, grid.len());
            let cut = windows.partition(&xs).unwrap();
            prop_assert_eq!(cut.dims(), [rows * windows.len(), side * side, 1]);
            prop_assert_eq!(values(&windows.reverse(&cut).unwrap()), values(&xs));
        }
    }
}
