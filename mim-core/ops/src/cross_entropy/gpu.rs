//! Cross-entropy on a GPU.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{DType, Result, Tensor};

use crate::gpu::{Arg, Buffer, Grid, Kernel, differentiable, launch};

/// Operands of the kernels: logits, and ids or probabilities.
struct Call {
    logits: Tensor,
    targets: Tensor,
    scale: f32,
}

impl Call {
    /// Numbers of rows and classes.
    fn dims(&self) -> (usize, usize) {
        let dims = self.logits.dims();
        (dims[0], dims[1])
    }

    /// One block per row, one thread per four logits up to the block limit.
    fn grid(&self) -> Grid {
        let (rows, width) = self.dims();
        let threads = u32::try_from(width.div_ceil(4)).unwrap_or(Grid::THREADS);
        let threads = threads.next_multiple_of(32).min(Grid::THREADS);
        Grid::line(rows, threads)
    }

    /// Target arguments of the kernels: ids, probabilities, and the number of rows of probabilities.
    fn targets(&self) -> [Arg<'_>; 3] {
        let shares = self.targets.dtype() != DType::U32;
        [
            Arg::Maybe((!shares).then_some(&self.targets)),
            Arg::Maybe(shares.then_some(&self.targets)),
            Arg::Count(self.targets.dims()[0]),
        ]
    }

    /// Losses, and the row statistics for the backward pass.
    fn forward(&self) -> Result<(Buffer, Tensor)> {
        let (device, (rows, width)) = (self.logits.device(), self.dims());
        let mut losses = Buffer::new(rows, DType::F32, device)?;
        let mut found = Buffer::new((rows, 3), DType::F32, device)?;
        let mut args = vec![Arg::Read(&self.logits)];
        args.extend(self.targets());
        args.extend([
            Arg::Write(&mut losses),
            Arg::Write(&mut found),
            Arg::Count(width),
            Arg::Float(self.scale),
        ]);
        let kernel = Kernel::new("cross_entropy", "cross_entropy_forward");
        // SAFETY: the grid has `rows` blocks; logits are `[rows, width]`, ids `[rows]` or probabilities `[n, width]`,
        // losses `[rows]` and `found` `[rows, 3]`; the kernel checks ids against the width.
        unsafe { launch(device, &kernel, self.grid(), &mut args)? };
        Ok((losses, found.into_tensor()))
    }

    fn backward(&self, found: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let (device, (_, width)) = (self.logits.device(), self.dims());
        let mut dx = Buffer::new(self.logits.shape(), DType::F32, device)?;
        let mut args = vec![Arg::Read(&self.logits)];
        args.extend(self.targets());
        args.extend([
            Arg::Read(found),
            Arg::Read(grad),
            Arg::Write(&mut dx),
            Arg::Count(width),
            Arg::Float(self.scale),
        ]);
        let kernel = Kernel::new("cross_entropy", "cross_entropy_backward");
        // SAFETY: as in `forward`; `grad` is `[rows]` and `dx` has the shape of the logits.
        unsafe { launch(device, &kernel, self.grid(), &mut args)? };
        Ok(dx.into_tensor())
    }
}

/// See [`super::cross_entropy()`] for u32 targets and [`super::soft_cross_entropy`] for f32.
pub(super) fn cross_entropy(logits: &Tensor, targets: &Tensor, scale: f32) -> Result<Tensor> {
    let logits = logits.contiguous()?;
    let call = Call {
        logits: logits.detach(),
        targets: targets.contiguous()?.detach(),
        scale,
    };
    let (losses, found) = call.forward()?;
    differentiable([&logits], losses, move |_, grad| {
        Ok([Some(call.backward(&found, grad)?)])
    })
}

#[cfg(test)]
#[cfg(feature = "cuda")]
mod tests {
    use super::super::testing::{ids, shares};
    use super::super::{cross_entropy, reference, soft_cross_entropy};
    use crate::testing::{check_on_gpu, gpu, random};
    use candle_core::{Device, Tensor, Var};

