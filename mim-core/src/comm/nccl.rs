//! Process groups with one GPU each, joined by NCCL.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError};
use candle_core::cuda_backend::cudarc::nccl::result::{NcclError, NcclStatus};
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, ReduceOp};
use candle_core::cuda_backend::{CudaStorage, CudaStorageSlice, WrapErr};
use candle_core::{CpuStorage, CustomOp1, DType, Device, InplaceOp1, Layout, Shape, Tensor, bail};

use super::hosts::Hosts;
use super::rendezvous;
use super::{Communicator, Launch, Overlap, Pending, Reduce};
use crate::{Error, Result};

/// Time limit for processes to join.
const PATIENCE: Duration = Duration::from_secs(600);

thread_local! {
    /// NCCL's communicator, which cannot move between threads.
    static COMM: RefCell<Option<Comm>> = const { RefCell::new(None) };
}

/// A process group with one GPU each.
///
/// Calls are queued on a separate stream. This stream waits for the kernels on candle's stream that compute the
/// operands. candle's stream waits for the result: at once, or for a [started](Communicator::start) mean in
/// [`Pending::wait`], so that kernels in between run concurrently.
///
/// All calls use one NCCL communicator. With two at a time, processes can deadlock unless all of them launch
/// their work in one order. So a second communicator would gain nothing, and each needs its own GPU buffers.
/// The order is the same on all processes as long as a backward pass makes no collective calls
/// ([`Overlap::Quiet`]).
///
/// CPU tensors go directly between hosts, so they do not wait for the GPU.
#[derive(Debug)]
pub struct Nccl {
    rank: usize,
    world: usize,
    device: Device,
    hosts: Hosts,
}

impl Nccl {
    /// Joins the group; all further calls must come from this thread.
    ///
    /// Rank 0 sends NCCL's unique id to the others at `MASTER_ADDR:MASTER_PORT`, or at the next port if `torchrun`
    /// itself listens on that one.
    ///
    /// # Errors
    ///
    /// [`Error::Group`] if a process does not join within ten minutes or NCCL fails.
    pub fn join(launch: &Launch, device: &Device) -> Result<Self> {
        let (rank, world) = (launch.rank, launch.world);
        let cuda = device.as_cuda_device()?;
        let ((host, port), key) = (master()?, rendezvous::Key::from_env());
        let (secret, hosts) = if rank == 0 {
            let id = Id::new().map_err(|error| failed("create a unique id", &error))?;
            let secret = id.internal().map(|byte| byte.to_le_bytes()[0]);
            let listener = listen(&host, port)?;
            let others = rendezvous::serve(&listener, world, (&secret, &key), PATIENCE)?;
            (secret, Hosts::first(others))
        } else {
            let first = format!("{host}:{port}");
            let (secret, stream) = rendezvous::ask(&first, (rank, world), &key, PATIENCE)?;
            (secret, Hosts::other(stream))
        };
        let hosts = hosts.map_err(|error| failed("reach the other hosts", &error))?;
        let id = Id::uninit(secret.map(|byte| std::ffi::c_char::from_le_bytes([byte])));
        let stream = second_stream(&cuda.cuda_stream())
            .map_err(|error| failed("create a stream on the GPU", &error))?;
        let comm = Comm::from_rank(stream, rank, world, id)
            .map_err(|error| failed("join the processes", &error))?;
        if COMM.with_borrow(Option::is_some) {
            return Err(Error::group(
                "NCCL is already initialised in this thread",
                "join the group only once",
            ));
        }
        COMM.set(Some(comm));
        Ok(Self {
            rank,
            world,
            device: device.clone(),
            hosts,
        })
    }
}

/// Listens where the others connect: on the interface of `MASTER_ADDR`, or on all interfaces if this machine does not
/// know that address as its own.
fn listen(host: &str, port: u16) -> Result<TcpListener> {
    let found = TcpListener::bind((host, port)).or_else(|error| {
        if error.kind() == ErrorKind::AddrInUse {
            return Err(error);
        }
        tracing::warn!(
            "MASTER_ADDR {host} is not an address of this machine ({error}): rank 0 listens on all addresses"
        );
        TcpListener::bind(("0.0.0.0", port))
    });
    found.map_err(|error| {
        Error::group(
            format!("rank 0 cannot listen on port {port}: {error}"),
            "set MASTER_PORT to a free port",
        )
    })
}

fn call(xs: &Tensor, op: &Call) -> Result<Tensor> {
    Ok(xs.contiguous()?.apply_op1_no_bwd(op)?)
}

/// Creates another stream on the GPU of `stream`.
///
/// It uses a separate handle of the same context. Otherwise cudarc would guard every candle tensor with
/// events, which the kernels of `ops` do not use, and which cost time in each call. The streams are ordered explicitly
/// here instead.
fn second_stream(stream: &CudaStream) -> std::result::Result<Arc<CudaStream>, DriverError> {
    let context = CudaContext::new(stream.context().ordinal())?;
    context.bind_to_thread()?;
    context.new_stream()
}

/// The address of rank 0.
fn master() -> Result<(String, u16)> {
    let variable = |name: &'static str| {
        std::env::var(name).map_err(|_| {
            Error::config(
                "environment",
                name,
                "not set",
                "processes need it to reach rank 0",
                "set MASTER_ADDR and MASTER_PORT (under SLURM: export MASTER_ADDR=$(scontrol show hostnames \"$SLURM_JOB_NODELIST\" | head -n 1) MASTER_PORT=29500)",
            )
        })
    };
    let text = variable("MASTER_PORT")?;
    let agent = std::env::var("TORCHELASTIC_USE_AGENT_STORE").is_ok_and(|used| used == "True");
    let port = text.parse::<u16>().ok();
    let port = port.and_then(|port| port.checked_add(u16::from(agent)));
    let Some(port) = port else {
        return Err(Error::config(
            "environment",
            "MASTER_PORT",
            text,
            "it is not a port",
            "use 29500, for example",
        ));
    };
    Ok((variable("MASTER_ADDR")?, port))
}

