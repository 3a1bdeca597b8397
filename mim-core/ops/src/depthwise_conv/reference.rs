//! Depth-wise convolution in candle operations.

use candle_core::Tensor;

use crate::Result;

/// See [`super::depthwise_conv`]: for every tap, the shifted image times the weights of the tap, summed.
pub(super) fn depthwise_conv(xs: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (_, height, width, channels) = xs.dims4()?;
    let side = weight.dim(3)?;
    let padded = xs
        .pad_with_zeros(1, side / 2, side / 2)?
        .pad_with_zeros(2, side / 2, side / 2)?;
    let mut ys = xs.zeros_like()?.broadcast_add(bias)?;
    for row in 0..side {
        for col in 0..side {
            let tap = weight
                .narrow(2, row, 1)?
                .narrow(3, col, 1)?
                .reshape(channels)?;
            let shifted = padded.narrow(1, row, height)?.narrow(2, col, width)?;
            ys = (ys + shifted.broadcast_mul(&tap)?)?;
        }
    }
    Ok(ys)
}
