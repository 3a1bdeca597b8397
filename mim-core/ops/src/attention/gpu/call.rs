//! One attention call on a GPU; neither pass writes the weights to memory.

#![expect(unsafe_code, reason = "launches CUDA kernels")]

use candle_core::{DType, Device, Result, Tensor};

use crate::attention::cpu::Sizes;
use crate::gpu::{Arg, Buffer, Grid, Kernel, launch, rows, type_name};

/// The largest head width that the kernels take.
pub(crate) const WIDEST: usize = 128;

/// Queries, keys and values of one dtype, f32 or bf16.
#[derive(Clone)]
pub(crate) enum Inputs {
    /// `[batch, tokens, 3 * dim]`.
    Packed(Tensor),
    /// `[batch, queries, dim]` and `[batch, keys, 2 * dim]`.
    Apart(Tensor, Tensor),
}

/// The tensor that holds a part of the inputs, the offset of the part, and its row stride.
type Place<'a> = (&'a Tensor, usize, usize);

impl Inputs {
    fn places(&self, dim: usize) -> [Place<'_>; 3] {
        match self {
            Self::Packed(qkv) => [0, dim, 2 * dim].map(|start| (qkv, start, 3 * dim)),
            Self::Apart(q, kv) => [(q, 0, dim), (kv, 0, 2 * dim), (kv, dim, 2 * dim)],
        }
    }

    /// Uninitialised buffers for the gradients.
    fn unwritten(&self) -> Result<Self> {
        let like = |t: &Tensor| -> Result<Tensor> {
            Ok(Buffer::new(t.shape(), t.dtype(), t.device())?.into_tensor())
        };
        Ok(match self {
            Self::Packed(qkv) => Self::Packed(like(qkv)?),
            Self::Apart(q, kv) => Self::Apart(like(q)?, like(kv)?),
        })
    }

    pub(super) fn first(&self) -> &Tensor {
        match self {
            Self::Packed(qkv) => qkv,
            Self::Apart(q, _) => q,
        }
    }
}

/// The operands and sizes of one attention call.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) inputs: Inputs,
    /// f32, contiguous, as [`attention()`](crate::attention()) takes it.
    pub(crate) bias: Option<Tensor>,
    pub(crate) sizes: Sizes,
    pub(crate) scale: f32,
}

/// The output, in the dtype of the inputs, and the log-sum-exp of the scores.
pub(crate) struct Attended {
    pub(crate) ys: Buffer,
    pub(crate) lse: Tensor,
}

impl Call {
    fn dim(&self) -> usize {
        self.sizes.heads * self.sizes.head_dim
    }

    fn dtype(&self) -> DType {
        self.inputs.first().dtype()
    }

    fn device(&self) -> &Device {
        self.inputs.first().device()
    }

    fn kernel(&self, file: &'static str) -> Result<Kernel> {
        let width = match self.sizes.head_dim {
            ..=32 => 32,
            33..=64 => 64,
            _ => WIDEST,
        };
        let name = format!("{file}_{}_{width}", type_name(self.dtype())?);
        Ok(Kernel::new(file, name))
    }

    /// One block per tile of queries or keys of a head; `rows` and `threads` are the f32 values.
    fn grid(&self, count: usize, (rows, threads): (usize, u32)) -> Grid {
        let (rows, threads) = match (self.dtype(), self.sizes.head_dim > 64) {
            (DType::BF16, _) => (64, 128),
            (_, false) => (rows, threads),
            (_, true) => (rows / 2, threads / 2),
        };
        let pairs = self.sizes.batch * self.sizes.heads;
        Grid::line(count.div_ceil(rows) * pairs, threads)
    }

