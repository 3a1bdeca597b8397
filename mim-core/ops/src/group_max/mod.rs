//! Channel-wise maximum over groups of rows.

mod cpu;
mod reference;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::cpu_slices::{floats, is_f32_on_cpu, last_axis, operand};
use super::grad_accumulator::accumulate_values_or_return;
use super::profile::{Pass, timer};
use crate::{Error, Result};

/// Maximum of each channel over the rows of a group: `[groups, rows, dim]` gives `[groups, dim]`.
///
/// The gradient goes to one row; ties go to the first.
///
/// # Errors
///
/// [`Error::Shape`] if the input has other axes, or a group has no row.
pub fn group_max(xs: &Tensor) -> Result<Tensor> {
    last_axis("group_max", xs)?;
    if xs.rank() != 3 || xs.dim(1)? == 0 {
        return Err(Error::shape(
            "group_max input",
            "[groups, rows, dim] with at least one row",
            xs.dims(),
            "put the rows of a group on the axis before the last",
        ));
    }
    if is_f32_on_cpu(&[xs]) {
        return Ok(xs.contiguous()?.apply_op1(GroupMax)?);
    }
    reference::group_max(xs)
}

struct GroupMax;

impl CustomOp1 for GroupMax {
    fn name(&self) -> &'static str {
        "group_max"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let _timer = timer("group_max", Pass::Forward, layout.dims(), 0.);
        let (groups, rows, dim) = layout.shape().dims3()?;
        let ys = cpu::forward(operand(xs, layout)?, rows, dim);
        Ok((CpuStorage::F32(ys), (groups, dim).into()))
    }

    fn bwd(&self, xs: &Tensor, ys: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let _timer = timer("group_max", Pass::Backward, xs.dims(), 0.);
        let (_, rows, dim) = xs.dims3()?;
        let (grad, ys) = (grad.contiguous()?, ys.contiguous()?);
        let dx = cpu::backward((&floats(xs)?, &floats(&ys)?), &floats(&grad)?, rows, dim);
        accumulate_values_or_return(xs, dx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, check_repeats, random};
    use candle_core::{Device, Var};

    #[test]
    fn follows_the_reference() {
        for shape in [[1, 1, 1], [3, 4, 5], [70, 8, 33], [9, 16, 96]] {
            check(
                &[random(1, &shape)],
                1e-6,
                |t| group_max(&t[0]),
                |t| reference::group_max(&t[0]),
            );
        }
    }

    #[test]
    fn ties_send_the_gradient_to_the_first_row() {
        let xs = Var::new(&[[[2f32, 1.], [2., 3.], [0., 3.]]], &Device::Cpu).unwrap();
        let ys = group_max(&xs).unwrap();
        assert_eq!(ys.to_vec2::<f32>().unwrap(), [[2., 3.]]);
        let grads = ys.sum_all().unwrap().backward().unwrap();
        let grad = grads.get(&xs).unwrap().to_vec3::<f32>().unwrap();
        assert_eq!(grad, [[[1., 0.], [0., 1.], [0., 0.]]]);
    }

    #[test]
    fn repeats_bit_for_bit_and_refuses_other_axes() {
        check_repeats(&[random(3, &[500, 8, 24])], |t| group_max(&t[0]));
        assert!(group_max(&random(1, &[3, 4])).is_err());
    }
}
