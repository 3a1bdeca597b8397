//! Detects the launcher of this process and its process group.

use std::sync::Arc;

use candle_core::Device;

use super::{Communicator, Single};
use crate::{Error, Result};

/// The launcher of the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// `torchrun`, or another launcher that sets `RANK`, `WORLD_SIZE` and `LOCAL_RANK`.
    Torchrun,
    /// `mpirun`.
    Mpi,
    /// SLURM's `srun`.
    Slurm,
}

/// The rank of this process in the group that was launched together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The launcher.
    pub launcher: Launcher,
    /// Rank of this process, from 0.
    pub rank: usize,
    /// Number of processes; more than one.
    pub world: usize,
    /// Rank of this process on its machine, from 0.
    pub local_rank: usize,
}

/// Environment variables of each launcher: rank, number of processes, local rank. Open MPI, then MPICH and its
/// relatives.
const VARIABLES: [(Launcher, [&str; 3]); 4] = [
    (Launcher::Torchrun, ["RANK", "WORLD_SIZE", "LOCAL_RANK"]),
    (
        Launcher::Mpi,
        [
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_LOCAL_RANK",
        ],
    ),
    (Launcher::Mpi, ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"]),
    (
        Launcher::Slurm,
        ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"],
    ),
];

impl Launch {
    /// Reads the environment; `None` if this process was started alone.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if a variable is not a number, or the rank is not below the number of processes.
    pub fn from_env() -> Result<Option<Self>> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let number = |name: &'static str| -> Result<Option<usize>> {
            let Some(text) = get(name) else {
                return Ok(None);
            };
            text.trim().parse().map(Some).map_err(|_| {
                let fix = "start the program by its launcher, or unset the variable";
                Error::config("environment", name, text, "it is not a whole number", fix)
            })
        };
        for (launcher, [rank_name, world_name, local_name]) in VARIABLES {
            // SLURM batch scripts have these variables, too, but only `srun` starts several processes.
            if launcher == Launcher::Slurm && get("SLURM_STEP_ID").is_none() {
                continue;
            }
            let (Some(rank), Some(world)) = (number(rank_name)?, number(world_name)?) else {
                continue;
            };
            if rank >= world {
                return Err(Error::config(
                    "environment",
                    rank_name,
                    rank,
                    format!("ranks must be below {world_name}, {world}"),
                    "give every process its own rank",
                ));
            }
            let local_rank = number(local_name)?.unwrap_or(rank);
            return Ok((world > 1).then_some(Self {
                launcher,
                rank,
                world,
                local_rank,
            }));
        }
        Ok(None)
    }

    /// Index of this process's GPU: its local rank, or 0 if it sees only one GPU.
    pub fn gpu(&self) -> usize {
        let visible = std::env::var("CUDA_VISIBLE_DEVICES");
        match visible {
            Ok(list) if !list.is_empty() && !list.contains(',') => 0,
            _ => self.local_rank,
        }
    }
}

/// Joins the process group of `launch` for training on `device`: by NCCL if `torchrun` or SLURM started the processes
/// on GPUs, otherwise by MPI. Without `launch`, this process is alone.
///
/// The group must be used from the calling thread.
///
/// # Errors
///
/// [`Error::Unsupported`] if the program was built without the needed feature, [`Error::Group`] if a process
/// cannot be reached.
pub fn join(launch: Option<&Launch>, device: &Device) -> Result<Arc<dyn Communicator>> {
    let Some(launch) = launch else {
        return Ok(Arc::new(Single));
    };
    match launch.launcher {
        Launcher::Torchrun | Launcher::Slurm if device.is_cuda() => join_nccl(launch, device),
        Launcher::Torchrun => Err(Error::unsupported(
            "training on CPUs by torchrun",
            "torchrun processes are joined by NCCL, which needs GPUs",
            "start it with mpirun (--features mpi), or use --device cuda",
        )),
        Launcher::Mpi | Launcher::Slurm => join_mpi(launch),
    }
}

#[cfg(feature = "nccl")]
fn join_nccl(launch: &Launch, device: &Device) -> Result<Arc<dyn Communicator>> {
    Ok(Arc::new(super::Nccl::join(launch, device)?))
}

#[cfg(not(feature = "nccl"))]
fn join_nccl(launch: &Launch, _device: &Device) -> Result<Arc<dyn Communicator>> {
    Err(without(launch, "nccl"))
}

#[cfg(feature = "mpi")]
fn join_mpi(launch: &Launch) -> Result<Arc<dyn Communicator>> {
    let mpi = super::Mpi::join()?;
    if mpi.world() == launch.world {
        return Ok(Arc::new(mpi));
    }
    Err(Error::group(
        format!(
            "{} processes were started, but MPI knows of {}",
            launch.world,
            mpi.world()
        ),
        "use the mpirun of the MPI library that the program was built with (under SLURM: srun --mpi=pmix)",
    ))
}

#[cfg(not(feature = "mpi"))]
fn join_mpi(launch: &Launch) -> Result<Arc<dyn Communicator>> {
    Err(without(launch, "mpi"))
}

/// Refuses to continue: each process would train alone and write into the same folder.
#[cfg(not(all(feature = "mpi", feature = "nccl")))]
fn without(launch: &Launch, feature: &str) -> Error {
    Error::unsupported(
        format!("training in {} processes", launch.world),
        format!("this program was built without {feature}"),
        format!("build it with --features {feature}, or start a single process"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(variables: &[(&str, &str)]) -> Result<Option<Launch>> {
        Launch::from_variables(|wanted| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn each_launcher_is_detected_by_its_variables() {
        let mpirun = [
            ("OMPI_COMM_WORLD_RANK", "3"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ];
        let of = |launcher, local_rank| {
            let (rank, world) = (3, 4);
            Some(Launch {
                launcher,
                rank,
                world,
                local_rank,
            })
        };
        assert_eq!(launch(&mpirun).unwrap(), of(Launcher::Mpi, 1));
        let torchrun = [("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "0")];
        assert_eq!(launch(&torchrun).unwrap(), of(Launcher::Torchrun, 0));
        let mpich = [("PMI_RANK", "3"), ("PMI_SIZE", "4")];
        assert_eq!(launch(&mpich).unwrap(), of(Launcher::Mpi, 3));
        let srun = [
            ("SLURM_PROCID", "3"),
            ("SLURM_NTASKS", "4"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_ID", "0"),
        ];
        assert_eq!(launch(&srun).unwrap(), of(Launcher::Slurm, 1));
    }

    #[test]
    fn one_process_is_no_group() {
        assert_eq!(launch(&[]).unwrap(), None);
        assert_eq!(launch(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), None);
        // A batch script of SLURM.
        let batch = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")];
        assert_eq!(launch(&batch).unwrap(), None);
    }

    #[test]
    fn bad_numbers_are_named() {
        let error = |rank| {
            let found = launch(&[("RANK", rank), ("WORLD_SIZE", "4")]);
            found.unwrap_err().to_string()
        };
        assert!(error("two").contains("`RANK` is two"), "{}", error("two"));
        assert!(error("4").contains("below WORLD_SIZE, 4"), "{}", error("4"));
    }

    #[test]
    fn torchrun_on_a_cpu_is_refused() {
        let launch = launch(&[("RANK", "1"), ("WORLD_SIZE", "2")]).unwrap();
        let error = join(launch.as_ref(), &Device::Cpu).err().unwrap();
        assert!(error.to_string().contains("mpirun"), "{error}");
        assert_eq!(join(None, &Device::Cpu).unwrap().world(), 1);
    }
}
