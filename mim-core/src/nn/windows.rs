//! Square windows over a token grid, shifted or not.

use candle_core::{D, Device, Tensor};

use crate::{Error, PatchGrid, Result, ops};

/// Cuts tokens into windows and puts them back (Swin: Liu et al., ICCV 2021, Sec. 3.2).
///
/// With a shift the grid is first rolled up and left by it, cyclically. Both ways are one gathering
/// of rows, so that rolling and cutting copy the tokens once.
#[derive(Debug, Clone)]
pub struct Windows {
    grid: PatchGrid,
    side: usize,
    shift: usize,
    /// Tokens in the order of the windows; none where that is the order they have.
    orders: Option<Orders>,
}

#[derive(Debug, Clone)]
struct Orders {
    there: Vec<u32>,
    back: Vec<u32>,
}

impl Windows {
    /// Added to the logits of tokens that are neighbours only because the grid was rolled.
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
        let mut windows = Self {
            grid,
            side,
            shift,
            orders: None,
        };
        if shift > 0 || grid.cols > side {
            let there = windows.order();
            let mut back = vec![0u32; there.len()];
            for (place, &token) in (0u32..).zip(&there) {
                back[token as usize] = place;
            }
            windows.orders = Some(Orders { there, back });
        }
        Ok(windows)
    }

    /// Number of windows.
    #[expect(clippy::len_without_is_empty, reason = "a grid is never empty")]
    pub fn len(&self) -> usize {
        self.grid.len() / self.area()
    }

    /// Tokens of a window.
    pub fn area(&self) -> usize {
        self.side * self.side
    }

    /// Places (row, column) of the rolled grid, window by window and row by row inside each.
    fn places(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let (side, across) = (self.side, self.grid.cols / self.side);
        (0..self.grid.len()).map(move |place| {
            let (window, inside) = (place / self.area(), place % self.area());
            (
                window / across * side + inside / side,
                window % across * side + inside % side,
            )
        })
    }

    fn order(&self) -> Vec<u32> {
        let token = |(row, col): (usize, usize)| {
            let (row, col) = (row + self.shift, col + self.shift);
            row % self.grid.rows * self.grid.cols + col % self.grid.cols
        };
        #[expect(clippy::cast_possible_truncation, reason = "grids fit u32")]
        self.places().map(|place| token(place) as u32).collect()
    }

    /// `[rows, tokens, dim]` to `[rows * windows, window tokens, dim]`, image by image.
    ///
    /// # Errors
    ///
    /// If the tokens are not those of the grid.
    pub fn partition(&self, xs: &Tensor) -> Result<Tensor> {
        let (rows, _, dim) = xs.dims3()?;
        let orders = self.orders.as_ref();
        self.reordered(xs, orders.map(|orders| &orders.there))?
            .reshape((rows * self.len(), self.area(), dim))
            .map_err(Into::into)
    }

    /// The inverse of [`Windows::partition`].
    ///
    /// # Errors
    ///
    /// If the tokens are not those of whole images in windows.
    pub fn reverse(&self, xs: &Tensor) -> Result<Tensor> {
        let dim = xs.dim(D::Minus1)?;
        let orders = self.orders.as_ref();
        let xs = xs.reshape(((), self.grid.len(), dim))?;
        self.reordered(&xs, orders.map(|orders| &orders.back))
    }

    fn reordered(&self, xs: &Tensor, order: Option<&Vec<u32>>) -> Result<Tensor> {
        if xs.dim(1)? != self.grid.len() {
            return Err(Error::shape(
                "windows",
                format!("[rows, {} tokens, dim]", self.grid.len()),
                xs.dims(),
                "give the tokens of the grid the windows were made for",
            ));
        }
        match order {
            Some(order) => ops::gather_tokens(xs, order),
            None => Ok(xs.clone()),
        }
    }

    /// What keeps tokens apart that only the roll has brought together, `[windows, 1, area, area]`:
    /// 0 where query and key were in one window's reach before, -100 elsewhere; none without shift.
    ///
    /// Both axes of the rolled grid are cut at `-side` and `-shift` into regions; pairs from
    /// different regions are apart.
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
            .map(|(row, col)| 3 * region(row, self.grid.rows) + region(col, self.grid.cols))
            .collect();
        let mut mask = Vec::with_capacity(self.grid.len() * self.area());
        for window in regions.chunks(self.area()) {
            for query in window {
                let apart = |key: &usize| if key == query { 0. } else { Self::APART };
                mask.extend(window.iter().map(apart));
            }
        }
        let shape = (self.len(), 1, self.area(), self.area());
        Ok(Some(Tensor::from_vec(mask, shape, device)?))
    }
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
    fn rolled_neighbours_are_kept_apart() {
        // 1-D in effect: rows of one window, whose two tokens a row meet only across the edge in the last.
        let windows = Windows::new(PatchGrid::new(2, 4), 2, 1).unwrap();
        let mask = windows.shift_mask(&Device::Cpu).unwrap().unwrap();
        assert_eq!(mask.dims(), [2, 1, 4, 4]);
        let first: Vec<f32> = values(&mask.get(0).unwrap());
        // Left window: rows 1 and 0 (rolled) are apart, columns belong together.
        assert_eq!(first[..4], [0., 0., -100., -100.]);
        let last: Vec<f32> = values(&mask.get(1).unwrap());
        assert_eq!(last[..4], [0., -100., -100., -100.]);
        let plain = Windows::new(PatchGrid::new(2, 4), 2, 0).unwrap();
        assert!(plain.shift_mask(&Device::Cpu).unwrap().is_none());
    }

    #[test]
    fn refuses_grids_and_tokens_that_do_not_fit() {
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
    fn gradients_go_back_to_their_tokens() {
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
