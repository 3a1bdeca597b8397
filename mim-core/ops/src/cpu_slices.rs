//! Slices of the values of CPU tensors.

use std::cell::Cell;
use std::ops::{Deref, Range};

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Storage, Tensor, bail};

use crate::{Error, Result};

/// Whether the CPU kernels apply: all tensors are f32 on the CPU.
pub(super) fn is_f32_on_cpu(tensors: &[&Tensor]) -> bool {
    tensors
        .iter()
        .all(|t| t.device().is_cpu() && t.dtype() == DType::F32)
}

/// The dtype in which a reference computes means, sums and exponentials of `dtype`.
pub(super) fn accumulation_dtype(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// The length of the last axis.
///
/// # Errors
///
/// [`Error::Shape`] for a scalar or an empty last axis.
pub(super) fn last_axis(op: &'static str, xs: &Tensor) -> Result<usize> {
    match xs.dims().last() {
        Some(&width) if width > 0 => Ok(width),
        _ => Err(Error::shape(
            format!("{op} input"),
            "[..., dim] with dim > 0",
            xs.dims(),
            "give at least one axis with at least one value",
        )),
    }
}

/// Checks that `tensor` has exactly the shape `want`.
///
/// # Errors
///
/// [`Error::Shape`] if not.
pub(super) fn expect_shape(
    op: &'static str,
    argument: &'static str,
    tensor: &Tensor,
    want: &[usize],
) -> Result<()> {
    if tensor.dims() == want {
        return Ok(());
    }
    Err(Error::shape(
        format!("{op} {argument}"),
        want,
        tensor.dims(),
        "make it match the input",
    ))
}

/// The values of a contiguous f32 operand, as given to a custom op.
pub(super) fn operand<'a>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a fused op got a non-contiguous operand; call `contiguous` on it first"),
    }
}

/// The values of a contiguous f32 tensor on the CPU, locked for reading.
pub(super) fn floats(tensor: &Tensor) -> candle_core::Result<impl Deref<Target = [f32]> + '_> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(values) => operand(values, layout)?,
        _ => bail!("a fused op expected f32 values on the CPU"),
    };
    let start = layout.start_offset();
    Ok(Floats {
        storage,
        range: start..start + layout.shape().elem_count(),
    })
}

/// A range of f32 values behind a read lock; the range was checked.
struct Floats<S> {
    storage: S,
    range: Range<usize>,
}

impl<S: Deref<Target = Storage>> Deref for Floats<S> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => &[],
        }
    }
}

/// Checks the operands of an in-place operation: equal shapes, contiguous `targets`, no shared storage.
///
/// # Errors
///
/// [`Error::Shape`] if shapes differ, [`Error::Unsupported`] if a target cannot be written.
pub(super) fn check_in_place(
    op: &'static str,
    targets: &[&Tensor],
    sources: &[&Tensor],
) -> Result<()> {
    let operands: Vec<&Tensor> = targets.iter().chain(sources).copied().collect();
    for (place, operand) in operands.iter().enumerate() {
        expect_shape(op, "operand", operand, targets[0].dims())?;
        let shared = operands[..place].iter().any(|o| same_storage(o, operand));
        if shared || place < targets.len() && !operand.is_contiguous() {
            return Err(Error::unsupported(
                format!("{op} on views"),
                "its operands are written in place",
                "give contiguous tensors that share no storage",
            ));
        }
    }
    Ok(())
}

fn same_storage(a: &Tensor, b: &Tensor) -> bool {
    let address = |t: &Tensor| std::ptr::from_ref(&*t.storage_and_layout().0).addr();
    address(a) == address(b)
}

/// Calls `f` on the values of a contiguous f32 tensor on the CPU, to change them in place.
///
/// Calls may be nested for tensors that share no storage.
pub(super) fn change<F>(tensor: &Tensor, f: F) -> candle_core::Result<()>
where
    F: FnOnce(&mut [f32]) -> candle_core::Result<()>,
{
    tensor.inplace_op1(&Change(Cell::new(Some(f))))
}

struct Change<F>(Cell<Option<F>>);

impl<F> InplaceOp1 for Change<F>
where
    F: FnOnce(&mut [f32]) -> candle_core::Result<()>,
{
    fn name(&self) -> &'static str {
        "change"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        match (storage, layout.contiguous_offsets(), self.0.take()) {
            (CpuStorage::F32(values), Some((start, end)), Some(f)) => f(&mut values[start..end]),
            _ => bail!("an in-place op needs contiguous f32 values on the CPU"),
        }
    }
}

/// Overwrites a contiguous tensor on any device with values of any float type.
pub(super) fn overwrite(tensor: &Tensor, values: &Tensor) -> Result<()> {
    if tensor.elem_count() == 0 {
        return Ok(());
    }
    let values = values.detach().to_dtype(tensor.dtype())?.contiguous()?;
    Ok(tensor
        .flatten_all()?
        .slice_set(&values.flatten_all()?, 0, 0)?)
}
