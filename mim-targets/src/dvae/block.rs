//! Residual blocks of encoder and decoder.

use candle_core::Tensor;
use mim_core::Result;
use mim_core::nn::Conv;
use mim_core::ops::Window;
use mim_core::params::Params;

/// A convolution with kernel `side` that keeps the size.
pub(super) fn same(params: &Params, inputs: usize, outputs: usize, side: usize) -> Result<Conv> {
    let window = Window {
        kernel: side,
        stride: 1,
        padding: side / 2,
    };
    Conv::new(params, inputs, outputs, window)
}

/// `id(x) + gain * res(x)`, where `res` is four convolutions, each after a ReLU.
#[derive(Debug, Clone)]
pub(super) struct ResBlock {
    id_path: Option<Conv>,
    res_path: Vec<Conv>,
    gain: f64,
}

impl ResBlock {
    /// Parameters `id_path` (if the width changes) and `res_path.conv_1` to `conv_4`, whose
    /// kernels have the given `sides`.
    pub(super) fn new(
        params: &Params,
        (inputs, outputs): (usize, usize),
        sides: [usize; 4],
        gain: f64,
    ) -> Result<Self> {
        let (hidden, path) = (outputs / 4, params.pp("res_path"));
        let widths = [inputs, hidden, hidden, hidden, outputs];
        let conv = |index: usize| {
            let params = path.pp(format!("conv_{}", index + 1));
            same(&params, widths[index], widths[index + 1], sides[index])
        };
        Ok(Self {
            id_path: (inputs != outputs)
                .then(|| same(&params.pp("id_path"), inputs, outputs, 1))
                .transpose()?,
            res_path: (0..4).map(conv).collect::<Result<_>>()?,
            gain,
        })
    }

    pub(super) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let mut ys = xs.clone();
        for conv in &self.res_path {
            ys = conv.forward(&ys.relu()?)?;
        }
        let id = match &self.id_path {
            Some(conv) => conv.forward(xs)?,
            None => xs.clone(),
        };
        Ok((id + (ys * self.gain)?)?)
    }
}

/// Blocks of one width; the first one may have another input width.
pub(super) fn group(
    params: &Params,
    (inputs, outputs): (usize, usize),
    count: usize,
    sides: [usize; 4],
    gain: f64,
) -> Result<Vec<ResBlock>> {
    let block = |index: usize| {
        let params = params.pp(format!("block_{}", index + 1));
        let inputs = if index == 0 { inputs } else { outputs };
        ResBlock::new(&params, (inputs, outputs), sides, gain)
    };
    (0..count).map(block).collect()
}
