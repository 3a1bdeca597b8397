//! Averages gradients over processes, mostly during the backward pass.
//!
//! Gradients are sent in buckets, in the same order on every process: the order in which they became complete on
//! rank 0 in the previous step. During the pass, a bucket is sent once all earlier buckets are sent and each of its
//! gradients has received as many partial gradients (`ops::grad_accumulator`) as in the previous pass. The remaining
//! buckets are sent after the pass. So every process sends the same buckets, whatever its graph.
//!
//! A wrong guess costs time but not correctness. A mean is linear: parts that arrive after their bucket was sent are
//! averaged after the pass and added. If candle's store holds a part of a gradient, that gradient is complete only at
//! the end and goes last.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::{Device, Tensor, TensorId, Var};

use super::buckets::buckets;
use crate::Result;
use crate::comm::{Communicator, Overlap, Pending, Reduce};
use crate::ops::grad_accumulator::{Collected, GradHook, take};

/// A parameter: name, variable, gradient.
pub(super) type Entry = (String, Var, Option<Tensor>);

/// Readiness statistics of a parameter, from the last backward pass.
#[derive(Debug, Clone, Copy, Default)]
struct Readiness {
    /// Number of partial gradients; 0 if they were not the whole gradient.
    parts: usize,
    /// Position in the order of completion.
    position: usize,
}

/// Buckets, readiness statistics and means in flight.
#[derive(Debug, Default)]
pub(super) struct GradReducer {
    /// One entry per parameter.
    readiness: Vec<Readiness>,
    /// The parameters of each bucket, the same on all processes.
    plan: Vec<Vec<usize>>,
    /// Means in flight, of the first buckets.
    sent: Vec<Pending>,
    /// Whether a backward pass has called a collective itself.
    collectives: bool,
}

/// Flags of all parameters, agreed by all processes.
struct Agreement {
    /// Whether any process has a gradient.
    any: Vec<bool>,
    /// Whether any process has a gradient that was not sent.
    left: Vec<bool>,
    /// Positions in the order of completion on rank 0, from 1; 0 for none.
    positions: Vec<f32>,
}

impl GradReducer {
    /// Drops the means in flight.
    pub(super) fn clear(&mut self) {
        self.sent.clear();
    }

    /// Whether means are in flight.
    pub(super) fn has_sent(&self) -> bool {
        !self.sent.is_empty()
    }

    /// Creates the sender of the gradients in `entries` for a running pass.
    pub(super) fn sender(
        &self,
        entries: Vec<Entry>,
        comm: &Arc<dyn Communicator>,
    ) -> Rc<RefCell<Sender>> {
        let early = match comm.overlap() {
            Overlap::None => false,
            Overlap::Quiet => !self.collectives,
            Overlap::Free => true,
        };
        let plan = if early { self.plan.as_slice() } else { &[] };
        let mut expected = HashMap::new();
        for (bucket, members) in plan.iter().enumerate() {
            for &at in members {
                let parts = self
                    .readiness
                    .get(at)
                    .map_or(0, |readiness| readiness.parts);
                expected.insert(entries[at].1.id(), (bucket, parts));
            }
        }
        Rc::new(RefCell::new(Sender {
            comm: comm.clone(),
            entries,
            missing: plan.iter().map(Vec::len).collect(),
            plan: plan.to_vec(),
            expected,
            sent: Vec::new(),
        }))
    }

    /// Collects the buckets sent during the pass and updates the readiness statistics; `stored` says for which
    /// parameters candle's store holds a gradient. Returns the entries.
    pub(super) fn collect(
        &mut self,
        sender: &RefCell<Sender>,
        found: &Collected,
        stored: impl Fn(&Var) -> bool,
    ) -> Vec<Entry> {
        let mut sender = sender.borrow_mut();
        let entries = std::mem::take(&mut sender.entries);
        self.sent = std::mem::take(&mut sender.sent);
        self.collectives |= found.calls;
        let readiness = |(_, var, _): &Entry| match found.slots.get(&var.id()) {
            Some(slot) if !stored(var) => Readiness {
                parts: slot.parts,
                position: slot.order,
            },
            _ => Readiness::default(),
        };
        self.readiness = entries.iter().map(readiness).collect();
        entries
    }

