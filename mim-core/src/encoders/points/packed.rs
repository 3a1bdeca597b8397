//! Packs a varying number of visible tokens per cloud into one padded tensor.

use candle_core::{DType, Device, Tensor};

use crate::{Mask, Result, ops};

/// Added to attention logits between a token and padding.
// Parity: as released. A padding token attends to the others, but nothing reads its output.
const APART: f32 = -1e5;

/// Positions of the visible tokens of each cloud in `[clouds, most]`, with padding at the end.
#[derive(Debug)]
pub(super) struct Packed {
    visible: Vec<Vec<u32>>,
    groups: usize,
    most: usize,
}

impl Packed {
    pub(super) fn new(mask: &Mask) -> Self {
        let visible: Vec<Vec<u32>> = (0..mask.rows())
            .map(|row| mask.visible(row).to_vec())
            .collect();
        Self {
            most: visible.iter().map(Vec::len).max().unwrap_or(0),
            groups: mask.grid().len(),
            visible,
        }
    }

    /// Packs the visible rows of `[clouds * groups, dim]` to `[clouds, most, dim]`; padding is zero.
    pub(super) fn pack(&self, xs: &Tensor) -> Result<Tensor> {
        let (rows, dim) = xs.dims2()?;
        let zero = Tensor::zeros((1, dim), xs.dtype(), xs.device())?;
        let mut ids = Vec::with_capacity(self.visible.len() * self.most);
        for (cloud, visible) in self.visible.iter().enumerate() {
            ids.extend(visible.iter().map(|id| number(cloud * self.groups) + id));
            ids.resize((cloud + 1) * self.most, number(rows));
        }
        let ids = ops::upload(ids, self.visible.len() * self.most, xs.device())?;
        let packed = ops::gather_rows(&Tensor::cat(&[xs, &zero], 0)?, &ids)?;
        Ok(packed.reshape((self.visible.len(), self.most, dim))?)
    }

    /// `others` `[clouds * groups, dim]`, with the packed tokens `[clouds, most, dim]` at their positions.
    pub(super) fn unpack(&self, packed: &Tensor, others: &Tensor) -> Result<Tensor> {
        let all = Tensor::cat(&[&packed.flatten_to(1)?, others], 0)?;
        let start = number(self.visible.len() * self.most);
        let mut ids: Vec<u32> = (start..).take(others.dim(0)?).collect();
        for (cloud, visible) in self.visible.iter().enumerate() {
            for (place, id) in visible.iter().enumerate() {
                ids[cloud * self.groups + *id as usize] = number(cloud * self.most + place);
            }
        }
        let ids = ops::upload(ids, others.dim(0)?, others.device())?;
        Ok(ops::gather_rows(&all, &ids)?)
    }

    /// Attention bias that separates padding, `[clouds, 1, most, most]`; `None` without padding.
    pub(super) fn bias(&self, device: &Device) -> Result<Option<Tensor>> {
        if self.visible.iter().all(|ids| ids.len() == self.most) {
            return Ok(None);
        }
        let mut bias = vec![APART; self.visible.len() * self.most * self.most];
        for (cloud, visible) in self.visible.iter().enumerate() {
            for row in 0..visible.len() {
                let start = (cloud * self.most + row) * self.most;
                bias[start..][..visible.len()].fill(0.);
            }
        }
        let shape = (self.visible.len(), 1, self.most, self.most);
        Ok(Some(ops::upload(bias, shape, device)?))
    }

    /// 1 for tokens, 0 for padding, `[clouds, most]` u8.
    pub(super) fn valid(&self) -> Result<Tensor> {
        let mut valid = Vec::with_capacity(self.visible.len() * self.most);
        for (cloud, visible) in self.visible.iter().enumerate() {
            valid.resize(cloud * self.most + visible.len(), 1u8);
            valid.resize((cloud + 1) * self.most, 0);
        }
        let shape = (self.visible.len(), self.most);
        Ok(Tensor::from_vec(valid, shape, &Device::Cpu)?.to_dtype(DType::U8)?)
    }
}

/// A row number; a batch has fewer than 2^32 points.
fn number(rows: usize) -> u32 {
    u32::try_from(rows).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PatchGrid;

    #[test]
    fn packs_visible_rows_and_unpacks_them() {
        let mask = Mask::from_bits(PatchGrid::new(3, 1), &[1, 0, 1, 0, 1, 0]).unwrap();
        let packed = Packed::new(&mask);
        let xs = Tensor::arange(1f32, 7., &Device::Cpu).unwrap();
        let xs = xs.reshape((6, 1)).unwrap();
        let visible = packed.pack(&xs).unwrap();
        assert_eq!(
            visible.to_vec3::<f32>().unwrap(),
            [[[2.], [0.]], [[4.], [6.]]]
        );
        let back = packed.unpack(&(visible * 10.).unwrap(), &xs).unwrap();
        assert_eq!(
            back.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            [1., 20., 3., 40., 5., 60.]
        );
        let valid = packed.valid().unwrap().to_vec2::<u8>().unwrap();
        assert_eq!(valid, [[1, 0], [1, 1]]);
        let bias = packed.bias(&Device::Cpu).unwrap().unwrap();
        let bias: Vec<f32> = bias.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(bias, [0., APART, APART, APART, 0., 0., 0., 0.]);
        let whole = Mask::from_bits(PatchGrid::new(3, 1), &[0; 6]).unwrap();
        assert!(Packed::new(&whole).bias(&Device::Cpu).unwrap().is_none());
    }
}
