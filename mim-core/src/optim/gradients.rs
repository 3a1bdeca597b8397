//! The gradients of one optimizer step.

use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use super::reducer::{Entry, GradReducer, Sender, add_to};
use crate::comm::{Communicator, Overlap};
use crate::ops::MaxNorm;
use crate::ops::grad_accumulator::{Collected, collecting};
use crate::{Result, ops};

/// Gradients by parameter, in the store's order, summed over micro-batches.
#[derive(Debug)]
pub struct Gradients {
    entries: Vec<Entry>,
    reducer: GradReducer,
}

impl Gradients {
    /// No gradients yet, for these parameters.
    pub fn new(trainable: Vec<(String, Var)>) -> Self {
        Self {
            entries: trainable
                .into_iter()
                .map(|(name, var)| (name, var, None))
                .collect(),
            reducer: GradReducer::default(),
        }
    }

    /// Runs the backward pass of `loss` and adds its gradients. This is faster than [`Gradients::add`], since gradients
    /// of large weights bypass candle's store.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn backward(&mut self, loss: &Tensor) -> Result<()> {
        let weights = self.entries.iter().map(|(_, var, _)| var.id());
        let (store, found) = collecting(weights, None, || loss.backward());
        self.add_accumulated(found)?;
        self.add(store?)
    }

    /// [`Gradients::backward`] for the last micro-batch: sends gradients to the other processes as soon as they are
    /// complete, if `comm` can overlap this with the backward pass. [`Gradients::average`] must follow.
    ///
    /// # Errors
    ///
    /// If the device fails, or a process cannot be reached.
    pub fn backward_sending(&mut self, loss: &Tensor, comm: &Arc<dyn Communicator>) -> Result<()> {
        let cannot = comm.world() == 1 || comm.overlap() == Overlap::None;
        if cannot || self.reducer.has_sent() {
            return self.backward(loss);
        }
        let weights: Vec<_> = self.entries.iter().map(|(_, var, _)| var.id()).collect();
        let sender = self.reducer.sender(std::mem::take(&mut self.entries), comm);
        let watch = Sender::watch(&sender);
        let (store, found) = collecting(weights.into_iter(), Some(watch), || loss.backward());
        let stored = |var: &Var| matches!(&store, Ok(store) if store.get(var).is_some());
        self.entries = self.reducer.collect(&sender, &found, stored);
        self.add_accumulated(found)?;
        self.add(store?)
    }

    /// Adds the gradients of the accumulator.
    fn add_accumulated(&mut self, mut found: Collected) -> Result<()> {
        for (_, var, sum) in &mut self.entries {
            let slot = found.slots.remove(&var.id());
            if let Some(gradient) = slot.and_then(|slot| slot.sum) {
                add_to(sum, gradient.of(var)?)?;
            }
        }
        Ok(())
    }

    /// Adds the gradients of a finished backward pass.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn add(&mut self, mut store: GradStore) -> Result<()> {
        for (_, var, sum) in &mut self.entries {
            if let Some(gradient) = store.remove(var) {
                add_to(sum, gradient)?;
            }
        }
        Ok(())
    }

    /// Replaces each gradient by its mean over all processes. Where a process has no gradient for a parameter, it
    /// counts as zero.
    ///
    /// The loss of each process is a mean over its own rows. If all have equally many rows, the result is the gradient
    /// of the loss over the joint batch.
    ///
    /// After [`Gradients::backward_sending`], most of the work is done or in flight. Early sends change the result only
    /// by rounding, and only if a backward pass gives a weight more partial gradients than the previous pass did.
    ///
    /// # Errors
    ///
    /// If a process cannot be reached.
    pub fn average(&mut self, comm: &dyn Communicator) -> Result<()> {
        if comm.world() == 1 {
            return Ok(());
        }
        self.reducer.average(&mut self.entries, comm)
    }

    /// Removes all gradients.
    pub fn clear(&mut self) {
        self.reducer.clear();
        self.entries.iter_mut().for_each(|(_, _, sum)| *sum = None);
    }

    /// All parameters: (name, variable, gradient).
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var, Option<&Tensor>)> {
        self.entries
            .iter()
            .map(|(name, var, sum)| (name.as_str(), var, sum.as_ref()))
    }

    /// The gradient of one parameter.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.entries
            .iter()
            .find(|(known, ..)| known == name)
            .and_then(|(_, _, sum)| sum.as_ref())
    }

    /// Sets the gradient of one parameter, for recorded values; returns false if there is no such parameter.
    pub fn set(&mut self, name: &str, gradient: Tensor) -> bool {
        match self.entries.iter_mut().find(|(known, ..)| known == name) {
            Some((_, _, sum)) => {
                *sum = Some(gradient);
                true
            }
            None => false,
        }
    }

    /// Drops the gradients of parameters whose name satisfies `passes`, so that the optimizer skips them.
    pub fn withhold(&mut self, passes: impl Fn(&str) -> bool) {
        for (_, _, sum) in self.entries.iter_mut().filter(|(name, ..)| passes(name)) {
            *sum = None;
        }
    }

    /// L2 norm over all gradients.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn norm(&self) -> Result<f64> {
        let squares = self.squares()?.to_vec1::<f64>()?;
        Ok(squares.iter().sum::<f64>().sqrt())
    }

    /// The sum of squares of each existing gradient, in order, `[gradients]` f64; on a GPU the sums stay there.
    pub(super) fn squares(&self) -> Result<Tensor> {
        let gradients: Vec<&Tensor> = self.iter().filter_map(|(_, _, sum)| sum).collect();
        Ok(ops::sums_of_squares(&gradients)?)
    }

    /// [`ops::clip_norm`] of the existing gradients, in place: other holders of a gradient see the change.
    pub(super) fn clip_norm(&mut self, squares: &Tensor, max_norm: MaxNorm) -> Result<()> {
        for gradient in self
            .entries
            .iter_mut()
            .filter_map(|(_, _, sum)| sum.as_mut())
        {
            // A gradient set from outside may be a view.
            *gradient = gradient.contiguous()?;
        }
        let gradients: Vec<&Tensor> = self.iter().filter_map(|(_, _, sum)| sum).collect();
        Ok(ops::clip_norm(&gradients, squares, max_norm)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Threads;
    use crate::optim::testing::random;

    #[test]
    fn averages_over_processes_with_missing_gradients() {
        let names = ["all", "one", "none"];
        let vars = || {
            names.map(|name| {
                (
                    name.to_owned(),
                    Var::from_tensor(&random(1, &[2, 3])).unwrap(),
                )
            })
        };
        let found: Vec<Vec<Option<Tensor>>> = std::thread::scope(|scope| {
            let threads: Vec<_> = Threads::group(2)
                .into_iter()
                .map(|comm| {
                    scope.spawn(move || {
                        let mut gradients = Gradients::new(vars().to_vec());
                        gradients.set("all", random(2 + comm.rank() as u64, &[2, 3]));
                        if comm.rank() == 1 {
                            gradients.set("one", random(4, &[2, 3]));
                        }
                        gradients.average(&comm).unwrap();
                        names.map(|name| gradients.get(name).cloned()).to_vec()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let half = |xs: Tensor| (xs * 0.5).unwrap().to_vec2::<f32>().unwrap();
        let both = (random(2, &[2, 3]) + random(3, &[2, 3])).unwrap();
        for found in found {
            let values = |at: usize| found[at].as_ref().map(|xs| xs.to_vec2::<f32>().unwrap());
            assert_eq!(values(0), Some(half(both.clone())));
            assert_eq!(values(1), Some(half(random(4, &[2, 3]))));
            assert_eq!(values(2), None);
        }
    }

    #[test]
    fn accumulator_and_store_give_the_same_sums() {
        let var = |seed, shape: &[usize]| Var::from_tensor(&random(seed, shape)).unwrap();
        let (weight, bias) = (var(1, &[3, 4]), var(2, &[3]));
        let vars = vec![
            ("weight".to_owned(), weight.clone()),
            ("bias".to_owned(), bias.clone()),
        ];
        let xs = random(3, &[5, 4]);
        // The layer uses the weight twice, and it is used once outside.
        let loss = |factor: f64| {
            let once = ops::linear(&xs, &weight, Some(&bias)).unwrap();
            let twice = ops::linear(&(&xs * factor).unwrap(), &weight, None).unwrap();
            let outside = weight.sqr().unwrap().sum_all().unwrap();
            ((once * twice).unwrap().sum_all().unwrap() + outside).unwrap()
        };
        let (mut direct, mut stored) = (Gradients::new(vars.clone()), Gradients::new(vars));
        for factor in [0.5, 2.] {
            direct.backward(&loss(factor)).unwrap();
            stored.add(loss(factor).backward().unwrap()).unwrap();
        }
        for ((name, _, a), (_, _, b)) in direct.iter().zip(stored.iter()) {
            let values = |xs: Option<&Tensor>| -> Vec<f32> {
                xs.unwrap().flatten_all().unwrap().to_vec1().unwrap()
            };
            for (a, b) in values(a).iter().zip(values(b)) {
                assert!((a - b).abs() <= 1e-5 * b.abs().max(1.), "{name}: {a}, {b}");
            }
        }
    }
}
