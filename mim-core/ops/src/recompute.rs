//! Gradient checkpointing: layers that recompute their activations in the backward pass.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor, Var, bail};

use super::cpu_slices::{is_f32_on_cpu, operand};
use super::gpu::{Buffer, differentiable, is_supported};
use super::grad_accumulator;
use crate::{Error, Result};

/// `layer(xs)` for `xs` of any shape, storing only `xs` for the backward pass, which runs the layer again.
///
/// `layer` must give the same result each time. The backward pass must run in
/// [`collecting`](crate::grad_accumulator::collecting), with every trainable parameter of `layer` among its weights.
/// candle's own pass cannot see parameters that are not operands, so it is refused. If `xs` tracks no gradient, or is
/// not f32 on the CPU or a GPU, the layer runs normally. Chen et al. (arXiv:1604.06174).
///
/// # Errors
///
/// What `layer` returns.
pub fn recompute<E>(
    xs: &Tensor,
    layer: impl Fn(&Tensor) -> Result<Tensor, E> + Send + Sync + 'static,
) -> Result<Tensor, E>
where
    E: From<Error> + std::error::Error + Send + Sync + 'static,
{
    if !is_recomputed(xs) {
        return layer(xs);
    }
    let ys = layer(&xs.detach())?;
    Ok(attach(xs, &ys, layer)?)
}

/// Whether the backward pass recomputes the layer.
fn is_recomputed(xs: &Tensor) -> bool {
    xs.track_op() && (is_supported(&[xs]) || is_f32_on_cpu(&[xs]))
}

/// Gives the layer's output `ys` a gradient that runs the layer again.
fn attach<E>(
    xs: &Tensor,
    ys: &Tensor,
    layer: impl Fn(&Tensor) -> Result<Tensor, E> + Send + Sync + 'static,
) -> Result<Tensor>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let layer = move |xs: &Tensor| layer(xs).map_err(candle_core::Error::wrap);
    let ys = ys.detach().contiguous()?;
    if is_supported(&[xs]) {
        let (xs, ys) = (xs.contiguous()?, Buffer::copy(&ys)?);
        let inside = xs.detach();
        let backward = move |_: &Tensor, grad: &Tensor| Ok([gradient(&layer, &inside, grad)?]);
        return Ok(differentiable([&xs], ys, backward)?);
    }
    let layer = Box::new(layer);
    Ok(xs.contiguous()?.apply_op2(&ys, Recompute { layer })?)
}

type Layer = dyn Fn(&Tensor) -> candle_core::Result<Tensor> + Send + Sync;

struct Recompute {
    layer: Box<Layer>,
}

impl CustomOp2 for Recompute {
    fn name(&self) -> &'static str {
        "recompute"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        ys: &CpuStorage,
        ys_l: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let ys = operand(ys, ys_l)?.to_vec();
        Ok((CpuStorage::F32(ys), ys_l.shape().clone()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((gradient(&*self.layer, &xs.detach(), grad)?, None))
    }
}

/// The gradient of a layer's input, by running it again; the gradients of its parameters are accumulated.
fn gradient(
    layer: &(impl Fn(&Tensor) -> candle_core::Result<Tensor> + ?Sized),
    xs: &Tensor,
    grad: &Tensor,
) -> candle_core::Result<Option<Tensor>> {
    if !grad_accumulator::active() {
        bail!("a recomputed layer needs the backward pass of mim_core::optim::Gradients");
    }
    let inner = Var::from_tensor(xs)?;
    let ys = layer(&inner)?;
    let mut found = (ys * grad)?.sum_all()?.backward()?;
    let dx = found.remove(&inner);
    for id in found.get_ids().copied().collect::<Vec<_>>() {
        if let Some(part) = found.get_id(id) {
            // Only parameters are collected; other gradients are dropped here.
            grad_accumulator::accumulate_or_return(id, part.clone())?;
        }
    }
    Ok(dx)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{collected_gradients, random};
    use crate::{gelu, linear};
    use candle_core::Device;

    fn layer(weight: &Var, bias: &Var) -> impl Fn(&Tensor) -> Result<Tensor> + use<> {
        let (weight, bias) = (weight.as_tensor().clone(), bias.as_tensor().clone());
        move |xs| {
            let scaled = gelu(&linear(xs, &weight, None)?)?.broadcast_mul(&bias)?;
            Ok((scaled + xs)?)
        }
    }

    fn check_same_gradients(device: &Device) {
        let var = |seed, shape: &[usize]| {
            Var::from_tensor(&random(seed, shape).to_device(device).unwrap()).unwrap()
        };
        // The first two layers share their parameters.
        let vars = [
            var(1, &[5, 4]),
            var(2, &[4, 4]),
            var(3, &[4]),
            var(4, &[4, 4]),
            var(5, &[4]),
        ];
        let gradients = |again: bool| -> Vec<Vec<Vec<f32>>> {
            let mut ys = vars[0].as_tensor().clone();
            for pair in [1, 1, 3] {
                let layer = layer(&vars[pair], &vars[pair + 1]);
                ys = if again {
                    recompute(&ys, layer)
                } else {
                    layer(&ys)
                }
                .unwrap();
            }
            let sums = collected_gradients(&vars, &ys.sqr().unwrap().sum_all().unwrap());
            let values = |t: &Tensor| t.reshape(((), t.dims()[t.rank() - 1])).unwrap().to_vec2();
            sums.iter().map(|sum| values(sum).unwrap()).collect()
        };
        assert_eq!(gradients(true), gradients(false));
    }

    #[test]
    fn on_the_cpu_gradients_are_the_same_with_and_without() {
        check_same_gradients(&Device::Cpu);
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn on_a_gpu_gradients_are_the_same_with_and_without() {
        let before = crate::launches();
        check_same_gradients(crate::testing::gpu());
        assert!(crate::launches() > before);
    }

    #[test]
    fn a_backward_pass_that_would_lose_gradients_is_refused() {
        let (weight, bias) = (random(1, &[4, 4]), random(2, &[4]));
        let [weight, bias] = [weight, bias].map(|t| Var::from_tensor(&t).unwrap());
        let xs = Var::from_tensor(&random(3, &[2, 4])).unwrap();
        let ys = recompute(&xs, layer(&weight, &bias)).unwrap();
        let error = ys.sum_all().unwrap().backward().unwrap_err();
        assert!(error.to_string().contains("optim::Gradients"));
        // Even if the input tracks no gradient, the parameters get theirs.
        let ys = recompute(&xs.detach(), layer(&weight, &bias)).unwrap();
        assert!(
            ys.sum_all()
                .unwrap()
                .backward()
                .unwrap()
                .get(&weight)
                .is_some()
        );
    }
}