    /// Replaces all gradients by their means over the processes.
    pub(super) fn average(&mut self, entries: &mut [Entry], comm: &dyn Communicator) -> Result<()> {
        let mut has = vec![false; entries.len()];
        let early = self.sent.len();
        for (index, bucket) in self.plan.iter().enumerate() {
            for &at in bucket {
                has[at] = index < early || entries[at].2.is_some();
            }
            if index >= early {
                let joined =
                    flatten_bucket(bucket.iter().map(|&at| take_gradient(&mut entries[at])))?;
                self.sent.push(comm.start(joined)?);
            }
        }
        let mut left: Vec<_> = entries.iter_mut().map(take_gradient).collect();
        let agreed = self.synchronize_flags(&has, &left, comm)?;
        for (bucket, mean) in self.plan.iter().zip(self.sent.drain(..)) {
            unflatten_bucket(&mean.wait()?, bucket, &agreed.any, entries)?;
        }
        let sizes: Vec<usize> = entries.iter().map(|(_, var, _)| var.elem_count()).collect();
        for bucket in plan_buckets(&sizes, &agreed.left, &agreed.positions) {
            let parts = bucket
                .iter()
                .map(|&at| (left[at].0.clone(), left[at].1.take()));
            let mean = comm.all_reduce(&flatten_bucket(parts)?, Reduce::Mean)?;
            unflatten_bucket(&mean, &bucket, &agreed.any, entries)?;
        }
        self.plan = match comm.overlap() {
            Overlap::None => Vec::new(),
            _ => plan_buckets(&sizes, &agreed.any, &agreed.positions),
        };
        Ok(())
    }

    fn synchronize_flags(
        &self,
        has: &[bool],
        left: &[(Var, Option<Tensor>)],
        comm: &dyn Communicator,
    ) -> Result<Agreement> {
        let count = has.len();
        let flag = |set: bool| f32::from(u8::from(set));
        let left = left.iter().map(|(_, left)| left.is_some());
        let mut own: Vec<f32> = left.clone().map(flag).collect();
        own.extend(has.iter().zip(left).map(|(has, left)| flag(*has || left)));
        own.extend((0..count).map(|at| match self.readiness.get(at) {
            Some(readiness) if readiness.parts > 0 && comm.rank() == 0 => {
                readiness.position as f32 + 1.
            }
            _ => 0.,
        }));
        let all = comm.all_reduce(&Tensor::new(own, &Device::Cpu)?, Reduce::Sum)?;
        let all: Vec<f32> = all.to_vec1()?;
        let set = |flags: &[f32]| flags.iter().map(|flag| *flag > 0.).collect();
        Ok(Agreement {
            left: set(&all[..count]),
            any: set(&all[count..2 * count]),
            positions: all[2 * count..].to_vec(),
        })
    }
}

/// Sends buckets during a backward pass on this thread.
pub(super) struct Sender {
    comm: Arc<dyn Communicator>,
    entries: Vec<Entry>,
    plan: Vec<Vec<usize>>,
    /// Incomplete gradients in each bucket.
    missing: Vec<usize>,
    /// Per weight: its bucket, and the number of partial gradients that completes its gradient.
    expected: HashMap<TensorId, (usize, usize)>,
    sent: Vec<Pending>,
}

impl Sender {
    /// The hook that drives this sender.
    pub(super) fn watch(sender: &Rc<RefCell<Self>>) -> Box<GradHook> {
        let sender = sender.clone();
        Box::new(move |weight, parts| {
            let noted = sender.borrow_mut().note(weight, parts);
            noted.map_err(candle_core::Error::wrap)
        })
    }

