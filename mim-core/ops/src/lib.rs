//! The differentiable operations that layers are built from, and the operations that update parameters.
//!
//! Each op is a folder: `mod.rs` checks arguments and dispatches, `cpu.rs` holds the f32 kernels for
//! the CPU, and `reference.rs` implements the op in plain candle operations. The reference is
//! the oracle of the tests, and the implementation for every other device and dtype. Kernels use AVX-512 or
//! AVX2 if the CPU has them, detected at run time. All kernels but matrix products give the same
//! bits on every machine. Sums are split into blocks by size alone, so threads never
//! change a result. Matrix products use blocked kernels on AVX-512 and AMX, and the crate `gemm`
//! on other machines and for small sizes. They run in f32 or bf16 ([`with_precision`]).
//!
//! The kernels for CUDA devices are in `gpu.rs` and `gpu/kernels`; ops without one use the reference there.
//!
//! candle's own `softmax_last_dim`, `layer_norm` and `rms_norm` drop gradients without an error;
//! these ops do not.

mod adamw;
mod alloc_uninit;
mod attention;
mod batch_norm;
mod bfloat;
mod clip_norm;
mod cpu_instructions;
mod cpu_slices;
mod cross_entropy;
mod depthwise_conv;
mod device_copy;
mod ema_update;
mod error;
mod farthest_points;
mod gather_rows;
mod gelu;
mod gpu;
pub mod grad_accumulator;
mod group_max;
mod hog;
mod lars;
mod layer_norm;
mod linear;
mod linear_gelu;
mod matmul;
mod multi_operand;
mod nearest_points;
mod normalize_bytes;
mod partition;
mod point_axes;
mod precision;
mod profile;
mod quick_gelu;
mod recompute;
mod residual;
mod simd;
mod softmax;
mod sum_squares;
#[cfg(test)]
mod testing;
mod unfold;

pub use adamw::{AdamWParam, AdamWStep, adamw_step, adamw_steps};
pub use attention::{attention, cross_attention};
pub use batch_norm::{AllReduceSum, BatchNormOutput, batch_norm, sum_over_all, sync_batch_norm};
pub use clip_norm::{MaxNorm, clip_norm};
pub use cpu_instructions::cpu_instructions;
pub use cross_entropy::{cross_entropy, soft_cross_entropy};
pub use depthwise_conv::depthwise_conv;
pub use device_copy::{AsyncDownload, to_device, upload};
pub use ema_update::{ema_update, ema_updates};
pub use error::{Error, Result};
pub use farthest_points::farthest_points;
pub use gather_rows::{gather_rows, gather_tokens};
pub use gelu::gelu;
pub use gpu::{launches, peak_memory};
pub use group_max::group_max;
pub use hog::{HogFilter, HogGradient, hog};
pub use lars::{LarsParam, LarsStep, lars_steps};
pub use layer_norm::{layer_norm, normalize};
pub use linear::linear;
pub use linear_gelu::linear_gelu;
pub use nearest_points::nearest_points;
pub use normalize_bytes::normalize_bytes;
pub use precision::{Precision, with_precision};
pub use profile::{Cost, Pass, Profile, profiled};
pub use quick_gelu::quick_gelu;
pub use recompute::recompute;
pub use residual::{Affine, HalfBlock, residual_attention, residual_mlp};
pub use softmax::softmax;
pub use sum_squares::{sum_squares, sums_of_squares};
pub use unfold::{Window, unfold};
