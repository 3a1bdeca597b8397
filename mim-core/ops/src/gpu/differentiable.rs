//! Attaches gradients to results that kernels have already computed.

use std::sync::{Mutex, PoisonError};

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage,
    Tensor, bail,
};

use super::Buffer;

/// Makes `ys` a differentiable function of one to three operands on its device.
///
/// `backward` receives the result and its gradient, both contiguous, and returns a gradient for every operand that
/// tracks one. It may run more than once.
pub(crate) fn differentiable<const N: usize>(
    operands: [&Tensor; N],
    ys: Buffer,
    backward: impl Fn(&Tensor, &Tensor) -> Result<[Option<Tensor>; N]> + Send + Sync + 'static,
) -> Result<Tensor> {
    if !operands.iter().any(|t| t.track_op()) {
        return Ok(ys.into_tensor());
    }
    let op = Computed {
        ys: Mutex::new(Some(ys)),
        backward: Box::new(backward),
    };
    match operands.as_slice() {
        [a] => a.apply_op1(op),
        [a, b] => a.apply_op2(b, op),
        [a, b, c] => a.apply_op3(b, c, op),
        _ => bail!("candle's operations take one to three operands"),
    }
}

type Gradients<const N: usize> =
    dyn Fn(&Tensor, &Tensor) -> Result<[Option<Tensor>; N]> + Send + Sync;

struct Computed<const N: usize> {
    ys: Mutex<Option<Buffer>>,
    backward: Box<Gradients<N>>,
}

impl<const N: usize> Computed<N> {
    fn take(&self) -> Result<(Storage, Shape)> {
        // No code panics while it holds the lock.
        let mut ys = self.ys.lock().unwrap_or_else(PoisonError::into_inner);
        match ys.take() {
            Some(ys) => Ok(ys.into_parts()),
            None => bail!("a computed result was taken twice"),
        }
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        match self.take()? {
            (Storage::Cpu(storage), shape) => Ok((storage, shape)),
            _ => bail!("a result must be on the device of its operands"),
        }
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        match self.take()? {
            (Storage::Cuda(storage), shape) => Ok((storage, shape)),
            _ => bail!("a result must be on the device of its operands"),
        }
    }

    fn gradients(&self, ys: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let mut found = (self.backward)(&ys.detach(), &grad.contiguous()?)?.into_iter();
        Ok(std::array::from_fn(|_| found.next().flatten()))
    }
}

impl<const N: usize> CustomOp1 for Computed<N> {
    fn name(&self) -> &'static str {
        "computed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(&self, _: &Tensor, ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [a, ..] = self.gradients(ys, grad)?;
        Ok(a)
    }
}

impl<const N: usize> CustomOp2 for Computed<N> {
    fn name(&self) -> &'static str {
        "computed"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b, _] = self.gradients(ys, grad)?;
        Ok((a, b))
    }
}

impl<const N: usize> CustomOp3 for Computed<N> {
    fn name(&self) -> &'static str {
        "computed"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Ok(self.gradients(ys, grad)?.into())
    }
}
