//! Compares ops with their references: values and gradients.

use std::sync::{Arc, Barrier, Mutex};

use candle_core::{DType, Device, Tensor, Var};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::AllReduceSum;
use crate::Result;
use crate::grad_accumulator::collecting;

/// Values in [-2, 2), determined by seed and shape.
pub(crate) fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| rng.random_range(-2f32..2.)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn values(xs: &Tensor) -> Vec<f64> {
    let xs = xs.to_dtype(DType::F64).unwrap();
    xs.flatten_all().unwrap().to_vec1().unwrap()
}

/// The op's output, and its gradients for a fixed random weighting of the output. Checks that the gradients are the
/// same with and without the gradient accumulator.
pub(super) fn run(
    inputs: &[Tensor],
    op: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> (Tensor, Vec<Tensor>) {
    let vars: Vec<Var> = inputs
        .iter()
        .map(|t| Var::from_tensor(t).unwrap())
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let ys = op(&tensors).unwrap();
    let probe = random(99, ys.dims()).to_dtype(ys.dtype()).unwrap();
    let probe = probe.to_device(ys.device()).unwrap();
    let loss = (&ys * probe).unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    let collected = collected_gradients(&vars, &loss);
    let grads = vars.iter().zip(&collected).map(|(v, own)| {
        let grad = grads.get(v).expect("every argument gets a gradient");
        assert_close("accumulated", own, grad, 1e-6);
        grad.clone()
    });
    (ys, grads.collect())
}

/// Gradients of a backward pass that collects `vars` in the gradient accumulator.
pub(super) fn collected_gradients(vars: &[Var], loss: &Tensor) -> Vec<Tensor> {
    let (store, mut found) = collecting(vars.iter().map(|v| v.id()), None, || loss.backward());
    let mut store = store.unwrap();
    let gradients = vars.iter().map(|var| {
        let slot = found.slots.remove(&var.id());
        let direct = slot
            .and_then(|slot| slot.sum)
            .map(|sum| sum.of(var).unwrap());
        match (direct, store.remove(var)) {
            (Some(direct), Some(stored)) => (direct + stored).unwrap(),
            (direct, stored) => direct.or(stored).expect("every argument gets a gradient"),
        }
    });
    gradients.collect()
}

/// Threads that act as processes.
pub(crate) struct Threads {
    barrier: Barrier,
    /// The sum, and how many threads have added to it.
    sum: Mutex<(Option<Tensor>, usize)>,
    world: usize,
}

impl Threads {
    /// One handle for each of `world` threads.
    pub(crate) fn group(world: usize) -> Vec<Arc<dyn AllReduceSum>> {
        let group: Arc<dyn AllReduceSum> = Arc::new(Self {
            barrier: Barrier::new(world),
            sum: Mutex::new((None, 0)),
            world,
        });
        vec![group; world]
    }
}

impl AllReduceSum for Threads {
    fn world(&self) -> usize {
        self.world
    }

    fn all_reduce_sum(
        &self,
        xs: &Tensor,
    ) -> Result<Tensor, Box<dyn std::error::Error + Send + Sync>> {
        {
            let mut shared = self.sum.lock().unwrap();
            let sum = match shared.0.take() {
                Some(sum) if shared.1 < self.world => (sum + xs)?,
                _ => {
                    shared.1 = 0;
                    xs.clone()
                }
            };
            *shared = (Some(sum), shared.1 + 1);
        }
        self.barrier.wait();
        let sum = self.sum.lock().unwrap().0.clone();
        self.barrier.wait();
        Ok(sum.unwrap())
    }
}

fn assert_close(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let (got, want) = (values(got), values(want));
    let largest = want.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let error = (got - want).abs() / largest;
        assert!(error <= tolerance, "{what}[{i}]: {got} against {want}");
    }
}

