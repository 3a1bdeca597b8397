//! Tensor operations with gradients for vision transformers, on candle: attention, norms, linear layers, losses, and the
//! steps of optimizers.
//!
//! An operation is a function on candle's [`Tensor`](candle_core::Tensor). Its gradient is written by hand, and candle's
//! `backward` uses it. The kernels for CPUs use AVX2, AVX-512 or AMX, whichever the machine has. The feature `cuda` adds
//! kernels for NVIDIA GPUs. On any other device or dtype an operation runs as plain candle operations.
//!
//! | task | operations |
//! |---|---|
//! | attention | [`attention()`], [`cross_attention()`] |
//! | layers | [`linear()`], [`linear_gelu()`], [`depthwise_conv()`], [`unfold()`], [`gelu()`], [`quick_gelu()`], [`softmax()`] |
//! | norms | [`layer_norm()`], [`normalize()`], [`batch_norm()`], [`sync_batch_norm()`] |
//! | half a transformer block at once | [`residual_attention()`], [`residual_mlp()`], [`recompute()`] |
//! | losses | [`cross_entropy()`], [`soft_cross_entropy()`] |
//! | rows and tokens | [`gather_rows()`], [`gather_tokens()`] |
//! | images and point clouds | [`hog()`], [`normalize_bytes()`], [`farthest_points()`], [`nearest_points()`], [`group_max()`] |
//! | training steps | [`adamw_steps()`], [`lars_steps()`], [`ema_updates()`], [`clip_norm()`], [`sums_of_squares()`] |
//! | copies to and from a GPU | [`upload()`], [`to_device()`], [`AsyncDownload`] |
//! | matrix products on slices | [`matmul()`], [`Matrix`], [`MatmulBlocks`] |
//! | measurements | [`profiled()`], [`cpu_instructions()`], [`launches()`], [`peak_memory()`] |
//!
//! # Attention
//!
//! ```
//! use candle_core::{Device, Var};
//! use mim_ops::attention;
//!
//! // Two images of 5 tokens of width 8. Queries, keys and values lie side by side, as in timm.
//! let qkv = Var::randn(0f32, 1., (2, 5, 3 * 8), &Device::Cpu)?;
//! let heads = 2;
//! let ys = attention(&qkv, heads, None, (8f64 / 2.).powf(-0.5))?;
//! assert_eq!(ys.dims(), [2, 5, 8]);
//!
//! let grads = ys.sqr()?.sum_all()?.backward()?;
//! assert_eq!(grads.get(&qkv).expect("it is trained").dims(), [2, 5, 24]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Norms that train
//!
//! In candle 0.11, `ops::layer_norm`, `ops::softmax_last_dim` and `ops::rms_norm` return no gradient, and no error. The
//! operations here return both values and gradients.
//!
//! ```
//! use candle_core::{DType, Device, Tensor, Var};
//! use mim_ops::layer_norm;
//!
//! let xs = Var::new(&[[1f32, 2., 3., 6.]], &Device::Cpu)?;
//! let weight = Var::ones(4, DType::F32, &Device::Cpu)?;
//! let bias = Var::zeros(4, DType::F32, &Device::Cpu)?;
//! let ys = layer_norm(&xs, &weight, &bias, 1e-6)?;
//! assert!(ys.mean_all()?.to_scalar::<f32>()?.abs() < 1e-6);
//!
//! let grads = ys.sqr()?.sum_all()?.backward()?;
//! assert!([&xs, &weight, &bias].iter().all(|var| grads.get(var).is_some()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Only some tokens
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use mim_ops::gather_tokens;
//!
//! // The first and the last of four tokens, in every image.
//! let tokens = Tensor::arange(0f32, 8., &Device::Cpu)?.reshape((2, 4, 1))?;
//! let kept = gather_tokens(&tokens, &[0, 3])?;
//! assert_eq!(kept.flatten_all()?.to_vec1::<f32>()?, [0., 3., 4., 7.]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A step of AdamW
//!
//! Optimizer steps change tensors in place. [`adamw_steps`] does the same for many parameters at once.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use mim_ops::{AdamWStep, adamw_step};
//!
//! let param = Var::new(&[1f32, -2.], &Device::Cpu)?;
//! let grad = Tensor::new(&[0.5f32, 0.5], &Device::Cpu)?;
//! let (mean, mean_of_squares) = (param.zeros_like()?, param.zeros_like()?);
//! let (beta1, beta2, eps) = (0.9, 0.999, 1e-8);
//! let step = AdamWStep { lr: 0.1, beta1, beta2, eps, weight_decay: 0., step: 1 };
//! adamw_step(&param, &grad, &mean, &mean_of_squares, &step)?;
//!
//! // The first step is as long as the learning rate.
//! let moved = param.to_vec1::<f32>()?;
//! assert!((moved[0] - 0.9).abs() < 1e-6 && (moved[1] + 2.1).abs() < 1e-6);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Precision and profiles
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use mim_ops::{Pass, Precision, linear, profiled, with_precision};
//!
//! let xs = Tensor::ones((64, 32), candle_core::DType::F32, &Device::Cpu)?;
//! let weight = xs.narrow(0, 0, 16)?;
//! let product = || with_precision(Precision::Bf16, || linear(&xs, &weight, None));
//! let (ys, profile) = profiled(product);
//! // Sums are f32, so the result is exact here.
//! assert_eq!(ys?.sum_all()?.to_scalar::<f32>()?, 64. * 16. * 32.);
//! assert_eq!(profile[&("linear", Pass::Forward, vec![64, 32])].flop, 2. * 64. * 16. * 32.);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The same numbers everywhere
//!
//! Sums are split into blocks by size alone, so the number of threads never changes a result. All kernels for CPUs but
//! matrix products give the same bits on every machine. Matrix products use blocked kernels on AVX-512 and AMX, and the
//! crate `gemm` on other machines and for small sizes.
//!
//! # Features
//!
//! All are off by default.
//!
//! | feature | what it adds |
//! |---|---|
//! | `cuda` | kernels for NVIDIA GPUs; the build needs `nvcc` |
//! | `cudnn` | `cuda`, with cuDNN for candle's own convolutions |
//! | `mkl` | Intel's MKL for candle's own matrix products |
//! | `accelerate` | Apple's Accelerate for the same |
//! | `metal` | candle's Metal device, where operations run as plain candle operations |
//!
//! With a clone next to your program:
//!
//! ```toml
//! [dependencies]
//! mim-ops = { path = "../mim/mim-core/ops", features = ["cuda"] }
//! ```
//!
//! # Layout
//!
//! Each operation is a folder: `mod.rs` checks arguments and dispatches, `cpu.rs` holds the f32 kernels for the CPU,
//! `gpu.rs` the calls of the CUDA kernels, and `reference.rs` the operation in plain candle operations. The reference is
//! the oracle of the tests.

#![cfg_attr(docsrs, feature(doc_cfg))]

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
pub use matmul::{MatmulBlocks, Matrix, matmul};
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