    /// Sends the buckets completed by part number `parts` of a weight.
    fn note(&mut self, weight: TensorId, parts: usize) -> Result<()> {
        match self.expected.get(&weight) {
            Some(&(bucket, expected)) if expected == parts => self.missing[bucket] -= 1,
            _ => return Ok(()),
        }
        while let Some(0) = self.missing.get(self.sent.len()) {
            let bucket = &self.plan[self.sent.len()];
            for &at in bucket {
                let (_, var, sum) = &mut self.entries[at];
                if let Some(part) = take(var.id()) {
                    add_to(sum, part.of(var)?)?;
                }
            }
            let parts = bucket
                .iter()
                .map(|&at| take_gradient(&mut self.entries[at]));
            self.sent.push(self.comm.start(flatten_bucket(parts)?)?);
        }
        Ok(())
    }
}

/// Adds a part to a gradient.
pub(super) fn add_to(sum: &mut Option<Tensor>, part: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(sum) => (sum + part)?,
        None => part,
    });
    Ok(())
}

/// Groups the parameters into buckets, in order of completion. Parameters without a position get separate buckets at
/// the end.
fn plan_buckets(sizes: &[usize], which: &[bool], positions: &[f32]) -> Vec<Vec<usize>> {
    let all = (0..sizes.len()).filter(|&at| which[at]);
    let (mut ordered, others): (Vec<usize>, Vec<usize>) = all.partition(|&at| positions[at] > 0.);
    ordered.sort_by(|&a, &b| positions[a].total_cmp(&positions[b]));
    let in_buckets = |order: Vec<usize>| {
        let sizes: Vec<usize> = order.iter().map(|&at| sizes[at]).collect();
        let ranges = buckets(&sizes).into_iter();
        ranges
            .map(|range| order[range].to_vec())
            .collect::<Vec<_>>()
    };
    [in_buckets(ordered), in_buckets(others)].concat()
}

/// Takes the gradient out of an entry and returns it with its parameter.
fn take_gradient((_, var, sum): &mut Entry) -> (Var, Option<Tensor>) {
    (var.clone(), sum.take())
}

/// Concatenates gradients in a new tensor; missing ones are zeros.
fn flatten_bucket(parts: impl Iterator<Item = (Var, Option<Tensor>)>) -> Result<Tensor> {
    let flat = parts.map(|(var, gradient)| match gradient {
        Some(gradient) => gradient.flatten_all(),
        None => var.zeros_like()?.flatten_all(),
    });
    let flat = flat.collect::<candle_core::Result<Vec<_>>>()?;
    Ok(match flat.as_slice() {
        [one] => one.force_contiguous()?,
        several => Tensor::cat(several, 0)?,
    })
}