    #[test]
    fn follows_the_reference() {
        for (rows, width, temperature) in [
            (1, 1, 1.0),
            (4, 5, 0.1),
            (7, 50, 3.0),
            (2, 1030, 1.0),
            (6, 260, 0.04),
        ] {
            let logits = [(random(1, &[rows, width]) * 3.0).unwrap()];
            let there = |ids: &Tensor, t: &[Tensor]| ids.to_device(t[0].device()).unwrap();
            let ids = ids(rows, width);
            check_on_gpu(
                &logits,
                5e-6,
                |t| cross_entropy(&t[0], &there(&ids, t), temperature),
                |t| reference::cross_entropy(&t[0], &ids, temperature),
            );
            for count in [rows, 1] {
                let shares = shares(count, width);
                check_on_gpu(
                    &logits,
                    5e-6,
                    |t| soft_cross_entropy(&t[0], &there(&shares, t), temperature),
                    |t| reference::soft_cross_entropy(&t[0], &shares, temperature),
                );
            }
        }
    }

    #[test]
    fn takes_strided_and_shifted_input() {
        let ids = ids(4, 6);
        let there = |t: &Tensor| ids.to_device(t.device()).unwrap();
        check_on_gpu(
            &[random(1, &[6, 5])],
            5e-6,
            |t| cross_entropy(&t[0].t()?.narrow(0, 1, 4)?, &there(&t[0]), 0.5),
            |t| reference::cross_entropy(&t[0].t()?.narrow(0, 1, 4)?, &ids, 0.5),
        );
        check_on_gpu(
            &[random(1, &[5, 7])],
            5e-6,
            |t| {
                let shares = shares(3, 7).to_device(t[0].device())?;
                soft_cross_entropy(&t[0].narrow(0, 1, 4)?, &shares.narrow(0, 1, 2)?, 0.5)
            },
            |t| {
                let shares = shares(3, 7).narrow(0, 1, 2)?;
                reference::soft_cross_entropy(&t[0].narrow(0, 1, 4)?, &shares, 0.5)
            },
        );
    }

    #[test]
    fn an_invalid_id_gives_nan_in_its_own_row() {
        let device = gpu();
        let logits = random(1, &[3, 5]).to_device(device).unwrap();
        let logits = Var::from_tensor(&logits).unwrap();
        let ids = Tensor::new(&[4u32, 5, u32::MAX], device).unwrap();
        let losses = cross_entropy(&logits, &ids, 1.0).unwrap();
        let finite = |xs: &Tensor| -> Vec<bool> {
            let xs = xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            xs.iter().map(|x| x.is_finite()).collect()
        };
        assert_eq!(finite(&losses), [true, false, false]);
        let grads = losses.sum_all().unwrap().backward().unwrap();
        let want = [[true; 5], [false; 5], [false; 5]].concat();
        assert_eq!(finite(grads.get(&logits).unwrap()), want);
    }

    #[test]
    fn excluded_classes_match_the_cpu() {
        let hidden = f32::NEG_INFINITY;
        let rows = [[0f32, hidden, 0.], [hidden; 3], [1., f32::NAN, 0.]];
        let ids = [0u32, 1, 2];
        let losses = |device: &Device| -> Vec<f32> {
            let logits = Tensor::new(&rows, device).unwrap();
            let ids = Tensor::new(&ids, device).unwrap();
            let shares = Tensor::new(&[[1f32, 0., 0.]], device).unwrap();
            let hard = cross_entropy(&logits, &ids, 1.0).unwrap();
            let soft = soft_cross_entropy(&logits, &shares, 1.0).unwrap();
            Tensor::cat(&[hard, soft], 0).unwrap().to_vec1().unwrap()
        };
        let want = losses(&Device::Cpu);
        let device = gpu();
        for (got, want) in losses(device).iter().zip(&want) {
            assert!(
                got == want || got.is_nan() && want.is_nan(),
                "{got}, {want}"
            );
        }
    }
}
