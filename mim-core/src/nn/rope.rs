//! Rotary position embeddings (RoPE).

use std::f64::consts::PI;

use candle_core::{D, Tensor};

use crate::params::Params;
use crate::{Error, Mask, PatchGrid, Result, ops};

/// Two-dimensional rotary positions with trained frequencies, as in CAPI.
///
/// The angle of channel c of a head is `coordinates . freqs[:, c]`; a head `x = [x1 | x2]` becomes
/// `x cos(angle) + [-x2 | x1] sin(angle)`.
// Parity: a channel of the first half is turned by the angle of the row, its partner in the second half by the angle of
// the column, so this is not a rotation.
#[derive(Debug, Clone)]
pub struct Rope {
    freqs: Tensor,
}

impl Rope {
    /// Parameter `freqs` `[2, head_dim]`, initialised to `2 pi max (min / max)^(k / (n - 1))`, k < n = `head_dim / 4`:
    /// twice for the row in the first half of a head, and twice for the column in the second.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the width of a head is not a multiple of 4, or a frequency is not positive.
    pub fn new(params: &Params, head_dim: usize, (max, min): (f64, f64)) -> Result<Self> {
        if head_dim == 0 || !head_dim.is_multiple_of(4) {
            let why = "each of two axes needs pairs of channels in a head";
            let fix = "choose embed_dim and num_heads for heads whose width is a multiple of 4";
            return Err(Error::config(
                "rotary positions",
                "head_dim",
                head_dim,
                why,
                fix,
            ));
        }
        if !(min > 0. && min <= max && max.is_finite()) {
            let why = "frequencies must be positive and in order";
            let value = format!("{min} to {max}");
            return Err(Error::config(
                "rotary positions",
                "min_freq",
                value,
                why,
                "use 7e-4 and 7",
            ));
        }
        let quarter = head_dim / 4;
        let steps = (quarter - 1).max(1) as f64;
        #[expect(clippy::cast_possible_truncation, reason = "parameters are f32")]
        let freq = |k: usize| (2. * PI * max * (min / max).powf(k as f64 / steps)) as f32;
        let half = || (0..2 * quarter).map(|k| freq(k % quarter));
        let zeros = || std::iter::repeat_n(0f32, 2 * quarter);
        let row = half().chain(zeros());
        let all: Vec<f32> = row.chain(zeros()).chain(half()).collect();
        let table = Tensor::from_vec(all, (2, head_dim), params.device())?;
        Ok(Self {
            freqs: params.starting("freqs", table)?,
        })
    }

    /// Rotates `xs` `[rows, tokens, heads, head_dim]` by the angles at `coordinates` `[rows, tokens, 2]`.
    ///
    /// # Errors
    ///
    /// If a shape does not fit.
    pub fn forward(&self, xs: &Tensor, coordinates: &Tensor) -> Result<Tensor> {
        let (rows, tokens, _, dim) = xs.dims4()?;
        let flat = coordinates.reshape((rows * tokens, 2))?;
        let angles = flat.matmul(&self.freqs)?.reshape((rows, tokens, 1, dim))?;
        let halves = (
            xs.narrow(D::Minus1, 0, dim / 2)?,
            xs.narrow(D::Minus1, dim / 2, dim / 2)?,
        );
        let turned = Tensor::cat(&[&halves.1.neg()?, &halves.0], D::Minus1)?;
        let kept = xs.broadcast_mul(&angles.cos()?)?;
        Ok((kept + turned.broadcast_mul(&angles.sin()?)?)?)
    }
}

/// Token coordinates for [`Rope`]: patches from 0 to 1 on both axes, row first; registers come first.
#[derive(Debug, Clone, PartialEq)]
pub struct Coordinates {
    registers: Vec<[f32; 2]>,
    scale: bool,
}

impl Coordinates {
    /// Coordinates with `registers` registers. With `edge` they lie around the border of the image, otherwise in its
    /// first corner. With `scale`, the border is that of the visible patches of each image.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if registers on the border are not a multiple of 4.
    pub fn new(registers: usize, edge: bool, scale: bool) -> Result<Self> {
        if edge && !registers.is_multiple_of(4) {
            let why = "each side of the image gets the same number";
            let fix = "use a multiple of 4, or register_coordinates = \"zeros\"";
            return Err(Error::config(
                "registers",
                "num_registers",
                registers,
                why,
                fix,
            ));
        }
        let side = registers / 4;
        let along = |side: usize, at: f32| match side {
            0 => [at, 0.],
            1 => [1., at],
            2 => [1. - at, 1.],
            _ => [0., 1. - at],
        };
        let walk =
            (0..4).flat_map(|edge| (0..side).map(move |k| along(edge, k as f32 / side as f32)));
        let registers = match edge {
            true => walk.collect(),
            false => vec![[0.; 2]; registers],
        };
        Ok(Self { registers, scale })
    }

    /// Number of registers.
    pub fn registers(&self) -> usize {
        self.registers.len()
    }

