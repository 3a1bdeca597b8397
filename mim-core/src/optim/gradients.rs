//! The gradients of one optimizer step.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

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

    /// Adds the gradients of one backward pass.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn add(&mut self, mut store: GradStore) -> Result<()> {
        for (_, var, sum) in &mut self.entries {
            if let Some(gradient) = store.remove(var) {
                *sum = Some(match sum.take() {
                    Some(sum) => (sum + gradient)?,
                    None => gradient,
                });
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
        let squares = self
            .iter()
            .filter_map(|(_, _, gradient)| gradient)
            .map(ops::sum_squares);
        Ok(squares.sum::<Result<f64>>()?.sqrt())
    }

    /// Multiplies each gradient by the factor that `scale` gives for it, where that is not 1.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub(super) fn scale_each(&mut self, scale: impl Fn(&Tensor) -> Result<f64>) -> Result<()> {
        for gradient in self
            .entries
            .iter_mut()
            .filter_map(|(_, _, sum)| sum.as_mut())
        {
            let factor = scale(gradient)?;
            if factor != 1. {
                *gradient = (&*gradient * factor)?;
            }
        }
        Ok(())
    }
}
