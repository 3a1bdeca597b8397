//! Accumulates weight gradients directly, outside candle's gradient store.
//!
//! candle's backward pass adds every gradient to zeros in its store. For weights that costs three more
//! passes over all parameters per step. Ops that compute a weight gradient add it to a buffer here instead
//! and return no gradient to candle, which treats this as "nothing to add".
//!
//! The accumulator also signals when a gradient is complete: candle exposes its store only after the pass.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::{Result, Tensor, TensorId, bail};

/// The running sum of one weight's gradients.
#[derive(Debug)]
pub enum Sum {
    /// Summed by CPU ops.
    Host(Vec<f32>),
    /// Summed on a GPU.
    Device(Tensor),
}

impl Sum {
    /// The gradient of `weight`, in its shape.
    ///
    /// # Errors
    ///
    /// Fails if the number of values differs from that of `weight`, or if the device fails.
    pub fn of(self, weight: &Tensor) -> Result<Tensor> {
        match self {
            Self::Host(values) => Tensor::from_vec(values, weight.shape(), weight.device()),
            Self::Device(gradient) => gradient.reshape(weight.shape()),
        }
    }
}

/// The accumulated gradient of one weight.
#[derive(Debug, Default)]
pub struct Slot {
    /// The running sum; `None` if nothing was added since it was last taken.
    pub sum: Option<Sum>,
    /// Number of partial gradients added so far.
    pub parts: usize,
    /// Number of partial gradients added to any weight before the last one of this weight.
    pub order: usize,
}

/// Called after each partial gradient with the weight's id and the number of parts so far. It may [`take`] the
/// running sum.
pub type GradHook = dyn FnMut(TensorId, usize) -> Result<()>;

/// State of a running backward pass.
#[derive(Default)]
struct Pass {
    slots: HashMap<TensorId, Slot>,
    parts: usize,
    calls: bool,
    hook: Option<Box<GradHook>>,
}

/// The result of a backward pass.
#[derive(Debug)]
pub struct Collected {
    /// Accumulated gradients by weight id.
    pub slots: HashMap<TensorId, Slot>,
    /// Whether the pass itself called a collective operation.
    pub calls: bool,
}

thread_local! {
    /// The backward pass running on this thread.
    static ACTIVE: RefCell<Option<Pass>> = const { RefCell::new(None) };
}

/// Restores the previous pass on drop, even after a panic.
struct Scope(Option<Pass>);

impl Drop for Scope {
    fn drop(&mut self) {
        ACTIVE.set(self.0.take());
    }
}

/// Runs a backward pass and returns the gradients that ops accumulated for `weights`; calls `hook` after each part.
pub fn collecting<R>(
    weights: impl Iterator<Item = TensorId>,
    hook: Option<Box<GradHook>>,
    backward: impl FnOnce() -> R,
) -> (R, Collected) {
    let own = Pass {
        slots: weights.map(|id| (id, Slot::default())).collect(),
        hook,
        ..Pass::default()
    };
    let scope = Scope(ACTIVE.replace(Some(own)));
    let result = backward();
    let Pass { slots, calls, .. } = ACTIVE.take().unwrap_or_default();
    drop(scope);
    (result, Collected { slots, calls })
}

/// Takes the running sum of a weight in the current pass; later parts start a new sum.
pub fn take(weight: TensorId) -> Option<Sum> {
    ACTIVE.with_borrow_mut(|active| active.as_mut()?.slots.get_mut(&weight)?.sum.take())
}

/// Records that the current pass calls a collective operation.
pub(super) fn mark_collective() {
    ACTIVE.with_borrow_mut(|active| {
        if let Some(pass) = active {
            pass.calls = true;
        }
    });
}

/// Adds a partial gradient of `weight`: `write` receives the running sum, if any, and returns the new one.
/// Returns false, without calling `write`, if no pass collects this weight.
pub(super) fn accumulate(
    weight: &Tensor,
    write: impl FnOnce(Option<Vec<f32>>) -> Result<Vec<f32>>,
) -> Result<bool> {
    accumulate_to(weight.id(), |sum| {
        let sum = match sum {
            Some(Sum::Device(sum)) => Some(sum.flatten_all()?.to_vec1::<f32>()?),
            Some(Sum::Host(sum)) => Some(sum),
            None => None,
        };
        write(sum).map(Sum::Host)
    })
}

/// Id of a weight that tracks gradients; `None` for others.
pub(super) fn tracked_id(weight: &Tensor) -> Option<TensorId> {
    weight.track_op().then(|| weight.id())
}

/// Accumulates a partial gradient of weight `id`; returns it, for candle, if no pass collects this weight.
pub(super) fn accumulate_or_return(id: TensorId, part: Tensor) -> Result<Option<Tensor>> {
    let taken = accumulate_to(id, |sum| {
        if part.device().is_cuda() {
            let before = match sum {
                None => return Ok(Sum::Device(part.clone())),
                Some(Sum::Host(sum)) => Tensor::from_vec(sum, part.shape(), part.device())?,
                Some(Sum::Device(sum)) => sum,
            };
            return Ok(Sum::Device((before + &part)?));
        }
        let part = part.flatten_all()?.to_vec1::<f32>()?;
        let sum = match sum {
            Some(Sum::Device(_)) => bail!("the gradients of one weight are on two devices"),
            Some(Sum::Host(sum)) => Some(sum),
            None => None,
        };
        Ok(Sum::Host(added(sum, part)))
    })?;
    Ok((!taken).then_some(part))
}

/// [`accumulate_or_return`] for an id from [`tracked_id`]; does nothing for `None`.
pub(super) fn accumulate_if_tracked(
    weight: Option<TensorId>,
    part: Tensor,
) -> Result<Option<Tensor>> {
    weight.map_or(Ok(None), |id| accumulate_or_return(id, part))
}

