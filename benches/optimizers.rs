//! The work after the backward pass, over all parameters of a ViT-S/16: clipping, AdamW, the momentum teacher.
//!
//! `cargo bench --bench optimizers`; a name filters, e.g. `-- adamw`. `plain` is candle's own `candle_nn::AdamW`, or
//! the formula in candle operations, tensor by tensor. The throughput is in parameters.

#![expect(
    clippy::expect_used,
    reason = "a benchmark has no caller to return an error to"
)]

mod common;

use candle_core::{Tensor, Var};
use candle_nn::{Optimizer as _, ParamsAdamW};
use common::{brief, time, values};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::optim::{AdamW, AdamWConfig, Clip, Gradients, Lars, LarsConfig, Optimizer as _};
use mim_core::params::{Ema, EmaStart, EmaTiming};
use mim_core::{ParamStore, Result, Schedule, StepContext};

const LR: f64 = 1e-4;
const MOMENTUM: f64 = 0.996;

fn student() -> ParamStore {
    let store = ParamStore::cpu(0);
    build(&store);
    store
}

fn build(store: &ParamStore) {
    let config = VitConfig::arch("vit_small").expect("a known size");
    Vit::new(&store.root(), &config).expect("settings hold");
}

fn parameters(store: &ParamStore) -> Throughput {
    Throughput::Elements(store.trainable_values() as u64)
}

/// A gradient for each parameter.
fn gradients(store: &ParamStore) -> Gradients {
    let trainable = store.trainable();
    let mut gradients = Gradients::new(trainable.clone());
    for (name, var) in trainable {
        gradients.set(&name, values(var.dims()).as_detached_tensor());
    }
    gradients
}

fn adamw(c: &mut Criterion) {
    let store = student();
    let mut group = c.benchmark_group("optimizers/adamw");
    group.throughput(parameters(&store));

    let gradients = gradients(&store);
    let mut ours = AdamW::new(AdamWConfig::default(), store.trainable()).expect("settings hold");
    time(&mut group, "ours/vits", || ours.step(&gradients, LR));
    drop((ours, gradients));

    let vars: Vec<Var> = store.trainable().into_iter().map(|(_, var)| var).collect();
    let settings = ParamsAdamW {
        lr: LR,
        beta2: 0.95,
        weight_decay: 0.05,
        ..ParamsAdamW::default()
    };
    let squares = vars
        .iter()
        .map(|var| var.sqr()?.sum_all())
        .collect::<candle_core::Result<Vec<_>>>();
    let store = squares.and_then(|squares| Tensor::stack(&squares, 0)?.sum_all()?.backward());
    let store = store.expect("sums of squares have gradients");
    let mut plain = candle_nn::AdamW::new(vars, settings).expect("settings hold");
    time(&mut group, "plain/vits", || Ok(plain.step(&store)?));
}

/// One step of [`Lars`] in candle operations.
fn plain_lars(gradients: &Gradients, momenta: &mut [Tensor]) -> Result<()> {
    let norm = |xs: &Tensor| -> Result<f64> {
        Ok(f64::from(xs.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?))
    };
    for ((_, var, gradient), momentum) in gradients.iter().zip(momenta) {
        let Some(gradient) = gradient else { continue };
        let scale = match var.rank() {
            0 | 1 => 1.,
            _ => 0.001 * norm(var)? / norm(gradient)?,
        };
        *momentum = ((&*momentum * 0.9)? + (gradient * scale)?)?;
        var.set(&(var.as_detached_tensor() - (&*momentum * LR)?)?)?;
    }
    Ok(())
}

fn lars(c: &mut Criterion) {
    let store = student();
    let mut group = c.benchmark_group("optimizers/lars");
    group.throughput(parameters(&store));
    let gradients = gradients(&store);
    let mut ours = Lars::new(LarsConfig::default(), store.trainable()).expect("settings hold");
    time(&mut group, "ours/vits", || ours.step(&gradients, LR));
    let zeros = gradients.iter().map(|(_, var, _)| var.zeros_like());
    let zeros: candle_core::Result<Vec<Tensor>> = zeros.collect();
    let mut momenta = zeros.expect("there is memory");
    time(&mut group, "plain/vits", || {
        plain_lars(&gradients, &mut momenta)
    });
}

fn ema(c: &mut Criterion) {
    let (student, teacher) = (student(), ParamStore::teacher(&candle_core::Device::Cpu));
    build(&teacher);
    let mut group = c.benchmark_group("optimizers/ema");
    group.throughput(parameters(&student));

    let momentum = Schedule::Constant { value: MOMENTUM };
    let ours = Ema::new(
        &student,
        &teacher,
        momentum,
        EmaTiming::AfterStep,
        EmaStart::Copy,
    );
    let (ours, step) = (ours.expect("the same network"), StepContext::new(0));
    time(&mut group, "ours/vits", || {
        ours.update(EmaTiming::AfterStep, &step)
    });

    let pairs: Vec<(Var, Var)> = teacher
        .parameters()
        .into_iter()
        .filter_map(|(name, var)| Some((var, student.var(&name)?)))
        .collect();
    time(&mut group, "plain/vits", || {
        for (teacher, student) in &pairs {
            let new = (student.as_detached_tensor() * (1. - MOMENTUM))?;
            teacher.set(&((teacher.as_detached_tensor() * MOMENTUM)? + new)?)?;
        }
        Ok(())
    });
}

/// [`Clip::Global`] in candle operations.
fn plain_clip(gradients: &mut [Tensor], max_norm: f64) -> Result<f64> {
    let mut sum = 0.;
    for gradient in &*gradients {
        sum += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    let norm = sum.sqrt();
    for gradient in gradients {
        *gradient = (&*gradient * (max_norm / (norm + 1e-6)).min(1.))?;
    }
    Ok(norm)
}

fn clip(c: &mut Criterion) {
    let store = student();
    let mut group = c.benchmark_group("optimizers/clip");
    group.throughput(parameters(&store));
    let mut ours = gradients(&store);
    let mut plain: Vec<Tensor> = ours.iter().filter_map(|(_, _, g)| g.cloned()).collect();
    time(&mut group, "norm/ours/vits", || ours.norm());
    // The bound decreases from call to call, so that each call has something to clip.
    let mut max_norm = 1.;
    time(&mut group, "per_tensor/ours/vits", || {
        max_norm *= 0.999;
        Clip::PerTensor { max_norm }.apply(&mut ours)
    });
    time(&mut group, "global/ours/vits", || {
        max_norm *= 0.999;
        Clip::Global { max_norm }.apply(&mut ours)
    });
    time(&mut group, "global/plain/vits", || {
        max_norm *= 0.999;
        plain_clip(&mut plain, max_norm)
    });
}

criterion_group! {
    name = benches;
    config = brief();
    targets = adamw, lars, ema, clip
}
criterion_main!(benches);
