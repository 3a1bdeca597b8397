//! Processes with a GPU each, joined by NCCL.

use std::cell::OnceCell;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, ReduceOp};
use candle_core::cuda_backend::{CudaStorage, CudaStorageSlice};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor, bail};

use super::rendezvous;
use super::{Communicator, Launch, Reduce};
use crate::{Error, Result};

/// How long processes wait for each other at the start.
const PATIENCE: Duration = Duration::from_secs(600);

thread_local! {
    /// NCCL's handle, which may not change threads.
    static COMM: OnceCell<Comm> = const { OnceCell::new() };
}

/// A group of processes with one GPU each.
///
/// Calls are queued on candle's stream, so they follow the kernels that make their operands.
#[derive(Debug)]
pub struct Nccl {
    rank: usize,
    world: usize,
    device: Device,
}

impl Nccl {
    /// Joins the group; all further calls must come from this thread.
    ///
    /// Rank 0 hands NCCL's id to the others at `MASTER_ADDR:MASTER_PORT`, or at the next port where `torchrun`
    /// itself listens on that one.
    ///
    /// # Errors
    ///
    /// [`Error::Group`] if a process does not come within ten minutes or NCCL fails.
    pub fn join(launch: &Launch, device: &Device) -> Result<Self> {
        let (rank, world) = (launch.rank, launch.world);
        let cuda = device.as_cuda_device()?;
        let (host, port) = master()?;
        let secret = if rank == 0 {
            let id = Id::new().map_err(|error| failed("make an id", &error))?;
            let secret = id.internal().map(|byte| byte.to_le_bytes()[0]);
            let listener = TcpListener::bind(("0.0.0.0", port)).map_err(|error| {
                Error::group(
                    format!("rank 0 cannot listen on port {port}: {error}"),
                    "set MASTER_PORT to a free port",
                )
            })?;
            rendezvous::serve(&listener, world, &secret, PATIENCE)?;
            secret
        } else {
            rendezvous::ask(&format!("{host}:{port}"), (rank, world), PATIENCE)?
        };
        let id = Id::uninit(secret.map(|byte| std::ffi::c_char::from_le_bytes([byte])));
        let stream: Arc<CudaStream> = cuda.cuda_stream();
        let bound = stream.context().bind_to_thread();
        bound.map_err(|error| failed("use the GPU", &error))?;
        let comm = Comm::from_rank(stream, rank, world, id)
            .map_err(|error| failed("join the processes", &error))?;
        if COMM.with(|cell| cell.set(comm)).is_err() {
            return Err(Error::group(
                "NCCL was started before in this thread",
                "join the group once",
            ));
        }
        Ok(Self {
            rank,
            world,
            device: device.clone(),
        })
    }

    fn call(&self, xs: &Tensor, op: Call) -> Result<Tensor> {
        let xs = xs.to_device(&self.device)?.contiguous()?;
        Ok(xs.apply_op1_no_bwd(&op)?)
    }
}

/// The address of rank 0.
fn master() -> Result<(String, u16)> {
    let variable = |name: &'static str| {
        std::env::var(name).map_err(|_| {
            Error::config(
                "environment",
                name,
                "not set",
                "it says where rank 0 is",
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
            "use for instance 29500",
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
        let found = self.call(xs, Call::Reduce(how))?;
        Ok(found.to_device(xs.device())?)
    }

    fn all_gather(&self, xs: &Tensor) -> Result<Tensor> {
        let found = self.call(xs, Call::Gather(self.world))?;
        Ok(found.to_device(xs.device())?)
    }
}

/// A call on the values of one tensor.
enum Call {
    Reduce(Reduce),
    /// From so many processes.
    Gather(usize),
}

impl CustomOp1 for Call {
    fn name(&self) -> &'static str {
        "nccl"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        bail!("NCCL takes tensors on a GPU only")
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
        COMM.with(|comm| {
            let Some(comm) = comm.get() else {
                bail!("NCCL was called from another thread than the one that joined the group")
            };
            let status = match self {
                Self::Reduce(how) => {
                    let op = match how {
                        Reduce::Sum => ReduceOp::Sum,
                        Reduce::Mean => ReduceOp::Avg,
                    };
                    comm.all_reduce(&values, &mut found, &op)
                }
                Self::Gather(_) => comm.all_gather(&values, &mut found),
            };
            status.map_err(|error| candle_core::Error::Msg(format!("NCCL failed: {error:?}")))
        })?;
        Ok((CudaStorage::wrap_cuda_slice(found, device.clone()), shape))
    }
}
