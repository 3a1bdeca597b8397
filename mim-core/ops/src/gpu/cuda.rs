//! Kernels and matrix products on a CUDA device.

#![expect(unsafe_code, reason = "the CUDA driver is called")]

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::cublas::{result::gemm_ex, sys as blas};
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaStream, DevicePtr, LaunchConfig, PushKernelArg, result, sys,
};
use candle_core::cuda_backend::{CudaStorageSlice, DeviceId, WrapErr};
use candle_core::{CudaDevice, CudaStorage, DType, Result, Storage, Tensor, bail};

use super::Buffer;
use super::factor::{Factor, ProductArgs};
use super::kernel::{Arg, Grid, Kernel, number};

mod ptx {
    #![allow(unreachable_pub, missing_docs, reason = "written by the build script")]
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

    /// The PTX of a kernel file.
    pub(super) fn of(file: &str) -> Option<&'static str> {
        let mut modules = MODULES.iter();
        modules.find(|(name, _)| *name == file).map(|(_, ptx)| *ptx)
    }
}

type Functions = HashMap<(DeviceId, String), CudaFunction>;

/// Functions found so far: the driver looks names up slowly.
static FUNCTIONS: LazyLock<Mutex<Functions>> = LazyLock::new(Mutex::default);

fn function(device: &CudaDevice, kernel: &Kernel) -> Result<CudaFunction> {
    let mut functions = FUNCTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (device.id(), kernel.name.clone());
    if let Some(function) = functions.get(&key) {
        return Ok(function.clone());
    }
    if functions.keys().all(|(id, _)| *id != device.id()) {
        keep_freed_memory(&device.cuda_stream())?;
    }
    let Some(ptx) = ptx::of(kernel.file) else {
        bail!("there is no kernel file {}.cu", kernel.file);
    };
    let module = format!("mim_{}", kernel.file);
    let function = device
        .get_or_load_custom_func(&kernel.name, &module, ptx)?
        .into_cuda_function();
    functions.insert(key, function.clone());
    Ok(function)
}

/// Where the device takes memory for tensors from, if it has memory pools.
fn memory_pool(stream: &CudaStream) -> Result<Option<sys::CUmemoryPool>> {
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(None);
    }
    // SAFETY: the context is alive.
    unsafe { result::device::get_default_mem_pool(context.cu_device()) }
        .map(Some)
        .w()
}

/// Lets the device's memory pool keep what is freed; by default it goes back to the system at every
/// synchronisation, and each step asks for the same again.
fn keep_freed_memory(stream: &CudaStream) -> Result<()> {
    let Some(pool) = memory_pool(stream)? else {
        return Ok(());
    };
    let mut threshold = u64::MAX;
    // SAFETY: the pool is the device's own and the attribute is a 64-bit number.
    unsafe {
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast()).w()
    }
}

/// See [`super::peak_memory()`].
pub(super) fn peak_memory(device: &CudaDevice) -> Result<Option<u64>> {
    let Some(pool) = memory_pool(&device.cuda_stream())? else {
        return Ok(None);
    };
    let mut bytes = 0u64;
    // SAFETY: the pool is the device's own and the attribute is a 64-bit number.
    unsafe {
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()).w()?;
    }
    Ok(Some(bytes))
}

/// Where the values of a storage begin.
fn address(storage: &CudaStorage) -> Result<u64> {
    let stream = storage.device.cuda_stream();
    // All work is on this one stream, so the guards that come with pointers have nothing to record.
    Ok(match &storage.slice {
        CudaStorageSlice::U8(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::I64(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F64(slice) => slice.device_ptr(&stream).0,
        _ => bail!("no kernel takes values of this type"),
    })
}

/// Where the values of a contiguous tensor begin.
pub(super) fn tensor_address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cuda(values) if layout.is_contiguous() => {
            let bytes = layout.start_offset() * tensor.dtype().size_in_bytes();
            Ok(address(values)? + bytes as u64)
        }
        _ => bail!("a kernel takes contiguous values on its device"),
    }
}