/// Adds the values of a bucket to the gradients of its parameters, except where no process has a gradient.
fn unflatten_bucket(
    values: &Tensor,
    bucket: &[usize],
    any: &[bool],
    entries: &mut [Entry],
) -> Result<()> {
    let mut start = 0;
    for &at in bucket {
        let (_, var, sum) = &mut entries[at];
        let count = var.elem_count();
        if any[at] {
            let part = values.narrow(0, start, count)?.reshape(var.shape())?;
            add_to(sum, part)?;
        }
        start += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::comm::Threads;
    use crate::ops::{linear, sync_batch_norm};
    use crate::optim::Gradients;
    use crate::optim::testing::random;

    /// Counts the started means.
    struct Counting {
        group: Threads,
        overlap: Overlap,
        started: AtomicUsize,
    }

    impl Communicator for Counting {
        fn rank(&self) -> usize {
            self.group.rank()
        }
        fn world(&self) -> usize {
            self.group.world()
        }
        fn all_reduce(&self, xs: &Tensor, how: Reduce) -> Result<Tensor> {
            self.group.all_reduce(xs, how)
        }
        fn all_gather(&self, xs: &Tensor) -> Result<Tensor> {
            self.group.all_gather(xs)
        }
        fn start(&self, xs: Tensor) -> Result<Pending> {
            self.started.fetch_add(1, Ordering::SeqCst);
            self.group.start(xs)
        }
        fn overlap(&self) -> Overlap {
            self.overlap
        }
    }

    /// Variants of the backward pass.
    #[derive(Clone, Copy, PartialEq)]
    enum Pass {
        Plain,
        /// The first weight is used twice.
        Twice,
        /// Only the second layer is used.
        Short,
        /// A norm calls a collective.
        Norm,
    }

    /// Two layers, a factor whose gradient passes through candle's store, and an unused layer.
    struct Model(Vec<(String, Var)>);

    impl Model {
        fn new() -> Self {
            let shapes: [(&str, &[usize]); 6] = [
                ("first", &[4, 3]),
                ("factor", &[2]),
                ("second", &[2, 4]),
                ("bias", &[2]),
                ("norm", &[4]),
                ("unused", &[2]),
            ];
            let var = |(seed, (name, shape)): (usize, (&str, &[usize]))| {
                let var = Var::from_tensor(&random(seed as u64, shape)).unwrap();
                (name.to_owned(), var)
            };
            Self(shapes.into_iter().enumerate().map(var).collect())
        }

        fn loss(&self, seed: u64, pass: Pass, comm: &Arc<dyn Communicator>) -> Tensor {
            let [first, factor, second, bias, norm] = [0, 1, 2, 3, 4].map(|at| &self.0[at].1);
            let xs = random(seed, &[5, 3]);
            let hidden = match pass {
                Pass::Short => random(seed, &[5, 4]),
                _ => linear(&xs, first, None).unwrap(),
            };
            let hidden = match pass {
                Pass::Twice => (hidden + linear(&xs.sqr().unwrap(), first, None).unwrap()).unwrap(),
                Pass::Norm => {
                    sync_batch_norm(&hidden, (norm, norm), 1e-3, comm)
                        .unwrap()
                        .ys
                }
                _ => hidden,
            };
            let ys = linear(&hidden, second, Some(bias)).unwrap();
            let ys = ys.broadcast_mul(factor).unwrap();
            ys.sqr().unwrap().mean_all().unwrap()
        }
    }

    /// Gradients by name after steps of two micro-batches, and the number of buckets sent during the passes.
    type Found = Vec<(Vec<Option<Vec<f32>>>, usize)>;

    /// The result on each of two processes; `passes` gives a rank's last backward pass of each step.
    fn train(passes: fn(usize) -> Vec<Pass>, overlap: Overlap) -> Vec<Found> {
        let one = |group: Threads| -> Found {
            let rank = group.rank();
            let counting = Arc::new(Counting {
                group,
                overlap,
                started: AtomicUsize::new(0),
            });
            let comm: Arc<dyn Communicator> = counting.clone();
            let model = Model::new();
            let mut gradients = Gradients::new(model.0.clone());
            let step = |(step, pass): (usize, Pass)| {
                gradients.clear();
                let seed = 100 + 10 * step as u64 + rank as u64;
                gradients
                    .backward(&model.loss(seed, Pass::Plain, &comm))
                    .unwrap();
                let loss = model.loss(seed + 2, pass, &comm);
                let before = counting.started.load(Ordering::SeqCst);
                gradients.backward_sending(&loss, &comm).unwrap();
                let early = counting.started.load(Ordering::SeqCst) - before;
                gradients.average(comm.as_ref()).unwrap();
                let values = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1().unwrap();
                let found = gradients.iter().map(|(_, _, sum)| sum.map(values));
                (found.collect(), early)
            };
            passes(rank).into_iter().enumerate().map(step).collect()
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = Threads::group(2)
                .into_iter()
                .map(|group| scope.spawn(|| one(group)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        })
    }

    fn early(found: &[Found]) -> Vec<Vec<usize>> {
        let of = |found: &Found| found.iter().map(|(_, early)| *early).collect();
        found.iter().map(of).collect()
    }

    /// Asserts that all processes have equal gradients, and that they equal those of a reduction after the pass.
    fn assert_same(passes: fn(usize) -> Vec<Pass>, found: &[Found], tolerance: f32) {
        let wanted = train(passes, Overlap::None);
        assert!(early(&wanted).concat().iter().all(|early| *early == 0));
        let both = found[0].iter().zip(&found[1]);
        assert!(both.into_iter().all(|((a, _), (b, _))| a == b));
        for (step, ((found, _), (wanted, _))) in found[0].iter().zip(&wanted[0]).enumerate() {
            for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                let what = format!("parameter {at} of step {step}");
                assert_eq!(found.is_some(), wanted.is_some(), "{what}");
                let pairs = found.iter().flatten().zip(wanted.iter().flatten());
                for (a, b) in pairs {
                    assert!(
                        (a - b).abs() <= tolerance * b.abs().max(1.),
                        "{what}: {a}, {b}"
                    );
                }
            }
        }
    }

    #[test]
    fn complete_buckets_are_sent_during_the_pass_with_bit_exact_results() {
        let passes = |_| vec![Pass::Plain; 4];
        let found = train(passes, Overlap::Free);
        // Each layer is a bucket; the factor's gradient is complete only at the end.
        assert_eq!(early(&found), [[0, 2, 2, 2], [0, 2, 2, 2]]);
        assert_same(passes, &found, 0.);
        let (last, _) = &found[0][3];
        let there: Vec<bool> = last.iter().map(Option::is_some).collect();
        assert_eq!(there, [true, true, true, true, false, false]);
    }

    #[test]
    fn parts_after_their_bucket_are_added() {
        // On rank 1, a weight has more parts than before in one step, and fewer in another.
        let passes = |rank| match rank {
            0 => vec![Pass::Plain; 5],
            _ => vec![
                Pass::Plain,
                Pass::Plain,
                Pass::Twice,
                Pass::Plain,
                Pass::Plain,
            ],
        };
        let found = train(passes, Overlap::Free);
        assert_eq!(early(&found), [[0, 2, 2, 2, 2], [0, 2, 2, 1, 2]]);
        assert_same(passes, &found, 2e-6);
    }

    #[test]
    fn a_weight_may_be_missing_on_one_process() {
        let passes = |rank| match rank {
            0 => vec![Pass::Plain, Pass::Plain, Pass::Twice, Pass::Plain],
            _ => vec![Pass::Short, Pass::Plain, Pass::Short, Pass::Short],
        };
        let found = train(passes, Overlap::Free);
        assert_eq!(early(&found)[1], [0, 1, 1, 1]);
        assert_same(passes, &found, 2e-6);
        // On both, except in the first micro-batches.
        let passes = |_| vec![Pass::Plain, Pass::Short, Pass::Short, Pass::Plain];
        let found = train(passes, Overlap::Free);
        assert_eq!(early(&found), [[0, 1, 1, 1], [0, 1, 1, 1]]);
        assert_same(passes, &found, 2e-6);
    }

    #[test]
    fn a_pass_with_collectives_sends_nothing_early_under_quiet_overlap() {
        let passes = |_| vec![Pass::Norm; 3];
        let quiet = train(passes, Overlap::Quiet);
        assert_eq!(early(&quiet), [[0; 3]; 2]);
        assert_same(passes, &quiet, 0.);
        let free = train(passes, Overlap::Free);
        assert_eq!(early(&free)[0][0], 0);
        assert!(early(&free)[0][1..].iter().all(|early| *early > 0));
        assert_same(passes, &free, 0.);
        let passes = |_| vec![Pass::Plain; 3];
        assert_eq!(early(&train(passes, Overlap::Quiet)), [[0, 2, 2]; 2]);
    }

    #[test]
    fn buckets_follow_completion_order_and_incomplete_ones_go_last() {
        let positions = [3., 0., 1., 2., 0.];
        let all = [true; 5];
        assert_eq!(
            plan_buckets(&[10, 1, 8, 8, 1], &all, &positions),
            [vec![2, 3], vec![0], vec![1, 4]]
        );
        let some = [true, true, false, true, false];
        assert_eq!(
            plan_buckets(&[10, 1, 8, 8, 1], &some, &positions),
            [vec![3], vec![0], vec![1]]
        );
    }
}
