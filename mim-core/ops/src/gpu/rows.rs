//! Small row operations that several ops share.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{DType, Result, Tensor};

use super::{Arg, Buffer, Grid, Kernel, launch, type_name};

/// Values per thread.
const FOUR: usize = 4;

/// A grid with one thread per four values.
pub(crate) fn fours(values: usize) -> Grid {
    Grid::each(values.div_ceil(FOUR))
}

/// A grid with one warp per row.
pub(crate) fn warps(rows: usize) -> Grid {
    const ROWS: u32 = 8;
    Grid {
        blocks: [rows.div_ceil(ROWS as usize), 1, 1],
        threads: [32, ROWS, 1],
        shared: 0,
    }
}

/// Partition of the rows of a matrix for sums; it depends on the size alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) count: usize,
    pub(crate) rows: usize,
    pub(crate) grid: Grid,
}

impl Parts {
    pub(crate) fn of(rows: usize, width: usize) -> Self {
        /// Enough blocks to fill a GPU four times.
        const BLOCKS: usize = 512;
        /// Minimum rows per part.
        const ROWS: usize = 64;
        let columns = width.div_ceil(32).max(1);
        let count = (BLOCKS / columns).clamp(1, rows.div_ceil(ROWS).max(1));
        let rows = rows.div_ceil(count).max(1);
        Self {
            count,
            rows,
            grid: Grid {
                blocks: [columns, count, 1],
                threads: [32, 16, 1],
                shared: 0,
            },
        }
    }
}

/// Converts to another float dtype; returns the input if it has that dtype already.
pub(crate) fn cast(xs: &Tensor, dtype: DType) -> Result<Tensor> {
    let xs = xs.contiguous()?;
    if xs.dtype() == dtype {
        return Ok(xs);
    }
    Ok(convert(&xs, dtype)?.into_tensor())
}

/// Converts a contiguous tensor to another float dtype.
pub(crate) fn convert(xs: &Tensor, dtype: DType) -> Result<Buffer> {
    let (from, to) = (type_name(xs.dtype())?, type_name(dtype)?);
    let mut ys = Buffer::new(xs.shape(), dtype, xs.device())?;
    let total = xs.elem_count();
    let kernel = Kernel::new("rows", format!("convert_{from}_{to}"));
    let mut args = [Arg::Read(xs), Arg::Write(&mut ys), Arg::Long(total)];
    // SAFETY: both operands hold `total` values.
    unsafe { launch(xs.device(), &kernel, fours(total), &mut args)? };
    Ok(ys)
}

/// `bias`, or `more + bias`, in every row: the initial value of a product. All are f32.
pub(crate) fn start_rows(bias: &Tensor, more: Option<&Tensor>, rows: usize) -> Result<Buffer> {
    let width = bias.elem_count();
    let total = rows * width;
    let mut ys = Buffer::new((rows, width), DType::F32, bias.device())?;
    let mut args = [
        Arg::Read(bias),
        Arg::Maybe(more),
        Arg::Write(&mut ys),
        Arg::Count(total),
        Arg::Count(width),
    ];
    let kernel = Kernel::new("rows", "start_rows");
    // SAFETY: `more` and `ys` hold `total` values, `bias` `width`.
    unsafe { launch(bias.device(), &kernel, fours(total), &mut args)? };
    Ok(ys)
}

/// `ys += bias` in every row of a bf16 or f32 matrix.
pub(crate) fn add_bias(ys: &Tensor, bias: &Tensor) -> Result<()> {
    let total = ys.elem_count();
    let kernel = Kernel::new("rows", format!("add_bias_{}", type_name(ys.dtype())?));
    let mut args = [
        Arg::Change(ys),
        Arg::Read(bias),
        Arg::Count(total),
        Arg::Count(bias.elem_count()),
    ];
    // SAFETY: the rows of `ys` are as wide as the bias.
    unsafe { launch(ys.device(), &kernel, fours(total), &mut args) }
}

/// The sum over all rows of a bf16 or f32 matrix, `[width]` in f32: the gradient of a bias.
pub(crate) fn column_sums(xs: &Tensor, width: usize) -> Result<Tensor> {
    let rows = xs.elem_count() / width;
    let parts = Parts::of(rows, width);
    let mut partials = Buffer::new((parts.count, width), DType::F32, xs.device())?;
    let kernel = Kernel::new("rows", format!("column_sums_{}", type_name(xs.dtype())?));
    let mut args = [
        Arg::Read(xs),
        Arg::Write(&mut partials),
        Arg::Count(rows),
        Arg::Count(width),
        Arg::Count(parts.rows),
    ];
    // SAFETY: `xs` is `[rows, width]`, and there is one row of partial sums per block along the second axis.
    unsafe { launch(xs.device(), &kernel, parts.grid, &mut args)? };
    add_partials(&partials.into_tensor())
}

/// The sum of `[parts, width]` over the parts.
pub(crate) fn add_partials(partials: &Tensor) -> Result<Tensor> {
    let (parts, width) = partials.dims2()?;
    if parts == 1 {
        return partials.flatten_all();
    }
    let mut sums = Buffer::new(width, DType::F32, partials.device())?;
    let mut args = [
        Arg::Read(partials),
        Arg::Write(&mut sums),
        Arg::Count(parts),
        Arg::Count(width),
    ];
    let kernel = Kernel::new("rows", "add_partials");
    let grid = Grid::line(width.div_ceil(64), 64);
    // SAFETY: the shapes are those the kernel takes.
    unsafe { launch(partials.device(), &kernel, grid, &mut args)? };
    Ok(sums.into_tensor())
}
