//! Asynchronous copies between host and device.

use candle_core::{DType, Device, Shape, Tensor, WithDType};

#[cfg(feature = "cuda")]
use super::gpu::PinnedDownload;
use crate::{Error, Result};

/// Makes a tensor of host values; on a GPU the copy is asynchronous, as in [`to_device`].
///
/// # Errors
///
/// Fails if the number of values does not match the shape, or if the device fails.
pub fn upload<T: WithDType>(
    values: Vec<T>,
    shape: impl Into<Shape>,
    device: &Device,
) -> Result<Tensor> {
    Ok(send(values, shape, device)?)
}

/// [`upload`] for callers that return candle's errors.
pub(super) fn send<T: WithDType>(
    values: Vec<T>,
    shape: impl Into<Shape>,
    device: &Device,
) -> candle_core::Result<Tensor> {
    moved(
        &Tensor::from_vec(values, shape.into(), &Device::Cpu)?,
        device,
    )
}

/// The same tensor (any shape) on another device. From the host to a GPU they go through pinned memory: the copy is queued on
/// the stream, and the host does not wait. No gradient flows.
///
/// # Errors
///
/// Fails only if the device does.
pub fn to_device(xs: &Tensor, device: &Device) -> Result<Tensor> {
    Ok(moved(xs, device)?)
}

fn moved(xs: &Tensor, device: &Device) -> candle_core::Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let (Device::Cpu, Device::Cuda(_)) = (xs.device(), device) {
        return super::gpu::upload(&xs.contiguous()?, device);
    }
    xs.detach().to_device(device)
}

/// Numbers on their way to the host. On a GPU the copy is queued on the stream, after the work queued so far.
///
/// Dropping it discards the values.
#[derive(Debug)]
pub struct AsyncDownload(From);

#[derive(Debug)]
enum From {
    Host(Vec<f64>),
    #[cfg(feature = "cuda")]
    Gpu(PinnedDownload),
}

impl AsyncDownload {
    /// Starts the copy of an f32 or f64 tensor of any shape.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] for other dtypes; otherwise it fails only if the device does.
    pub fn new(xs: &Tensor) -> Result<Self> {
        if !matches!(xs.dtype(), DType::F32 | DType::F64) {
            let (want, fix) = ("f32 or f64", "convert it on its device");
            return Err(Error::shape("AsyncDownload", want, xs.dtype(), fix));
        }
        #[cfg(feature = "cuda")]
        if xs.device().is_cuda() {
            return Ok(Self(From::Gpu(PinnedDownload::new(&xs.contiguous()?)?)));
        }
        let xs = xs.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        Ok(Self(From::Host(xs.flatten_all()?.to_vec1()?)))
    }

    /// Waits for the copy and returns the values in order.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn wait(self) -> Result<Vec<f64>> {
        match self.0 {
            From::Host(values) => Ok(values),
            #[cfg(feature = "cuda")]
            From::Gpu(download) => Ok(download.wait()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Vec<Device> {
        #[cfg(feature = "cuda")]
        return vec![Device::Cpu, super::super::testing::gpu().clone()];
        #[cfg(not(feature = "cuda"))]
        vec![Device::Cpu]
    }

    #[test]
    fn values_survive_a_round_trip() {
        for device in devices() {
            let ids = upload(vec![3u32, 1, 2, 0], (2, 2), &device).unwrap();
            assert_eq!(ids.to_vec2::<u32>().unwrap(), [[3, 1], [2, 0]]);
            let bytes = Tensor::new(&[[1u8, 2, 3], [4, 5, 6]], &Device::Cpu).unwrap();
            for view in [bytes.t().unwrap(), bytes.narrow(0, 1, 1).unwrap()] {
                let there = to_device(&view, &device).unwrap();
                assert_eq!(
                    there.to_vec2::<u8>().unwrap(),
                    view.to_vec2::<u8>().unwrap()
                );
            }
            assert!(upload(vec![1f32], (2, 2), &device).is_err());
        }
    }

    #[test]
    fn concurrent_copies_do_not_mix() {
        for device in devices() {
            let values = |at: usize| vec![at as f32 + 0.5; 300 * (1 + at % 7)];
            let copies: Vec<_> = (0..300)
                .map(|at| {
                    let there = upload(values(at), 300 * (1 + at % 7), &device).unwrap();
                    let wide = there.to_dtype(DType::F64).unwrap();
                    [
                        AsyncDownload::new(&there).unwrap(),
                        AsyncDownload::new(&wide).unwrap(),
                    ]
                })
                .collect();
            for (at, copies) in copies.into_iter().enumerate() {
                let want: Vec<f64> = values(at).into_iter().map(f64::from).collect();
                for copy in copies {
                    assert_eq!(copy.wait().unwrap(), want);
                }
            }
            assert!(AsyncDownload::new(&upload(vec![1u8], 1, &device).unwrap()).is_err());
        }
    }
}
