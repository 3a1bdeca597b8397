//! Tests of codebooks.

use std::sync::Arc;

use candle_core::Device;

use super::*;
use crate::ParamStore;
use crate::comm::{Communicator, Threads};

fn config(metric: CodeMetric) -> CodebookConfig {
    CodebookConfig {
        size: 3,
        dim: 2,
        metric,
        decay: 0.9,
        kmeans: 0,
        restart_below: None,
    }
}

fn built(config: &CodebookConfig) -> (ParamStore, Codebook) {
    let store = ParamStore::cpu(0);
    let codebook = config.build(&store.root()).unwrap();
    (store, codebook)
}

fn set(store: &ParamStore, name: &str, values: &[[f32; 2]]) {
    store.var(name).unwrap().set(&rows(values)).unwrap();
}

fn values(xs: &Tensor) -> Vec<f32> {
    xs.flatten_all().unwrap().to_vec1().unwrap()
}

fn buffer(store: &ParamStore, name: &str) -> Vec<f32> {
    values(store.var(name).unwrap().as_tensor())
}

fn close(own: &[f32], wanted: &[f32]) {
    assert_eq!(own.len(), wanted.len());
    for (own, wanted) in own.iter().zip(wanted) {
        assert!((own - wanted).abs() < 1e-5, "{own} against {wanted}");
    }
}

fn rows(values: &[[f32; 2]]) -> Tensor {
    Tensor::from_vec(values.concat(), (values.len(), 2), &Device::Cpu).unwrap()
}

#[test]
fn codes_by_angle_move_towards_the_mean_of_their_unit_vectors() {
    let (store, codebook) = built(&config(CodeMetric::Cosine));
    set(&store, "embedding", &[[1., 0.], [0., 1.], [-1., 0.]]);
    let vectors = rows(&[[4., 3.], [0., 2.], [0.1, 5.]]);
    let done = codebook.quantize(&vectors, &StepContext::new(0)).unwrap();
    assert_eq!(done.codes.to_vec1::<u32>().unwrap(), [0, 1, 1]);
    // The returned values are the codes before the step.
    close(&values(&done.vectors), &[1., 0., 0., 1., 0., 1.]);
    let unit = |x: f32, y: f32| [x / x.hypot(y), y / x.hypot(y)];
    let third = unit(0.1, 5.);
    let squares = |a: [f32; 2], b: [f32; 2]| (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2);
    let commitment = (squares([0.8, 0.6], [1., 0.]) + squares(third, [0., 1.])) / 6.;
    close(&values(&done.commitment), &[commitment]);
    let mean = unit(third[0] / 2., (1. + third[1]) / 2.);
    let first = unit(0.9 + 0.1 * 0.8, 0.1 * 0.6);
    let second = unit(0.1 * mean[0], 0.9 + 0.1 * mean[1]);
    let wanted = [first, second, [-1., 0.]].concat();
    close(&buffer(&store, "embedding"), &wanted);
    close(&buffer(&store, "cluster_size"), &[0.1, 0.2, 0.]);
    close(&values(&done.usage.live), &[2. / 3.]);
    let entropy = -((1f32 / 3.) * (1f32 / 3.).ln() + (2f32 / 3.) * (2f32 / 3.).ln());
    close(&values(&done.usage.perplexity), &[entropy.exp()]);
}

#[test]
fn codes_by_distance_are_smoothed_moving_means() {
    let (store, codebook) = built(&config(CodeMetric::Euclidean { eps: 0.5 }));
    let codes = [[1., 0.], [0., 1.], [-1., 0.]];
    set(&store, "embedding", &codes);
    set(&store, "embed_avg", &codes);
    let vectors = rows(&[[3., 1.], [2., 0.], [0., 1.], [0., 3.]]);
    let done = codebook.quantize(&vectors, &StepContext::new(0)).unwrap();
    assert_eq!(done.codes.to_vec1::<u32>().unwrap(), [0, 0, 1, 1]);
    let counts = [1.1f32, 1.1, 0.9];
    close(&buffer(&store, "cluster_size"), &counts);
    assert!((counts.iter().sum::<f32>() - (0.9 * 3. + 0.1 * 4.)).abs() < 1e-6);
    let sums = [[1.4f32, 0.1], [0., 1.3], [-0.9, 0.]];
    close(&buffer(&store, "embed_avg"), &sums.concat());
    let divisor = |count: f32| (count + 0.5) / (3.1 + 1.5) * 3.1;
    let wanted: Vec<f32> = sums
        .iter()
        .zip(counts)
        .flat_map(|(sum, count)| sum.map(|value| value / divisor(count)))
        .collect();
    close(&buffer(&store, "embedding"), &wanted);
}

#[test]
fn gradients_pass_straight_through_and_codes_move_only_in_training() {
    let (store, codebook) = built(&config(CodeMetric::Euclidean { eps: 1e-5 }));
    let before = buffer(&store, "embedding");
    let vectors = Var::from_tensor(&rows(&[[3., 1.], [2., 0.]])).unwrap();
    let done = codebook
        .quantize(vectors.as_tensor(), &StepContext::inference())
        .unwrap();
    assert_eq!(before, buffer(&store, "embedding"));
    let weights = rows(&[[1., -2.], [3., 4.]]);
    let loss = (&done.vectors * &weights).unwrap().sum_all().unwrap();
    let grad = loss.backward().unwrap().get(&vectors).unwrap().clone();
    close(&values(&grad), &[1., -2., 3., 4.]);
    assert!(store.trainable().is_empty() && store.parameters().is_empty());
}