fn word(arg: &Arg<'_>) -> Result<u64> {
    let buffer = |storage: &Storage| match storage {
        Storage::Cuda(values) => address(values),
        _ => bail!("a kernel writes to its device"),
    };
    match arg {
        Arg::Read(tensor) | Arg::Change(tensor) | Arg::Maybe(Some(tensor)) => {
            tensor_address(tensor)
        }
        Arg::ReadAt(tensor, at) | Arg::ChangeAt(tensor, at) => {
            let bytes = at * tensor.dtype().size_in_bytes();
            Ok(tensor_address(tensor)? + bytes as u64)
        }
        Arg::Write(to) | Arg::MaybeWrite(Some(to)) => buffer(&to.storage),
        number_or_null => number(number_or_null),
    }
}

/// See [`super::launch()`].
///
/// # Safety
///
/// As there.
pub(super) unsafe fn launch(
    device: &CudaDevice,
    kernel: &Kernel,
    ([x, y, z], grid): ([u32; 3], Grid),
    args: &mut [Arg<'_>],
) -> Result<()> {
    let Ok(shared_mem_bytes) = u32::try_from(grid.shared) else {
        bail!("{}: too much shared memory", kernel.name);
    };
    let function = function(device, kernel)?;
    if shared_mem_bytes > 48 * 1024 {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function
            .set_attribute(attribute, shared_mem_bytes.cast_signed())
            .w()?;
    }
    let words = args.iter().map(word).collect::<Result<Vec<u64>>>()?;
    let stream = device.cuda_stream();
    let mut builder = stream.launch_builder(&function);
    for word in &words {
        builder.arg(word);
    }
    let config = LaunchConfig {
        grid_dim: (x, y, z),
        block_dim: grid.threads.into(),
        shared_mem_bytes,
    };
    // SAFETY: the caller's promise; operands live until the call returns, and candle frees memory in stream order.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

fn data_type(dtype: DType) -> Result<blas::cudaDataType> {
    match dtype {
        DType::F32 => Ok(blas::cudaDataType_t::CUDA_R_32F),
        DType::BF16 => Ok(blas::cudaDataType_t::CUDA_R_16BF),
        other => bail!("no products of {other:?}"),
    }
}

fn size(count: usize) -> Result<i32> {
    i32::try_from(count).map_err(|_| candle_core::Error::msg("a matrix is too large for cuBLAS"))
}

/// See [`super::product()`].
pub(super) fn product(device: &CudaDevice, args: ProductArgs<'_>, to: &mut Buffer) -> Result<()> {
    let Storage::Cuda(storage) = &to.storage else {
        bail!("a product is written to its device");
    };
    let [m, k, n] = args.sizes.map(size);
    let [a, b] = args.factors;
    let operation = |factor: &Factor<'_>| match factor.transposed {
        true => blas::cublasOperation_t::CUBLAS_OP_T,
        false => blas::cublasOperation_t::CUBLAS_OP_N,
    };
    let kind = data_type(a.values.dtype())?;
    let (one, beta) = (1f32, f32::from(u8::from(args.add)));
    let handle = device.cublas_handle();
    // cuBLAS stores by columns: what it sees are the transposes, and b a is the transpose of the product.
    // SAFETY: the sizes were checked against the operands, which live until the call returns.
    unsafe {
        gemm_ex(
            *handle.handle(),
            operation(&b),
            operation(&a),
            n?,
            m?,
            k?,
            (&raw const one).cast(),
            tensor_address(b.values)? as *const _,
            kind,
            size(b.cols)?,
            tensor_address(a.values)? as *const _,
            kind,
            size(a.cols)?,
            (&raw const beta).cast(),
            address(storage)? as *mut _,
            data_type(to.dtype())?,
            size(args.sizes[2])?,
            blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()
}
