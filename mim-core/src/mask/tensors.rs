//! A mask as tensors on a device.

use candle_core::{Device, Tensor};

use super::Mask;
use crate::ops::upload;
use crate::{Error, Result};

impl Mask {
    fn ids(&self, hidden: bool, device: &Device) -> Result<Tensor> {
        let keep = self.exact_keep()?;
        let count = if hidden { self.width - keep } else { keep };
        let ids: Vec<u32> = (0..self.rows())
            .flat_map(|row| self.part(row, hidden))
            .copied()
            .collect();
        Ok(upload(ids, (self.rows(), count), device)?)
    }

    /// Visible ids `[rows, keep]` u32, in the mask's order.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the count differs between rows.
    pub fn ids_keep(&self, device: &Device) -> Result<Tensor> {
        self.ids(false, device)
    }

    /// Hidden ids `[rows, width - keep]` u32, in the mask's order.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the count differs between rows.
    pub fn ids_masked(&self, device: &Device) -> Result<Tensor> {
        self.ids(true, device)
    }

    /// All ids `[rows, width]` u32, visible first.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn ids_order(&self, device: &Device) -> Result<Tensor> {
        Ok(upload(
            self.order.clone(),
            (self.rows(), self.width),
            device,
        )?)
    }

    /// For each token of the grid, its position in the mask's order, `[rows, tokens]` u32.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the mask does not list every token.
    pub fn ids_restore(&self, device: &Device) -> Result<Tensor> {
        if self.width != self.grid.len() {
            return Err(Error::shape(
                "ids_restore",
                format!("a mask over all {} tokens", self.grid.len()),
                self.width,
                "only full masks have an inverse",
            ));
        }
        let mut restore = vec![u32::MAX; self.order.len()];
        for (row, out) in restore.chunks_mut(self.width).enumerate() {
            for (place, &id) in (0u32..).zip(&self.order[row * self.width..(row + 1) * self.width])
            {
                out[id as usize] = place;
            }
        }
        if restore.contains(&u32::MAX) {
            return Err(Error::shape(
                "ids_restore",
                "a mask that lists every token once",
                "tokens that are visible and hidden",
                "use a decoder that predicts only hidden tokens",
            ));
        }
        Ok(upload(restore, (self.rows(), self.width), device)?)
    }

    /// Positions of the hidden (or visible) tokens in a flattened `[images * tokens, C]` tensor,
    /// `[total]` u32, in the mask's order; copies of an image repeat its positions. Counts may vary between rows.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the rows are not a multiple of `images` or the batch is too large for u32.
    pub fn flat(&self, hidden: bool, images: usize, device: &Device) -> Result<Tensor> {
        self.copies(images)?;
        let tokens = self.grid.len();
        if u32::try_from(images * tokens).is_err() {
            return Err(Error::shape(
                "mask positions",
                "fewer than 2^32 tokens",
                images * tokens,
                "use a smaller batch",
            ));
        }
        let mut flat = Vec::new();
        for row in 0..self.rows() {
            #[expect(clippy::cast_possible_truncation, reason = "checked above")]
            let base = (row % images * tokens) as u32;
            flat.extend(self.part(row, hidden).iter().map(|id| base + id));
        }
        let total = flat.len();
        Ok(upload(flat, total, device)?)
    }

    /// [`Mask::to_bits`] as an f32 tensor `[rows, tokens]`.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn bits(&self, device: &Device) -> Result<Tensor> {
        let bits: Vec<f32> = self.to_bits().into_iter().map(f32::from).collect();
        Ok(upload(bits, (self.rows(), self.grid.len()), device)?)
    }
}
