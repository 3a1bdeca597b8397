//! Memory of the host that a GPU reads and writes by itself.
//!
//! Copies from and to pageable memory block the host: until all earlier work is done if the copy goes to the host, or
//! if it is larger than 64 KiB.

#![expect(unsafe_code, reason = "the CUDA driver is called")]

use std::collections::{HashMap, VecDeque};
use std::ptr::NonNull;
use std::sync::{LazyLock, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, result, sys};
use candle_core::cuda_backend::{DeviceId, WrapErr};
use candle_core::{CpuStorage, CudaDevice, DType, Device, Result, Storage, Tensor};

use super::Buffer;
use super::cuda::tensor_address;

/// Blocks by device and size, in the order in which they were last used.
type Blocks = HashMap<(DeviceId, usize), VecDeque<Block>>;

/// What has been asked of the driver so far, which takes long to give it: it stays with the program.
static BLOCKS: LazyLock<Mutex<Blocks>> = LazyLock::new(Mutex::default);

/// Pinned memory, of some power of two in size.
#[derive(Debug)]
struct Block {
    start: NonNull<u8>,
    size: usize,
    /// The last copy.
    copied: CudaEvent,
}

// SAFETY: nobody but its owner knows the memory, and the driver takes it from every thread.
unsafe impl Send for Block {}

impl Block {
    /// One of at least so many bytes, no longer in use.
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
        // Whoever waits for it leaves the processor to others.
        let flags = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC;
        let copied = context.new_event(Some(flags)).w()?;
        // SAFETY: the context is this thread's.
        let start = unsafe { result::malloc_host(size, 0) }.w()?;
        let Some(start) = NonNull::new(start.cast::<u8>()) else {
            candle_core::bail!("the driver gave no pinned memory");
        };
        // SAFETY: it is as large as that.
        unsafe { start.write_bytes(0, size) };
        Ok(Self {
            start,
            size,
            copied,
        })
    }

    /// Notes that a copy has been queued, behind which the memory may be used again.
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

/// A contiguous tensor of the host on a GPU.
pub(crate) fn upload(xs: &Tensor, to: &Device) -> Result<Tensor> {
    let device = to.as_cuda_device()?;
    let (storage, layout) = xs.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("values are uploaded from the host");
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
    // SAFETY: the block is large enough, nobody else's, and stays until the copy is done; so does the tensor, which
    // is freed in the stream's order.
    unsafe {
        let pinned = std::slice::from_raw_parts_mut(block.start.as_ptr(), values.len());
        pinned.copy_from_slice(values);
        result::memcpy_htod_async(tensor_address(&there)?, pinned, stream.cu_stream()).w()?;
    }
    block.used(&stream)?;
    block.give_back(device);
    Ok(there)
}

/// Values on their way to the host.
#[derive(Debug)]
pub(crate) struct PinnedDownload {
    /// There until it is dropped.
    block: Option<Block>,
    device: CudaDevice,
    dtype: DType,
    count: usize,
}

impl PinnedDownload {
    /// Asks for a contiguous tensor of f32 or f64.
    pub(crate) fn new(xs: &Tensor) -> Result<Self> {
        let device = xs.device().as_cuda_device()?;
        let (dtype, count) = (xs.dtype(), xs.elem_count());
        let size = count * dtype.size_in_bytes();
        let (block, stream) = (Block::take(size, device)?, device.cuda_stream());
        // SAFETY: the block is large enough, nobody else's, and is not read before the copy is done.
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

    /// The values, when the copy is done.
    pub(crate) fn wait(self) -> Result<Vec<f64>> {
        let Some(block) = &self.block else {
            candle_core::bail!("a copy to the host was read before");
        };
        block.copied.synchronize().w()?;
        let start = block.start.as_ptr();
        // SAFETY: the copy has written so many values of this type, and a block is aligned for each.
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