/// Checks the op in f32 against its reference in f64, and the reference against finite differences.
/// Also checks that bf16 inputs give bf16 values and gradients.
pub(super) fn check(
    inputs: &[Tensor],
    tolerance: f64,
    op: impl Fn(&[Tensor]) -> Result<Tensor>,
    reference: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let to = |dtype| -> Vec<Tensor> { inputs.iter().map(|t| t.to_dtype(dtype).unwrap()).collect() };
    let (got, got_grads) = run(inputs, &op);
    let exact = to(DType::F64);
    let (want, want_grads) = run(&exact, &reference);
    assert_close("value", &got, &want, tolerance);
    for (i, (got, want)) in got_grads.iter().zip(&want_grads).enumerate() {
        assert_close(&format!("gradient {i}"), got, want, tolerance);
    }
    check_differences(&exact, &want_grads, &reference);
    let (half, half_grads) = run(&to(DType::BF16), &op);
    assert_eq!(half.dtype(), DType::BF16);
    assert!(half_grads.iter().all(|g| g.dtype() == DType::BF16));
    assert_close("bf16 value", &half, &want, 0.05);
}

/// Compares gradients with central differences along one random direction for each argument.
fn check_differences(
    inputs: &[Tensor],
    grads: &[Tensor],
    op: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    const STEP: f64 = 1e-5;
    let objective = |inputs: &[Tensor]| -> f64 {
        let ys = op(inputs).unwrap();
        let probe = values(&random(99, ys.dims()));
        values(&ys).iter().zip(&probe).map(|(y, p)| y * p).sum()
    };
    for (i, grad) in grads.iter().enumerate() {
        let direction = random(7 + i as u64, grad.dims())
            .to_dtype(DType::F64)
            .unwrap();
        let moved = |step: f64| {
            let mut moved = inputs.to_vec();
            moved[i] = (&inputs[i] + direction.affine(step, 0.0).unwrap()).unwrap();
            objective(&moved)
        };
        let want = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        let terms: Vec<f64> = values(grad)
            .iter()
            .zip(values(&direction))
            .map(|(g, d)| g * d)
            .collect();
        let scale: f64 = terms.iter().map(|t| t.abs()).sum::<f64>().max(1e-3);
        let got: f64 = terms.iter().sum();
        assert!(
            (got - want).abs() <= 1e-5 * scale,
            "gradient {i} along a direction: {got} against the difference {want}"
        );
    }
}

/// The CUDA device of all tests, possibly the pretend device of `mim-core/tests/pretend_cuda`. Kernels are loaded once
/// per device.
#[cfg(feature = "cuda")]
pub(super) fn gpu() -> &'static Device {
    static DEVICE: std::sync::LazyLock<Device> =
        std::sync::LazyLock::new(|| Device::new_cuda(0).unwrap());
    &DEVICE
}

/// Checks the op's kernels against its reference in f64 on the CPU, gradients included.
#[cfg(feature = "cuda")]
pub(super) fn check_on_gpu(
    inputs: &[Tensor],
    tolerance: f64,
    op: impl Fn(&[Tensor]) -> Result<Tensor>,
    reference: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let exact: Vec<Tensor> = inputs
        .iter()
        .map(|t| t.to_dtype(DType::F64).unwrap())
        .collect();
    let (want, want_grads) = run(&exact, &reference);
    let there: Vec<Tensor> = inputs.iter().map(|t| t.to_device(gpu()).unwrap()).collect();
    let before = crate::launches();
    let (got, got_grads) = run(&there, &op);
    assert!(crate::launches() > before, "no kernel was launched");
    assert_close("value", &got, &want, tolerance);
    for (i, (got, want)) in got_grads.iter().zip(&want_grads).enumerate() {
        assert_close(&format!("gradient {i}"), got, want, tolerance);
    }
}

/// Checks that value and gradients repeat bit for bit, on several threads and on one.
pub(super) fn check_repeats(inputs: &[Tensor], op: impl Fn(&[Tensor]) -> Result<Tensor> + Sync) {
    let bits = |threads: usize| -> Vec<Vec<f64>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let (ys, grads) = run(inputs, &op);
            std::iter::once(&ys).chain(&grads).map(values).collect()
        })
    };
    let first = bits(4);
    for threads in [4, 4, 1] {
        assert!(bits(threads) == first, "{threads} threads");
    }
}
