//! Conversion from a mask's order to image order.

use candle_core::Tensor;

use crate::{Error, Mask, Result, ops};

/// Puts tokens `[rows, tokens, C]`, which are in the mask's order, in image order; tokens that the mask does not list
/// are 0.
///
/// # Errors
///
/// [`Error::Shape`](crate::Error::Shape) if the number of tokens does not match the mask.
pub(super) fn in_image_order(xs: &Tensor, mask: &Mask) -> Result<Tensor> {
    let (rows, tokens, width) = xs.dims3()?;
    let grid = mask.grid().len();
    if tokens < grid {
        return placed(xs, mask);
    }
    let starts: Vec<u32> = (0..).step_by(tokens.max(1)).take(rows).collect();
    let starts = ops::upload(starts, (rows, 1), xs.device())?;
    let places = mask.ids_restore(xs.device())?.broadcast_add(&starts)?;
    let ordered = ops::gather_rows(&xs.flatten(0, 1)?, &places.flatten_all()?)?;
    Ok(ordered.reshape((rows, grid, width))?)
}

/// The same for a mask that lists only some tokens.
fn placed(xs: &Tensor, mask: &Mask) -> Result<Tensor> {
    let (rows, tokens, width) = xs.dims3()?;
    if (rows, tokens) != (mask.rows(), mask.width()) {
        return Err(Error::shape(
            "tokens in the mask's order",
            format!("[{}, {}, C]", mask.rows(), mask.width()),
            xs.dims(),
            "give exactly the tokens that the mask lists",
        ));
    }
    let nothing = xs
        .zeros_like()?
        .narrow(0, 0, 1)?
        .narrow(1, 0, 1)?
        .flatten(0, 1)?;
    let listed = Tensor::cat(&[&xs.flatten(0, 1)?, &nothing], 0)?;
    let zero = u32::try_from(rows * tokens).unwrap_or(u32::MAX);
    let mut places = vec![zero; rows * mask.grid().len()];
    for (row, places) in places.chunks_mut(mask.grid().len()).enumerate() {
        let order = mask.visible(row).iter().chain(mask.hidden(row));
        for (place, &id) in (row * tokens..).zip(order) {
            places[id as usize] = u32::try_from(place).unwrap_or(u32::MAX);
        }
    }
    let total = places.len();
    let places = ops::upload(places, total, xs.device())?;
    Ok(ops::gather_rows(&listed, &places)?.reshape((rows, mask.grid().len(), width))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PatchGrid;
    use candle_core::Device;

    #[test]
    fn unlisted_tokens_are_zero() {
        let mask = Mask::new(PatchGrid::new(1, 4), vec![3, 0, 1, 2], vec![1, 1]).unwrap();
        let xs = Tensor::new(&[[[5f32], [6.]], [[7.], [8.]]], &Device::Cpu).unwrap();
        let placed = in_image_order(&xs, &mask).unwrap().squeeze(2).unwrap();
        let placed = placed.to_vec2::<f32>().unwrap();
        assert_eq!(placed, [[6., 0., 0., 5.], [0., 7., 8., 0.]]);
    }
}
