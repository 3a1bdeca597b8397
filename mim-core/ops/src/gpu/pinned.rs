//! Pinned host memory, which a GPU reads and writes directly.
//!
//! A copy from or to pageable memory blocks the host until all earlier work is done, if it goes to the host or
//! exceeds 64 KiB.

#![expect(unsafe_code, reason = "the CUDA driver is called")]

use std::collections::{HashMap, VecDeque};
use std::ptr::NonNull;
use std::sync::{LazyLock, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, result, sys};
use candle_core::cuda_backend::{DeviceId, WrapErr};
use candle_core::{CpuStorage, CudaDevice, DType, Device, Result, Storage, Tensor};

use super::Buffer;
use super::cuda::tensor_address;

/// Blocks by device and size, least recently used first.
type Blocks = HashMap<(DeviceId, usize), VecDeque<Block>>;

/// Blocks allocated so far. Allocation is slow, so blocks are never returned to the driver.
static BLOCKS: LazyLock<Mutex<Blocks>> = LazyLock::new(Mutex::default);

/// A block of pinned memory; its size is a power of two.
#[derive(Debug)]
struct Block {
    start: NonNull<u8>,
    size: usize,
    /// Recorded after the last copy.
    copied: CudaEvent,
}

// SAFETY: only the owner accesses the memory, and the driver accepts it from every thread.
unsafe impl Send for Block {}

impl Block {
    /// A block of at least this size that no copy uses any more.
    fn take(bytes: usize, device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let context = stream.context();
        context.bind_to_thread().w()?;
        let size = bytes.next_power_of_two().max(4096);
        let mut blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
        let free = blocks.entry((device.id(), size)).or_default();
        if let Some(oldest) = free.front()
            && oldest.copied.try_is_complete().w()?
            && let Some(block) = free.pop_front()
        {
            return Ok(block);
        }
        // A thread that waits for the event sleeps instead of spinning.
        let flags = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC;
        let copied = context.new_event(Some(flags)).w()?;
        // SAFETY: the context is bound to this thread.
        let start = unsafe { result::malloc_host(size, 0) }.w()?;
        let Some(start) = NonNull::new(start.cast::<u8>()) else {
            candle_core::bail!("the driver returned no pinned memory of {size} bytes");
        };
        // SAFETY: the allocation has this size.
        unsafe { start.write_bytes(0, size) };
        Ok(Self {
            start,
            size,
            copied,
        })
    }

    /// Records that a copy has been queued; the memory may be reused after it.
    fn used(&self, stream: &CudaStream) -> Result<()> {
        self.copied.record(stream).w()
    }

    fn give_back(self, device: &CudaDevice) {
        let mut blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
        blocks
            .entry((device.id(), self.size))
            .or_default()
            .push_back(self);
    }
}

fn bytes<T>(values: &[T]) -> &[u8] {
    // SAFETY: numbers have no padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// Copies a contiguous host tensor to a GPU.
pub(crate) fn upload(xs: &Tensor, to: &Device) -> Result<Tensor> {
    let device = to.as_cuda_device()?;
    let (storage, layout) = xs.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("upload takes host tensors");
    };
    let values = match storage {
        CpuStorage::U8(values) => bytes(values),
        CpuStorage::U32(values) => bytes(values),
        CpuStorage::I64(values) => bytes(values),
        CpuStorage::BF16(values) => bytes(values),
        CpuStorage::F32(values) => bytes(values),
        CpuStorage::F64(values) => bytes(values),
        _ => return xs.to_device(to),
    };
    let size = xs.dtype().size_in_bytes();
    let values = &values[layout.start_offset() * size..][..xs.elem_count() * size];
    let there = Buffer::new(xs.shape(), xs.dtype(), to)?.into_tensor();
    let (block, stream) = (Block::take(values.len(), device)?, device.cuda_stream());
    // SAFETY: the block is large enough, belongs to this call, and stays alive until the copy is done. So does the
    // tensor, which is freed in stream order.
    unsafe {
        let pinned = std::slice::from_raw_parts_mut(block.start.as_ptr(), values.len());
        pinned.copy_from_slice(values);
        result::memcpy_htod_async(tensor_address(&there)?, pinned, stream.cu_stream()).w()?;
    }
    block.used(&stream)?;
    block.give_back(device);
    Ok(there)
}

/// A copy to the host in flight.
#[derive(Debug)]
pub(crate) struct PinnedDownload {
    /// Present until drop.
    block: Option<Block>,
    device: CudaDevice,
    dtype: DType,
    count: usize,
}

impl PinnedDownload {
    /// Starts the copy of a contiguous f32 or f64 tensor.
    pub(crate) fn new(xs: &Tensor) -> Result<Self> {
        let device = xs.device().as_cuda_device()?;
        let (dtype, count) = (xs.dtype(), xs.elem_count());
        let size = count * dtype.size_in_bytes();
        let (block, stream) = (Block::take(size, device)?, device.cuda_stream());
        // SAFETY: the block is large enough, belongs to this copy, and is read only after the copy is done.
        unsafe {
            let pinned = std::slice::from_raw_parts_mut(block.start.as_ptr(), size);
            result::memcpy_dtoh_async(pinned, tensor_address(xs)?, stream.cu_stream()).w()?;
        }
        block.used(&stream)?;
        Ok(Self {
            block: Some(block),
            device: device.clone(),
            dtype,
            count,
        })
    }

    /// Waits for the copy and returns its values.
    pub(crate) fn wait(self) -> Result<Vec<f64>> {
        let Some(block) = &self.block else {
            candle_core::bail!("a copy to the host was read twice");
        };
        block.copied.synchronize().w()?;
        let start = block.start.as_ptr();
        // SAFETY: the copy has written this many values of this dtype, and a block is aligned for either.
        unsafe {
            Ok(match self.dtype {
                DType::F64 => std::slice::from_raw_parts(start.cast::<f64>(), self.count).to_vec(),
                _ => std::slice::from_raw_parts(start.cast::<f32>(), self.count)
                    .iter()
                    .map(|x| f64::from(*x))
                    .collect(),
            })
        }
    }
}

impl Drop for PinnedDownload {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            block.give_back(&self.device);
        }
    }
}
