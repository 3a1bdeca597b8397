//! Batch normalisation over tokens or images.

use candle_core::{DType, Tensor, Var};

use crate::params::Params;
use crate::{Error, Result, StepContext, ops};

/// Weight of the newest batch in the running statistics: PyTorch's default, which all papers keep.
const MOMENTUM: f64 = 0.1;

/// `(x - mean) / sqrt(var + eps) * weight + bias` with statistics over all axes but the last
/// (Ioffe and Szegedy, 2015).
///
/// In training, the statistics are those of the batch (biased variance), and the running statistics in the buffers
/// follow them with a momentum of 0.1 (unbiased variance). Otherwise the buffers are used. A teacher has its
/// own buffers, which its moving average leaves alone. Processes that train together share the
/// statistics of their joint batch.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Var,
    running_var: Var,
    eps: f64,
}

impl BatchNorm {
    /// Parameters `weight`, `bias`, buffers `running_mean`, `running_var`, all `[dim]`.
    ///
    /// # Errors
    ///
    /// If a parameter with one of these names has another shape.
    pub fn new(params: &Params, dim: usize, eps: f64) -> Result<Self> {
        let device = params.device();
        let (zeros, ones) = (
            Tensor::zeros(dim, DType::F32, device)?,
            Tensor::ones(dim, DType::F32, device)?,
        );
        Ok(Self {
            weight: params.weight(&[dim], "weight")?,
            bias: params.weight(&[dim], "bias")?,
            running_mean: params.buffer("running_mean", zeros)?,
            running_var: params.buffer("running_var", ones)?,
            eps,
        })
    }

    /// Normalises `[..., dim]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the last axis is not `dim` wide or a training batch has a single row.
    pub fn forward(&self, xs: &Tensor, step: &StepContext) -> Result<Tensor> {
        let dim = self.weight.dim(0)?;
        if xs.dims().last() != Some(&dim) {
            return Err(Error::shape(
                "batch norm",
                format!("[..., {dim}]"),
                xs.dims(),
                "build the layer for this width",
            ));
        }
        if step.training {
            let affine = (&self.weight, &self.bias);
            let normed = ops::sync_batch_norm(xs, affine, self.eps, &step.comm)?;
            self.follow(&normed, xs.elem_count() / dim * step.comm.world())?;
            return Ok(normed.ys);
        }
        let deviation = (self.running_var.as_detached_tensor() + self.eps)?.sqrt()?;
        let ys = xs
            .broadcast_sub(&self.running_mean.as_detached_tensor())?
            .broadcast_div(&deviation)?
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)?;
        Ok(ys)
    }

    /// Moves the running statistics towards those of a batch of `rows` rows.
    fn follow(&self, batch: &ops::BatchNormOutput, rows: usize) -> Result<()> {
        if rows < 2 {
            return Err(Error::shape(
                "batch norm",
                "at least two rows in a training batch",
                rows,
                "use a larger batch",
            ));
        }
        let unbiased = rows as f64 / (rows - 1) as f64;
        for (running, now) in [
            (&self.running_mean, batch.mean.clone()),
            (&self.running_var, (&batch.variance * unbiased)?),
        ] {
            let kept = (running.as_detached_tensor() * (1. - MOMENTUM))?;
            running.set(&(kept + (now.to_dtype(DType::F32)? * MOMENTUM)?)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParamStore;
    use candle_core::Device;

    fn layer() -> (ParamStore, BatchNorm) {
        let store = ParamStore::cpu(0);
        let layer = BatchNorm::new(&store.root().pp("norm"), 1, 0.).unwrap();
        (store, layer)
    }

    fn values(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn training_uses_the_batch_and_updates_the_buffers() {
        let (store, layer) = layer();
        let xs = Tensor::new(&[[[1f32], [3.]], [[5.], [7.]]], &Device::Cpu).unwrap();
        let ys = layer.forward(&xs, &StepContext::new(0)).unwrap();
        let unit = 5f32.sqrt().recip();
        let wanted = [-3. * unit, -unit, unit, 3. * unit];
        for (own, wanted) in values(&ys).iter().zip(wanted) {
            assert!((own - wanted).abs() < 1e-6);
        }
        let buffer = |name: &str| values(store.var(name).unwrap().as_tensor())[0];
        assert!((buffer("norm.running_mean") - 0.4).abs() < 1e-6);
        assert!((buffer("norm.running_var") - (0.9 + 0.1 * 20. / 3.)).abs() < 1e-6);
        assert!(store.trainable().len() == 2 && store.parameters().len() == 2);
    }

    #[test]
    fn evaluation_uses_the_buffers_and_keeps_them() {
        let (store, layer) = layer();
        let four = Tensor::new(&[4f32], &Device::Cpu).unwrap();
        store.var("norm.running_var").unwrap().set(&four).unwrap();
        let xs = Tensor::new(&[[6f32]], &Device::Cpu).unwrap();
        let ys = layer.forward(&xs, &StepContext::inference()).unwrap();
        assert_eq!(values(&ys), [3.]);
        assert_eq!(
            values(store.var("norm.running_var").unwrap().as_tensor()),
            [4.]
        );
    }

    #[test]
    fn one_row_has_no_statistics() {
        let (_, layer) = layer();
        let xs = Tensor::new(&[[6f32]], &Device::Cpu).unwrap();
        let error = layer.forward(&xs, &StepContext::new(0)).unwrap_err();
        assert!(error.to_string().contains("larger batch"));
    }
}
