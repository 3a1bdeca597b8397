//! The kernels on the CPU, for tests without a GPU.

#![expect(unsafe_code, reason = "the emulator is a C++ program")]

use std::cell::Cell;
use std::ffi::{CString, c_char, c_int, c_void};

use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, DType, Device, InplaceOp1, Layout, Result, Shape, Storage, Tensor, bail,
};

use super::Buffer;
use super::launch::{Arg, Grid, Kernel, number};
use super::product::{Call, Factor};

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
}

/// Puts back what was set before, whatever happens in between.
struct Scope(bool);

impl Drop for Scope {
    fn drop(&mut self) {
        ACTIVE.set(self.0);
    }
}

/// Runs `work` with the CPU as if it were a CUDA device: its tensors go through the GPU kernels.
pub fn with_emulated_gpu<R>(work: impl FnOnce() -> R) -> R {
    let _scope = Scope(ACTIVE.replace(true));
    work()
}

/// Whether the CPU stands for a GPU on this thread.
pub(super) fn active() -> bool {
    ACTIVE.get()
}

/// NaN everywhere, so that what a kernel leaves out is seen.
pub(super) fn unwritten(shape: &Shape, dtype: DType) -> Result<Storage> {
    let nan = Tensor::full(f32::NAN, shape, &Device::Cpu)?.to_dtype(dtype)?;
    let (storage, _) = nan.storage_and_layout();
    storage.try_clone(nan.layout())
}

/// Where the values of a storage begin.
fn address(storage: &mut CpuStorage) -> Result<*mut u8> {
    Ok(match storage {
        CpuStorage::U8(values) => values.as_mut_ptr(),
        CpuStorage::U32(values) => values.as_mut_ptr().cast(),
        CpuStorage::I64(values) => values.as_mut_ptr().cast(),
        CpuStorage::BF16(values) => values.as_mut_ptr().cast(),
        CpuStorage::F32(values) => values.as_mut_ptr().cast(),
        CpuStorage::F64(values) => values.as_mut_ptr().cast(),
        _ => bail!("no kernel takes values of this type"),
    })
}

struct Address(Cell<u64>);

impl InplaceOp1 for Address {
    fn name(&self) -> &'static str {
        "address"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        if !layout.is_contiguous() {
            bail!("a kernel takes contiguous values");
        }
        let bytes = layout.start_offset() * storage.dtype().size_in_bytes();
        self.0
            .set(address(storage)?.expose_provenance() as u64 + bytes as u64);
        Ok(())
    }
}

/// Where the values of a contiguous tensor begin.
pub(super) fn tensor_address(tensor: &Tensor) -> Result<u64> {
    let address = Address(Cell::new(0));
    tensor.inplace_op1(&address)?;
    Ok(address.0.get())
}

fn word(arg: &mut Arg<'_>) -> Result<u64> {
    let of_tensor = |tensor: &Tensor, at: usize| {
        let bytes = at * tensor.dtype().size_in_bytes();
        Ok(tensor_address(tensor)? + bytes as u64)
    };
    match arg {
        Arg::Read(tensor) | Arg::Change(tensor) | Arg::Maybe(Some(tensor)) => of_tensor(tensor, 0),
        Arg::ReadAt(tensor, at) | Arg::ChangeAt(tensor, at) => of_tensor(tensor, *at),
        Arg::Write(to) | Arg::MaybeWrite(Some(to)) => match &mut to.storage {
            Storage::Cpu(storage) => Ok(address(storage)?.expose_provenance() as u64),
            _ => bail!("a kernel writes to its device"),
        },
        number_or_null => number(number_or_null),
    }
}

unsafe extern "C" {
    fn mim_emulate(
        kernel: *const c_char,
        grid: *const u32,
        block: *const u32,
        shared_bytes: u32,
        args: *mut *mut c_void,
    ) -> c_int;
}

/// See [`super::launch()`].
///
/// # Safety
///
/// As there.
pub(super) unsafe fn launch(
    kernel: &Kernel,
    (blocks, grid): ([u32; 3], Grid),
    args: &mut [Arg<'_>],
) -> Result<()> {
    let (Ok(name), Ok(shared)) = (
        CString::new(kernel.name.as_str()),
        u32::try_from(grid.shared),
    ) else {
        bail!("{}: no such kernel", kernel.name);
    };
    let mut words = args.iter_mut().map(word).collect::<Result<Vec<u64>>>()?;
    let mut pointers: Vec<*mut c_void> = words
        .iter_mut()
        .map(|word| (&raw mut *word).cast())
        .collect();
    // SAFETY: the caller's promise; the operands outlive the call.
    let result = unsafe {
        mim_emulate(
            name.as_ptr(),
            blocks.as_ptr(),
            grid.threads.as_ptr(),
            shared,
            pointers.as_mut_ptr(),
        )
    };
    match result {
        0 => Ok(()),
        _ => bail!("there is no kernel {} in {}.cu", kernel.name, kernel.file),
    }
}

/// See [`super::product()`]: candle's product of f32 values, rounded once.
pub(super) fn product(call: Call<'_>, to: &mut Buffer) -> Result<()> {
    let [m, _, n] = call.sizes;
    let factor = |factor: Factor<'_>| {
        let values = factor.values.to_dtype(DType::F32)?;
        let values = values.reshape((factor.rows, factor.cols))?;
        match factor.transposed {
            true => values.t(),
            false => Ok(values),
        }
    };
    let [a, b] = call.factors.map(factor);
    let mut sum = a?.matmul(&b?)?;
    if call.add {
        let before = to.storage.try_clone(&Layout::contiguous((m, n)))?;
        let before = Tensor::from_storage(before, (m, n), BackpropOp::none(), false);
        sum = (sum + before.to_dtype(DType::F32)?)?;
    }
    let sum = sum.to_dtype(to.dtype())?.contiguous()?;
    to.storage = sum.storage_and_layout().0.try_clone(sum.layout())?;
    Ok(())
}