#[test]
fn dead_codes_become_vectors_of_the_batch() {
    let restart = CodebookConfig {
        restart_below: Some(0.95),
        ..config(CodeMetric::Euclidean { eps: 1e-5 })
    };
    let (store, codebook) = built(&restart);
    let far = [[1., 0.], [0., 1.], [-99., 0.]];
    set(&store, "embedding", &far);
    set(&store, "embed_avg", &far);
    let vectors = rows(&[[3., 1.], [0., 3.]]);
    codebook.quantize(&vectors, &StepContext::new(0)).unwrap();
    let code = &buffer(&store, "embedding")[4..];
    assert!(code == [3., 1.] || code == [0., 3.], "{code:?}");
    assert_eq!(&buffer(&store, "embed_avg")[4..], code);
    assert_eq!(buffer(&store, "cluster_size")[2], 1.);
}

/// Twelve vectors around three corners.
fn corners(first: usize, count: usize) -> Tensor {
    let corner = [[5., 0.], [0., 5.], [-5., -5.]];
    let all: Vec<[f32; 2]> = (first..first + count)
        .map(|at| corner[at % 3].map(|value: f32| value + 0.01 * at as f32))
        .collect();
    rows(&all)
}

fn kmeans(metric: CodeMetric) -> CodebookConfig {
    CodebookConfig {
        kmeans: 10,
        ..config(metric)
    }
}

#[test]
fn k_means_runs_once_on_the_first_batch() {
    // Use the seed of a run that finds all three corners.
    let step = (0..20).map(StepContext::new).find(|step| {
        let (_, codebook) = built(&kmeans(CodeMetric::Cosine));
        let done = codebook.quantize(&corners(0, 12), step).unwrap();
        values(&done.usage.live) == [1.]
    });
    let step = step.unwrap();
    let (store, codebook) = built(&kmeans(CodeMetric::Cosine));
    assert_eq!(buffer(&store, "initted"), [0.]);
    let done = codebook.quantize(&corners(0, 12), &step).unwrap();
    assert_eq!(buffer(&store, "initted"), [1.]);
    close(&values(&done.usage.perplexity), &[3.]);
    assert!(values(&done.commitment)[0] < 1e-3);
    let codes = done.codes.to_vec1::<u32>().unwrap();
    assert!((3..12).all(|at| codes[at] == codes[at % 3]), "{codes:?}");
    let moved = buffer(&store, "embedding");
    codebook
        .quantize(&rows(&[[1., 1.], [1., -1.], [0., 1.]]), &step)
        .unwrap();
    let again = buffer(&store, "embedding");
    let near = |(a, b): (&f32, &f32)| (a - b).abs() < 0.2;
    assert!(moved.iter().zip(&again).all(near), "{moved:?} {again:?}");
}

#[test]
fn two_processes_get_the_same_codes_as_one() {
    for metric in [CodeMetric::Cosine, CodeMetric::Euclidean { eps: 1e-5 }] {
        let restart = CodebookConfig {
            restart_below: Some(0.5),
            ..kmeans(metric)
        };
        let state = |vectors: Tensor, comm: Option<Arc<dyn Communicator>>| {
            let (store, codebook) = built(&restart);
            let mut step = StepContext::new(3);
            if let Some(comm) = comm {
                step.comm = comm;
            }
            let done = codebook.quantize(&vectors, &step).unwrap();
            let names = store.names().into_iter().map(|(name, _)| name);
            let mut all: Vec<f32> = names.flat_map(|name| buffer(&store, &name)).collect();
            all.extend(values(&done.usage.perplexity));
            all
        };
        let alone = state(corners(0, 12), None);
        let both: Vec<_> = std::thread::scope(|scope| {
            let started: Vec<_> = Threads::group(2)
                .into_iter()
                .map(|comm| {
                    let (state, first) = (&state, 6 * comm.rank());
                    scope.spawn(move || state(corners(first, 6), Some(Arc::new(comm))))
                })
                .collect();
            started.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(both[0], both[1]);
        close(&both[0], &alone);
    }
}

#[test]
fn bad_settings_and_widths_are_named() {
    let plain = config(CodeMetric::Cosine);
    for (wrong, part) in [
        (
            CodebookConfig {
                size: 1,
                ..plain.clone()
            },
            "`size` is 1",
        ),
        (
            CodebookConfig {
                dim: 0,
                ..plain.clone()
            },
            "`dim` is 0",
        ),
        (
            CodebookConfig {
                decay: 1.,
                ..plain.clone()
            },
            "`decay` is 1",
        ),
        (
            CodebookConfig {
                restart_below: Some(f64::NAN),
                ..plain.clone()
            },
            "`restart_below` is NaN",
        ),
        (
            config(CodeMetric::Euclidean { eps: 0. }),
            "`metric.eps` is 0",
        ),
    ] {
        let error = wrong.validate().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let (_, codebook) = built(&plain);
    let wide = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    assert!(codebook.nearest(&wide).is_err());
}