    /// Coordinates of registers and of the visible patches of each row of `mask`, or of all patches of `images` images,
    /// `[rows, registers + patches, 2]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the number of visible patches differs between rows.
    pub fn of(
        &self,
        grid: PatchGrid,
        (mask, images): (Option<&Mask>, usize),
        device: &candle_core::Device,
    ) -> Result<Tensor> {
        let all: Vec<u32> = (0u32..).take(grid.len()).collect();
        let rows = mask.map_or(images, Mask::rows);
        let mut values = Vec::new();
        for row in 0..rows {
            let ids = mask.map_or(all.as_slice(), |mask| mask.visible(row));
            let patches: Vec<[f32; 2]> = ids.iter().map(|id| place(grid, *id)).collect();
            let end = |axis: usize, pick: fn(f32, f32) -> f32, first: f32| {
                patches.iter().map(|place| place[axis]).fold(first, pick)
            };
            for register in &self.registers {
                values.extend([0, 1].map(|axis| match self.scale && !patches.is_empty() {
                    true => {
                        let (low, high) =
                            (end(axis, f32::min, f32::MAX), end(axis, f32::max, f32::MIN));
                        low + register[axis] * (high - low)
                    }
                    false => register[axis],
                }));
            }
            values.extend(patches.into_iter().flatten());
        }
        Ok(ops::upload(
            values.clone(),
            (rows, values.len() / 2 / rows.max(1), 2),
            device,
        )?)
    }

    /// Coordinates of the hidden patches of each row of a mask, `[rows, hidden, 2]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if their number differs between rows.
    pub fn hidden(mask: &Mask, device: &candle_core::Device) -> Result<Tensor> {
        let count = mask.width() - mask.exact_keep()?;
        let rows = (0..mask.rows()).flat_map(|row| mask.hidden(row));
        let values: Vec<f32> = rows.flat_map(|id| place(mask.grid(), *id)).collect();
        Ok(ops::upload(values, (mask.rows(), count, 2), device)?)
    }
}

/// Row and column of a patch, each from 0 to 1.
fn place(grid: PatchGrid, id: u32) -> [f32; 2] {
    let (row, col) = (id as usize / grid.cols, id as usize % grid.cols);
    let share = |at: usize, of: usize| at as f32 / of.saturating_sub(1).max(1) as f32;
    [share(row, grid.rows), share(col, grid.cols)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use candle_core::Device;

    #[test]
    fn frequencies_fall_geometrically_and_each_half_has_its_axis() {
        let store = ParamStore::cpu(0);
        Rope::new(&store.root(), 8, (7., 7e-4)).unwrap();
        let freqs: Vec<Vec<f32>> = store.var("freqs").unwrap().to_vec2().unwrap();
        let pi = std::f32::consts::PI;
        let (high, low) = (14. * pi, 1.4e-3 * pi);
        let wanted = [high, low, high, low, 0., 0., 0., 0.];
        for (index, wanted) in wanted.iter().enumerate() {
            assert!((freqs[0][index] - wanted).abs() < 1e-5);
            assert!((freqs[1][(index + 4) % 8] - wanted).abs() < 1e-5);
        }
        assert_eq!(store.trainable().len(), 1);
        assert!(Rope::new(&ParamStore::cpu(0).root(), 6, (7., 1.)).is_err());
        assert!(Rope::new(&ParamStore::cpu(0).root(), 8, (1., 7.)).is_err());
    }

    #[test]
    fn the_first_corner_is_not_rotated_and_gradients_reach_the_frequencies() {
        let store = ParamStore::cpu(0);
        let rope = Rope::new(&store.root(), 4, (7., 1.)).unwrap();
        let xs = Tensor::new(&[[[[1f32, 2., 3., 4.]], [[1., 2., 3., 4.]]]], &Device::Cpu).unwrap();
        let places = Tensor::new(&[[[0f32, 0.], [0.3, 0.1]]], &Device::Cpu).unwrap();
        let ys = rope.forward(&xs, &places).unwrap();
        let values: Vec<f32> = ys.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(values[..4], [1., 2., 3., 4.]);
        assert_ne!(values[4..], [1., 2., 3., 4.]);
        let grads = ys.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let grad = grads.get(&store.var("freqs").unwrap()).unwrap();
        let largest: f32 = grad.abs().unwrap().max_all().unwrap().to_scalar().unwrap();
        assert!(largest > 1e-3, "{largest}");
    }

    #[test]
    fn registers_surround_the_visible_patches() {
        let grid = PatchGrid::new(3, 5);
        let whole = Coordinates::new(4, true, true).unwrap();
        let values = |xs: Tensor| -> Vec<Vec<f32>> { xs.squeeze(0).unwrap().to_vec2().unwrap() };
        let all = values(whole.of(grid, (None, 1), &Device::Cpu).unwrap());
        assert_eq!(all[..4], [[0., 0.], [1., 0.], [1., 1.], [0., 1.]]);
        assert_eq!((all.len(), &all[4 + 8]), (19, &vec![0.5, 0.75]));
        let mask = Mask::new(grid, vec![6, 12, 0], vec![2]).unwrap();
        let some = values(whole.of(grid, (Some(&mask), 1), &Device::Cpu).unwrap());
        assert_eq!(
            some,
            [
                [0.5, 0.25],
                [1., 0.25],
                [1., 0.5],
                [0.5, 0.5],
                [0.5, 0.25],
                [1., 0.5]
            ]
        );
        assert_eq!(
            values(Coordinates::hidden(&mask, &Device::Cpu).unwrap()),
            [[0., 0.]]
        );
        assert!(Coordinates::new(6, true, true).is_err());
        assert_eq!(Coordinates::new(6, false, true).unwrap().registers(), 6);
    }
}