/// [`accumulate_or_return`] for values on the CPU.
pub(super) fn accumulate_values_or_return(
    weight: &Tensor,
    part: Vec<f32>,
) -> Result<Option<Tensor>> {
    let mut part = Some(part);
    accumulate(weight, |sum| {
        Ok(added(sum, part.take().unwrap_or_default()))
    })?;
    part.map(|part| Tensor::from_vec(part, weight.shape(), weight.device()))
        .transpose()
}

fn added(sum: Option<Vec<f32>>, part: Vec<f32>) -> Vec<f32> {
    match sum {
        Some(mut sum) => {
            sum.iter_mut().zip(&part).for_each(|(sum, x)| *sum += x);
            sum
        }
        None => part,
    }
}

/// Whether a backward pass collects gradients on this thread.
pub(super) fn active() -> bool {
    ACTIVE.with_borrow(Option::is_some)
}

fn accumulate_to(id: TensorId, write: impl FnOnce(Option<Sum>) -> Result<Sum>) -> Result<bool> {
    // Take the sum out while writing: `write` may run rayon tasks that run other work of this thread.
    let sum =
        ACTIVE.with_borrow_mut(|active| Some(active.as_mut()?.slots.get_mut(&id)?.sum.take()));
    let Some(sum) = sum else {
        return Ok(false);
    };
    let sum = write(sum)?;
    let (parts, hook) = ACTIVE.with_borrow_mut(|active| {
        let Some(pass) = active else {
            return (0, None);
        };
        let slot = pass.slots.entry(id).or_default();
        (slot.sum, slot.order) = (Some(sum), pass.parts);
        slot.parts += 1;
        pass.parts += 1;
        (slot.parts, pass.hook.take())
    });
    // Take the hook out for the same reason.
    if let Some(mut hook) = hook {
        hook(id, parts)?;
        ACTIVE.with_borrow_mut(|active| {
            if let Some(pass) = active {
                pass.hook = Some(hook);
            }
        });
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};
    use std::rc::Rc;

    fn var() -> Var {
        Var::new(&[1f32, 2.], &Device::Cpu).unwrap()
    }

    fn add(weight: &Var, part: [f32; 2]) -> bool {
        let write = |sum: Option<Vec<f32>>| {
            let sum = sum.unwrap_or(vec![0.; 2]);
            Ok(sum.iter().zip(part).map(|(a, b)| a + b).collect())
        };
        accumulate(weight, write).unwrap()
    }

    #[test]
    fn parts_add_up_only_for_collected_weights() {
        let (asked, other) = (var(), var());
        assert!(!add(&asked, [1., 1.]));
        let (taken, mut found) = collecting([asked.id()].into_iter(), None, || {
            [
                add(&asked, [1., 2.]),
                add(&asked, [3., 4.]),
                add(&other, [1., 1.]),
            ]
        });
        assert_eq!(taken, [true, true, false]);
        let slot = found.slots.remove(&asked.id()).unwrap();
        assert!(matches!(slot.sum, Some(Sum::Host(sum)) if sum == [4., 6.]));
        assert_eq!((slot.parts, slot.order), (2, 1));
        assert!(found.slots.is_empty() && !found.calls);
        assert!(!add(&asked, [1., 1.]));
    }

    #[test]
    fn uncollected_gradients_are_returned() {
        let (weight, part) = (var(), Tensor::new(&[1f32, 2.], &Device::Cpu).unwrap());
        let values = |part: Option<Tensor>| part.map(|part| part.to_vec1::<f32>().unwrap());
        assert_eq!(tracked_id(&part), None);
        assert!(accumulate_if_tracked(None, part.clone()).unwrap().is_none());
        let accumulate = || {
            [
                values(accumulate_or_return(weight.id(), part.clone()).unwrap()),
                values(accumulate_values_or_return(&weight, vec![3., 4.]).unwrap()),
            ]
        };
        assert_eq!(accumulate(), [Some(vec![1., 2.]), Some(vec![3., 4.])]);
        let (taken, found) = collecting(tracked_id(&weight).into_iter(), None, accumulate);
        assert_eq!(taken, [None, None]);
        let slot = &found.slots[&weight.id()];
        assert!(matches!(&slot.sum, Some(Sum::Host(sum)) if *sum == [4., 6.]));
    }

    #[test]
    fn the_hook_may_take_the_running_sum() {
        let (first, second) = (var(), var());
        let [one, two] = [&first, &second].map(|var| var.id());
        let taken = Rc::new(RefCell::new(Vec::new()));
        let list = taken.clone();
        let hook = move |id, parts| {
            if id == two {
                list.borrow_mut().push((parts, take(one)));
            }
            Ok(())
        };
        let weights = [one, two].into_iter();
        let ((), found) = collecting(weights, Some(Box::new(hook)), || {
            let parts = [(&first, [1., 2.]), (&second, [5., 5.]), (&first, [3., 4.])];
            assert!(parts.into_iter().all(|(var, part)| add(var, part)));
            mark_collective();
        });
        assert!(matches!(&taken.borrow()[..], [(1, Some(Sum::Host(sum)))] if *sum == [1., 2.]));
        let late = &found.slots[&one];
        assert!(matches!(&late.sum, Some(Sum::Host(sum)) if *sum == [3., 4.]));
        assert_eq!((late.parts, late.order, found.calls), (2, 2, true));
    }

    #[test]
    fn a_panic_ends_the_collection() {
        let weight = var();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            collecting([weight.id()].into_iter(), None, || -> () {
                panic!("inside")
            })
        }));
        assert!(result.is_err());
        assert!(!add(&weight, [1., 1.]));
    }
}