    /// The leading arguments of every kernel: inputs and bias.
    fn operands(&self) -> Vec<Arg<'_>> {
        let mut args = Vec::new();
        for (tensor, start, row) in self.inputs.places(self.dim()) {
            args.extend([Arg::ReadAt(tensor, start), Arg::Long(row)]);
        }
        let strides = match self.bias.as_ref().map(Tensor::dims) {
            Some(&[images, heads, queries, keys]) => {
                let head = if heads == 1 { 0 } else { queries * keys };
                [images, heads * queries * keys, head, keys]
            }
            _ => [1, 0, 0, 0],
        };
        let [images, image, head, row] = strides;
        args.extend([Arg::Maybe(self.bias.as_ref()), Arg::Count(images)]);
        args.extend([image, head, row].map(Arg::Long));
        args
    }

    /// The trailing arguments of every kernel.
    fn numbers(&self) -> [Arg<'static>; 5] {
        let Sizes {
            queries,
            keys,
            heads,
            head_dim,
            ..
        } = self.sizes;
        let [a, b, c, d] = [queries, keys, heads, head_dim].map(Arg::Count);
        [a, b, c, d, Arg::Float(self.scale)]
    }

    pub(crate) fn forward(&self) -> Result<Attended> {
        let Sizes {
            batch,
            queries,
            heads,
            ..
        } = self.sizes;
        let shape = (batch, queries, self.dim());
        let mut ys = Buffer::new(shape, self.dtype(), self.device())?;
        let mut lse = Buffer::new((batch, heads, queries), DType::F32, self.device())?;
        let mut args = self.operands();
        args.extend([Arg::Write(&mut ys), Arg::Write(&mut lse)]);
        args.extend(self.numbers());
        let (kernel, grid) = (
            self.kernel("attention_forward")?,
            self.grid(queries, (64, 256)),
        );
        // SAFETY: `sizes` was checked against the inputs and the bias; the outputs have the kernel's shapes.
        unsafe { launch(self.device(), &kernel, grid, &mut args)? };
        let lse = lse.into_tensor();
        Ok(Attended { ys, lse })
    }

    /// The gradients of the inputs, in the dtype of the output's gradient, and the gradient of the bias if
    /// `wanted`.
    pub(crate) fn backward(
        &self,
        (ys, lse): (&Tensor, &Tensor),
        grad: &Tensor,
        wanted: bool,
    ) -> Result<(Inputs, Option<Tensor>)> {
        let Sizes {
            batch,
            queries,
            keys,
            heads,
            ..
        } = self.sizes;
        let delta = self.delta(ys, grad)?;
        let upstream = || {
            let mut args = self.operands();
            args.extend([Arg::Read(grad), Arg::Read(lse), Arg::Read(&delta)]);
            args
        };
        let mut scores = match wanted {
            true => Some(Buffer::new(
                (batch, heads, queries, keys),
                DType::F32,
                self.device(),
            )?),
            false => None,
        };
        let gradients = self.inputs.unwritten()?;
        let [
            (dq, q_start, q_row),
            (dk, k_start, k_row),
            (dv, v_start, v_row),
        ] = gradients.places(self.dim());

        let mut args = upstream();
        args.extend([Arg::ChangeAt(dq, q_start), Arg::Long(q_row)]);
        args.push(Arg::MaybeWrite(scores.as_mut()));
        args.extend(self.numbers());
        let kernel = self.kernel("attention_queries_backward")?;
        // SAFETY: as in the forward pass; gradients have the layout of the inputs, and there is one score per pair.
        unsafe {
            launch(
                self.device(),
                &kernel,
                self.grid(queries, (32, 128)),
                &mut args,
            )?;
        }

        let mut args = upstream();
        args.extend([Arg::ChangeAt(dk, k_start), Arg::Long(k_row)]);
        args.extend([Arg::ChangeAt(dv, v_start), Arg::Long(v_row)]);
        args.extend(self.numbers());
        let kernel = self.kernel("attention_keys_backward")?;
        // SAFETY: as above.
        unsafe {
            launch(
                self.device(),
                &kernel,
                self.grid(keys, (32, 128)),
                &mut args,
            )?
        };
        drop(args);
        let bias = match (scores, &self.bias) {
            (Some(scores), Some(bias)) => Some(self.bias_gradient(&scores.into_tensor(), bias)?),
            _ => None,
        };
        Ok((gradients, bias))
    }

    /// The output in f32, which represents the kernel's values exactly, and the log-sum-exp.
    pub(super) fn result(&self) -> Result<(Buffer, Tensor)> {
        let Attended { ys, lse } = self.forward()?;
        let ys = match ys.dtype() {
            DType::F32 => ys,
            _ => rows::convert(&ys.into_tensor(), DType::F32)?,
        };
        Ok((ys, lse))
    }

    /// The product of output and its gradient, summed over each head.
    fn delta(&self, ys: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let Sizes {
            batch,
            queries,
            heads,
            head_dim,
            ..
        } = self.sizes;
        let mut delta = Buffer::new((batch, heads, queries), DType::F32, self.device())?;
        let rows = batch * queries;
        let mut args = [
            Arg::Read(ys),
            Arg::Read(grad),
            Arg::Write(&mut delta),
            Arg::Long(rows),
            Arg::Count(queries),
            Arg::Count(heads),
            Arg::Count(head_dim),
        ];
        let name = format!("attention_delta_{}", type_name(self.dtype())?);
        let kernel = Kernel::new("attention_queries_backward", name);
        let grid = Grid::line((rows * heads).div_ceil(4), 128);
        // SAFETY: output and gradient are `[batch, queries, dim]`.
        unsafe { launch(self.device(), &kernel, grid, &mut args)? };
        Ok(delta.into_tensor())
    }

    /// The gradient of the bias: for each bias value, the sum over all scores it was added to.
    fn bias_gradient(&self, scores: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let (images, heads, queries, keys) = bias.dims4()?;
        let mut sums = Buffer::new(bias.shape(), DType::F32, self.device())?;
        let mut args = [
            Arg::Read(scores),
            Arg::Write(&mut sums),
            Arg::Long(queries * keys),
            Arg::Count(self.sizes.batch),
            Arg::Count(self.sizes.heads),
            Arg::Count(images),
            Arg::Count(heads),
        ];
        let kernel = Kernel::new("attention_queries_backward", "attention_bias_backward");
        let grid = Grid::each(bias.elem_count());
        // SAFETY: there is one score per pair, and the bias was checked against the sizes.
        unsafe { launch(self.device(), &kernel, grid, &mut args)? };
        Ok(sums.into_tensor())
    }
}
