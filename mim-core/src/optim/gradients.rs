//! The gradients of one optimizer step.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use super::buckets::buckets;
use crate::comm::{Communicator, Reduce};
use crate::ops::sink::collecting;
use crate::{Result, ops};

/// Gradients by parameter, in the store's order, summed over micro-batches.
#[derive(Debug)]
pub struct Gradients {
    entries: Vec<(String, Var, Option<Tensor>)>,
}

impl Gradients {
    /// No gradients yet, for these parameters.
    pub fn new(trainable: Vec<(String, Var)>) -> Self {
        Self {
            entries: trainable
                .into_iter()
                .map(|(name, var)| (name, var, None))
                .collect(),
        }
    }

    /// Runs the backward pass of `loss` and adds its gradients. Those of large weights never pass through
    /// candle's store, so this is the faster way.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn backward(&mut self, loss: &Tensor) -> Result<()> {
        let weights = self.entries.iter().map(|(_, var, _)| var.id());
        let (store, mut direct) = collecting(weights, || loss.backward());
        for (_, var, sum) in &mut self.entries {
            if let Some(gradient) = direct.remove(&var.id()) {
                add_to(sum, gradient.of(var)?)?;
            }
        }
        self.add(store?)
    }

    /// Adds the gradients of a backward pass that has been run.
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

    /// Replaces each gradient by its mean over all processes; one that only some of them have counts as zero on
    /// the others.
    ///
    /// Each process' loss is a mean over its own rows, so with equally many rows everywhere this is the gradient
    /// of the loss of the joint batch.
    ///
    /// It follows the backward pass and does not overlap with it: candle gives no sign when the last part of a
    /// gradient is there, on a GPU it hands over none before the pass ends, and MPI makes progress only while it is
    /// called.
    ///
    /// # Errors
    ///
    /// If the processes cannot be reached.
    pub fn average(&mut self, comm: &dyn Communicator) -> Result<()> {
        if comm.world() == 1 {
            return Ok(());
        }
        let own: Vec<f32> = self
            .entries
            .iter()
            .map(|(_, _, sum)| f32::from(u8::from(sum.is_some())))
            .collect();
        let own = Tensor::new(own, &candle_core::Device::Cpu)?;
        let known: Vec<f32> = comm.all_reduce(&own, Reduce::Sum)?.to_vec1()?;
        let mut entries: Vec<_> = self
            .entries
            .iter_mut()
            .zip(known)
            .filter(|(_, known)| *known > 0.)
            .map(|(entry, _)| entry)
            .collect();
        let sizes: Vec<usize> = entries.iter().map(|(_, var, _)| var.elem_count()).collect();
        for bucket in buckets(&sizes) {
            let entries = &mut entries[bucket];
            let parts = entries.iter().map(|(_, var, sum)| match sum {
                Some(sum) => sum.flatten_all(),
                None => var.zeros_like()?.flatten_all(),
            });
            let joined = Tensor::cat(&parts.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
            let means = comm.all_reduce(&joined, Reduce::Mean)?;
            let mut start = 0;
            for (_, var, sum) in entries {
                let count = var.elem_count();
                *sum = Some(means.narrow(0, start, count)?.reshape(var.shape())?);
                start += count;
            }
        }
        Ok(())
    }

    /// Forgets all gradients.
    pub fn clear(&mut self) {
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

    /// Sets the gradient of one parameter, for recorded values; gives whether it is known.
    pub fn set(&mut self, name: &str, gradient: Tensor) -> bool {
        match self.entries.iter_mut().find(|(known, ..)| known == name) {
            Some((_, _, sum)) => {
                *sum = Some(gradient);
                true
            }
            None => false,
        }
    }

    /// Drops the gradients of the parameters whose name passes, so that the optimizer leaves them alone.
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
        Ok(self.squares()?.iter().sum::<f64>().sqrt())
    }

    /// The sum of squares of each gradient that is there, in order; on a GPU all of them come in one copy.
    pub(super) fn squares(&self) -> Result<Vec<f64>> {
        let gradients: Vec<&Tensor> = self.iter().filter_map(|(_, _, sum)| sum).collect();
        ops::sums_of_squares(&gradients)
    }

    /// Multiplies each gradient that is there by its factor, where that is not 1.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub(super) fn scale_each(&mut self, factors: impl Iterator<Item = f64>) -> Result<()> {
        let gradients = self
            .entries
            .iter_mut()
            .filter_map(|(_, _, sum)| sum.as_mut());
        for (gradient, factor) in gradients.zip(factors) {
            if factor != 1. {
                *gradient = (&*gradient * factor)?;
            }
        }
        Ok(())
    }
}

fn add_to(sum: &mut Option<Tensor>, gradient: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(sum) => (sum + gradient)?,
        None => gradient,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Threads;
    use crate::ops::testing::random;

    #[test]
    fn averages_over_processes_and_knows_who_has_none() {
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
    fn both_ways_give_the_same_sums() {
        let var = |seed, shape: &[usize]| Var::from_tensor(&random(seed, shape)).unwrap();
        let (weight, bias) = (var(1, &[3, 4]), var(2, &[3]));
        let vars = vec![
            ("weight".to_owned(), weight.clone()),
            ("bias".to_owned(), bias.clone()),
        ];
        let xs = random(3, &[5, 4]);
        // The weight is used twice by the layer and once outside of it.
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
