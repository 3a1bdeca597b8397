//! Products of any size: by a blocked kernel if the CPU supports one, else by `gemm`.

#![expect(
    unsafe_code,
    reason = "kernels take raw pointers; views are checked here"
)]

use candle_core::{Result, bail};

use super::args::{Accumulate, Destination, GemmArgs};
#[cfg(target_arch = "x86_64")]
use super::blocked::GemmKernel;
use super::{Matrix, fallback};
use crate::precision::{Precision, precision};

fn check(lhs: Matrix<'_>, rhs: Matrix<'_>, init: Accumulate<'_>) -> Result<()> {
    let (rows, cols) = (lhs.rows, rhs.cols);
    if lhs.cols != rhs.rows {
        let (inner, other) = (lhs.cols, rhs.rows);
        bail!("cannot multiply {rows} x {inner} by {other} x {cols}");
    }
    let (Accumulate::Row(row) | Accumulate::Rows { row, .. }) = init else {
        return Ok(());
    };
    if row.len() != cols {
        bail!("{} initial values do not fit rows of {cols}", row.len());
    }
    match init {
        Accumulate::Rows { more, .. } if more.len() != rows * cols => {
            bail!("{} initial values do not fit {rows} x {cols}", more.len())
        }
        _ => Ok(()),
    }
}

/// `lhs * rhs` on all threads, added to the initial values; these cannot be [`Accumulate::Sum`].
pub(crate) fn product(lhs: Matrix<'_>, rhs: Matrix<'_>, init: Accumulate<'_>) -> Result<Vec<f32>> {
    check(lhs, rhs, init)?;
    if matches!(init, Accumulate::Sum) {
        bail!("a new product has no previous values to accumulate on");
    }
    let len = lhs.rows * rhs.cols;
    let mut out = Vec::<f32>::with_capacity(len);
    let to = Destination {
        start: out.as_mut_ptr(),
        row_stride: rhs.cols,
        init,
    };
    let call = GemmArgs {
        to,
        scale: 1.0,
        lhs,
        rhs,
        parallel: true,
    };
    // SAFETY: the vector has room for `len` values and no one else sees it. A product that does not accumulate
    // only writes, and it writes every value.
    unsafe {
        run(call, precision());
        out.set_len(len);
    }
    Ok(out)
}

/// `out += lhs * rhs` with a dense `out`, on all threads.
pub(crate) fn add_product(out: &mut [f32], lhs: Matrix<'_>, rhs: Matrix<'_>) -> Result<()> {
    check(lhs, rhs, Accumulate::Sum)?;
    if out.len() != lhs.rows * rhs.cols {
        let (rows, cols, len) = (lhs.rows, rhs.cols, out.len());
        bail!("a product of {rows} x {cols} values does not fit {len}");
    }
    let to = Destination {
        start: out.as_mut_ptr(),
        row_stride: rhs.cols,
        init: Accumulate::Sum,
    };
    let call = GemmArgs {
        to,
        scale: 1.0,
        lhs,
        rhs,
        parallel: true,
    };
    // SAFETY: `out` is borrowed exclusively and has exactly the size of the product.
    unsafe { run(call, precision()) };
    Ok(())
}

/// `to = scale * lhs * rhs`, added to the initial values of `to`, on the calling thread. It is meant for parallel
/// loops, whose threads do not know the caller's precision.
///
/// # Safety
///
/// `to` must have room for `lhs.rows` rows of `rhs.cols` values that no other thread touches. The values must be
/// initialised if the product accumulates on them.
pub(crate) unsafe fn multiply(
    to: Destination<'_>,
    scale: f32,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    precision: Precision,
) -> Result<()> {
    check(lhs, rhs, to.init)?;
    let call = GemmArgs {
        to,
        scale,
        lhs,
        rhs,
        parallel: false,
    };
    // SAFETY: the caller guarantees `to`.
    unsafe { run(call, precision) };
    Ok(())
}