fn failed(action: &str, error: &dyn std::fmt::Debug) -> Error {
    Error::group(
        format!("NCCL cannot {action}: {error:?}"),
        "set NCCL_DEBUG=INFO to see why",
    )
}

impl Communicator for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_reduce(&self, xs: &Tensor, how: Reduce) -> Result<Tensor> {
        if xs.device().is_cpu() {
            let sums = self.hosts.sum(xs.flatten_all()?.to_vec1()?)?;
            let sums = Tensor::from_vec(sums, xs.shape(), xs.device())?;
            return Ok(match how {
                Reduce::Sum => sums,
                Reduce::Mean => (sums / self.world as f64)?,
            });
        }
        call(xs, &Call::Reduce(how))
    }

    fn all_gather(&self, xs: &Tensor) -> Result<Tensor> {
        if xs.device().is_cpu() {
            let mut shape = xs.dims().to_vec();
            shape[0] *= self.world;
            let all = self.hosts.gather(xs.flatten_all()?.to_vec1()?)?;
            return Ok(Tensor::from_vec(all, shape, xs.device())?);
        }
        call(xs, &Call::Gather(self.world))
    }

    fn start(&self, xs: Tensor) -> Result<Pending> {
        if xs.device().is_cpu() {
            return self.all_reduce(&xs, Reduce::Mean).map(Pending::done);
        }
        let xs = xs.contiguous()?;
        let candle = self.device.as_cuda_device()?.cuda_stream();
        xs.inplace_op1(&Mean)?;
        let end = with_comm(|comm| comm.stream().record_event(None).w())?;
        let started = PendingWrite { xs, end, candle };
        Ok(Pending::new(move || {
            let mean = started.xs.clone();
            drop(started);
            Ok(mean)
        }))
    }

    fn overlap(&self) -> Overlap {
        Overlap::Quiet
    }

    fn abort(&self) {
        // Kernels that wait for other processes would keep this process from ending.
        drop(COMM.take());
    }
}

/// A tensor that NCCL writes. On drop, candle's stream waits for NCCL, so later uses of this memory, also by
/// its next owner, come after the write.
struct PendingWrite {
    xs: Tensor,
    end: CudaEvent,
    candle: Arc<CudaStream>,
}

impl Drop for PendingWrite {
    fn drop(&mut self) {
        let context = self.candle.context();
        context.record_err(self.candle.wait(&self.end));
    }
}

/// Replaces a tensor by its mean over all processes, after all queued work of candle's stream and concurrent with later
/// work.
struct Mean;

impl InplaceOp1 for Mean {
    fn name(&self) -> &'static str {
        "nccl"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        bail!("NCCL takes GPU tensors only")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("NCCL takes contiguous tensors only")
        };
        let candle = storage.device().cuda_stream();
        let CudaStorageSlice::F32(values) = &mut storage.slice else {
            bail!("NCCL takes {:?} only", DType::F32)
        };
        let mut values = values.slice_mut(start..end);
        with_comm(|comm| {
            comm.stream().join(&candle).w()?;
            checked(comm.all_reduce_in_place(&mut values, &ReduceOp::Avg))
        })
    }
}

/// Calls NCCL on this thread's communicator.
fn with_comm<T>(call: impl FnOnce(&Comm) -> candle_core::Result<T>) -> candle_core::Result<T> {
    COMM.with_borrow(|comm| match comm {
        Some(comm) => call(comm),
        None => bail!("NCCL must be called from the thread that joined the group"),
    })
}

fn checked(status: std::result::Result<NcclStatus, NcclError>) -> candle_core::Result<()> {
    match status {
        Ok(_) => Ok(()),
        Err(error) => bail!("NCCL failed: {error:?}"),
    }
}

/// A collective on the values of one tensor.
enum Call {
    Reduce(Reduce),
    /// From this number of processes.
    Gather(usize),
}

impl CustomOp1 for Call {
    fn name(&self) -> &'static str {
        "nccl"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        bail!("NCCL takes GPU tensors only")
    }

    fn cuda_fwd(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("NCCL takes contiguous tensors only")
        };
        let CudaStorageSlice::F32(values) = &storage.slice else {
            bail!("NCCL takes {:?} only", DType::F32)
        };
        let (values, device) = (values.slice(start..end), storage.device());
        let mut dims = layout.dims().to_vec();
        if let Self::Gather(world) = self {
            dims[0] *= world;
        }
        let shape = Shape::from(dims);
        let mut found = device.alloc_zeros::<f32>(shape.elem_count())?;
        let candle = device.cuda_stream();
        with_comm(|comm| {
            comm.stream().join(&candle).w()?;
            checked(match self {
                Self::Reduce(how) => {
                    let op = match how {
                        Reduce::Sum => ReduceOp::Sum,
                        Reduce::Mean => ReduceOp::Avg,
                    };
                    comm.all_reduce(&values, &mut found, &op)
                }
                Self::Gather(_) => comm.all_gather(&values, &mut found),
            })?;
            candle.join(&comm.stream()).w()
        })?;
        Ok((CudaStorage::wrap_cuda_slice(found, device.clone()), shape))
    }
}
