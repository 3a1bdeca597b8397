//! What the benches share: the program's allocator, short timings, and inputs that are the same every time.

#![allow(dead_code, reason = "not each bench uses everything")]

use std::time::Duration;

use candle_core::{Device, Tensor, Var};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use mim_core::optim::Gradients;
use mim_core::rng::stream;
use mim_core::{Batch, Crop, Mask, PatchGrid, Purpose, Result, StepContext, View};
use mim_masking::{Guide, MaskRequest, Masker, RandomMaskerConfig};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Patches of 16 pixels over [`SIDE`].
pub(crate) const GRID: PatchGrid = PatchGrid { rows: 14, cols: 14 };

/// Side of the usual images in pixels.
pub(crate) const SIDE: usize = 224;

/// Ten samples, within a second or two where a call is short.
pub(crate) fn brief() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

/// Times `run` as `id` of the group.
pub(crate) fn time<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: &str,
    mut run: impl FnMut() -> Result<T>,
) {
    group.bench_function(id, |b| b.iter(|| run().expect("the parts fit each other")));
}

/// Values in [-1, 1] that look random.
pub(crate) fn values(shape: &[usize]) -> Var {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i as f32 * 12.9898).sin()).collect();
    Var::from_vec(values, shape, &Device::Cpu).expect("shape and count agree")
}

/// A batch of square pictures in bytes, and crops that differ from view to view.
pub(crate) fn batch(images: usize, views: usize, side: usize) -> Batch {
    let shape = [images, 3, side, side];
    let view = |index: usize| {
        let bytes = (values(&shape).as_tensor() * 127.).and_then(|xs| xs + 128.);
        let bytes = bytes.and_then(|xs| xs.to_dtype(candle_core::DType::U8));
        let length = u32::try_from(side).expect("a small side");
        let crop = Crop {
            top: index as f32,
            ..Crop::whole((length, length))
        };
        View::new(bytes.expect("bytes"), vec![crop; images]).expect("four axes of bytes")
    };
    Batch {
        views: (0..views).map(view).collect(),
        ..Batch::single(view(0))
    }
}

/// MAE's mask: three quarters hidden, as many in each image.
pub(crate) fn mask(images: usize, grid: PatchGrid) -> Mask {
    let step = StepContext::new(0);
    let request = MaskRequest {
        images,
        grid,
        guide: Guide::None,
        step: &step,
    };
    let masker = RandomMaskerConfig::default().build();
    let mut rng = stream(0, Purpose::Mask, [0, 0]);
    let drawn = masker.and_then(|masker| masker.sample(&request, &mut rng));
    drawn.expect("MAE's masks fit any grid")
}

/// The backward pass from the sum of `ys`, into `gradients`.
pub(crate) fn backward(ys: &Tensor, gradients: &mut Gradients) -> Result<()> {
    gradients.clear();
    gradients.backward(&ys.sum_all()?)
}

/// A differentiable operation on some tensors.
pub(crate) type Op<'a> = &'a dyn Fn(&[Tensor]) -> candle_core::Result<Tensor>;

/// A result of ours as one of candle's, for comparing the two.
pub(crate) fn fused<T, E>(result: Result<T, E>) -> candle_core::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    result.map_err(candle_core::Error::wrap)
}

/// Times forward and backward of ours and of the plain version, in group `ops/<op>`; they must agree.
pub(crate) fn compare(c: &mut Criterion, op: &str, shape: &str, inputs: &[Var], versions: [Op; 2]) {
    let inputs: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
    let [fused, plain] = versions.map(|run| run(&inputs).expect("the parts fit each other"));
    assert!(distance(&fused, &plain) < 1e-4, "two versions of {op}");
    let mut group = c.benchmark_group(format!("ops/{op}"));
    for (version, run) in ["fused", "plain"].iter().zip(versions) {
        time(&mut group, &format!("{version}/{shape}"), || {
            Ok(run(&inputs)?.sum_all()?.backward()?)
        });
    }
}

/// The largest difference of two tensors over their largest value.
pub(crate) fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let largest = |xs: Tensor| xs.abs()?.max_all()?.to_scalar::<f32>();
    let difference = (a - b).and_then(largest).expect("tensors of one shape");
    difference / largest(b.clone()).expect("a tensor with values")
}