/// # Safety
///
/// As for [`multiply`], and the sizes must match.
unsafe fn run(call: GemmArgs<'_>, precision: Precision) {
    if call.lhs.rows == 0 || call.rhs.cols == 0 {
        return;
    }
    // SAFETY: the caller guarantees `to`; `here` returns only kernels that the CPU supports.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if call.lhs.cols > 0
            && !(precision == Precision::F32 && call.is_small())
            && let Some(kernel) = GemmKernel::here(precision).next()
        {
            return kernel.multiply(call);
        }
        fallback::multiply(call, precision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bfloat::{round_one, widen_one};
    use crate::testing::random;

    /// One implementation of the product.
    type Compute = Box<dyn Fn(GemmArgs<'_>)>;

    /// All implementations available on this CPU, with their names.
    fn implementations(precision: Precision) -> Vec<(&'static str, Compute)> {
        // SAFETY: the tests give it room.
        let by_gemm: Compute = Box::new(move |call| unsafe { fallback::multiply(call, precision) });
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut))]
        let mut all = vec![("gemm", by_gemm)];
        #[cfg(target_arch = "x86_64")]
        all.extend(GemmKernel::here(precision).map(|kernel| {
            // SAFETY: the CPU supports it, and the tests give it room.
            let compute: Compute = Box::new(move |call| unsafe { kernel.multiply(call) });
            (kernel.name, compute)
        }));
        all
    }

    /// `lhs * rhs` on one thread.
    fn plain(compute: &Compute, lhs: Matrix<'_>, rhs: Matrix<'_>) -> Vec<f32> {
        let mut got = vec![0f32; lhs.rows * rhs.cols];
        let to = Destination {
            start: got.as_mut_ptr(),
            row_stride: rhs.cols,
            init: Accumulate::Zero,
        };
        compute(GemmArgs {
            to,
            scale: 1.0,
            lhs,
            rhs,
            parallel: false,
        });
        got
    }

    /// The values that the product sees at this precision.
    fn seen(precision: Precision, values: &[f32]) -> Vec<f64> {
        let seen = |x: &f32| match precision {
            Precision::F32 => f64::from(*x),
            Precision::Bf16 => f64::from(widen_one(round_one(*x))),
        };
        values.iter().map(seen).collect()
    }

    /// Values of a matrix in memory: row-major with gaps, or column-major if `across`.
    fn laid(values: &[f32], [rows, cols]: [usize; 2], across: bool) -> Vec<f32> {
        let stride = if across { rows } else { cols + 3 };
        let mut room = vec![f32::NAN; if across { rows * cols } else { rows * stride }];
        for (at, value) in values.iter().enumerate() {
            let (row, col) = (at / cols, at % cols);
            room[if across {
                col * rows + row
            } else {
                row * stride + col
            }] = *value;
        }
        room
    }

    fn matrix(room: &[f32], [rows, cols]: [usize; 2], across: bool) -> Matrix<'_> {
        match across {
            true => Matrix::dense(room, cols, rows).unwrap().transposed(),
            false => Matrix::new(room, [rows, cols], cols + 3).unwrap(),
        }
    }

    /// `0.5 * a * b`, summed in f64, added to the initial values `init` or to `start`.
    fn exact(
        [a, b]: [&[f64]; 2],
        [rows, inner, cols]: [usize; 3],
        init: Accumulate<'_>,
        start: &[f32],
    ) -> Vec<f64> {
        let value = |at: usize| {
            let (i, j) = (at / cols, at % cols);
            let sum: f64 = (0..inner).map(|k| a[i * inner + k] * b[k * cols + j]).sum();
            let from = match init {
                Accumulate::Zero => 0.0,
                Accumulate::Sum => f64::from(start[at]),
                Accumulate::Row(row) => f64::from(row[j]),
                Accumulate::Rows { row, more } => f64::from(row[j]) + f64::from(more[at]),
            };
            0.5 * sum + from
        };
        (0..rows * cols).map(value).collect()
    }

    /// Compares every implementation with [`exact`], for row-major and column-major operands, on one and on all
    /// threads.
    fn check([rows, inner, cols]: [usize; 3], precision: Precision) {
        let numbers = |seed, len| -> Vec<f32> { random(seed, &[len]).to_vec1().unwrap() };
        let (a, b) = (numbers(1, rows * inner), numbers(2, inner * cols));
        let (row, start) = (numbers(3, cols), numbers(4, rows * cols));
        let [left, right] = [&a, &b].map(|values| seen(precision, values));
        let (row, more) = (&row[..], &start[..]);
        let inits = [
            Accumulate::Zero,
            Accumulate::Sum,
            Accumulate::Row(row),
            Accumulate::Rows { row, more },
        ];
        let wanted = inits.map(|init| exact([&left, &right], [rows, inner, cols], init, &start));
        let tolerance = 4e-6 * (1.0 + (inner as f64).sqrt());
        for turn in 0..4 {
            let (across_a, across_b) = (turn & 1 != 0, turn & 2 != 0);
            let room_a = laid(&a, [rows, inner], across_a);
            let room_b = laid(&b, [inner, cols], across_b);
            let lhs = matrix(&room_a, [rows, inner], across_a);
            let rhs = matrix(&room_b, [inner, cols], across_b);
            let each = |way| inits.iter().zip(&wanted).map(move |pair| (way, pair));
            for ((name, compute), (init, wanted)) in
                implementations(precision).iter().flat_map(each)
            {
                let [got, parallel] = [false, true].map(|parallel| {
                    let mut got = start.clone();
                    let to = Destination {
                        start: got.as_mut_ptr(),
                        row_stride: cols,
                        init: *init,
                    };
                    compute(GemmArgs {
                        to,
                        scale: 0.5,
                        lhs,
                        rhs,
                        parallel,
                    });
                    got
                });
                assert_eq!(got, parallel, "{name}: threads change the result");
                for (got, wanted) in got.iter().zip(wanted) {
                    let error = (f64::from(*got) - wanted).abs();
                    let size = format!("{rows} x {inner} x {cols}, turn {turn}");
                    assert!(error < tolerance, "{name}, {size}: {got} for {wanted}");
                }
            }
        }
    }

    #[test]
    fn every_implementation_gives_the_same_numbers() {
        for size in [
            [1, 1, 1],
            [3, 2, 5],
            [6, 8, 16],
            [14, 16, 32],
            [7, 9, 17],
            [15, 17, 33],
            [32, 32, 32],
            [33, 65, 31],
            [29, 801, 65],
            [150, 70, 140],
            [150, 1, 300],
        ] {
            for precision in [Precision::F32, Precision::Bf16] {
                check(size, precision);
            }
        }
    }

    #[test]
    fn every_implementation_writes_only_its_own_columns() {
        let (a, b) = ([1f32; 20 * 3], [2f32; 3 * 19]);
        let (lhs, rhs) = (
            Matrix::dense(&a, 20, 3).unwrap(),
            Matrix::dense(&b, 3, 19).unwrap(),
        );
        for precision in [Precision::F32, Precision::Bf16] {
            for (name, compute) in implementations(precision) {
                let mut got = vec![-1f32; 20 * 40];
                let to = Destination {
                    start: got[10..].as_mut_ptr(),
                    row_stride: 40,
                    init: Accumulate::Zero,
                };
                compute(GemmArgs {
                    to,
                    scale: 1.0,
                    lhs,
                    rhs,
                    parallel: true,
                });
                for (at, got) in got.iter().enumerate() {
                    let inside = (10..29).contains(&(at % 40));
                    assert_eq!(*got, if inside { 6. } else { -1. }, "{name}: {at}");
                }
            }
        }
    }

    #[test]
    fn every_implementation_rounds_to_even_and_keeps_inf_and_nan() {
        let ulp = 1. / 128.;
        let pairs = [
            (1. + 0.5 * ulp, 1.),
            (1. + 1.5 * ulp, 1. + 2. * ulp),
            (-1. - 0.51 * ulp, -1. - ulp),
            (3.4e38, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
        ];
        let values = pairs.map(|(value, _)| value);
        for (name, compute) in implementations(Precision::Bf16) {
            let one = Matrix::dense(&[1.], 1, 1).unwrap();
            let row = Matrix::dense(&values, 1, values.len()).unwrap();
            let wanted = pairs.map(|(_, rounded)| rounded);
            assert_eq!(plain(&compute, one, row), wanted, "{name}");
            let nans = [0x7fc0_0000, 0x7f80_0001, 0xffff_ffff].map(f32::from_bits);
            for nan in &nans {
                let nan = Matrix::dense(std::slice::from_ref(nan), 1, 1).unwrap();
                assert!(plain(&compute, nan, one)[0].is_nan(), "{name}");
                assert!(plain(&compute, one, nan)[0].is_nan(), "{name}");
            }
        }
    }
}
