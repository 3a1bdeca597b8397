//! The linear layer in candle operations.

use candle_core::Tensor;

use crate::Result;

/// See [`super::linear()`].
pub(super) fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let weight = weight.to_dtype(xs.dtype())?;
    let ys = xs.reshape(((), inputs))?.matmul(&weight.t()?)?;
    let ys = match bias {
        Some(bias) => ys.broadcast_add(&bias.to_dtype(xs.dtype())?)?,
        None => ys,
    };
    let mut dims = xs.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = outputs;
    }
    Ok(ys.reshape(dims)?)
}
