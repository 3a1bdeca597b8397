//! Gradients of weights written straight into buffers of their own.
//!
//! candle's backward pass adds every gradient to zeros in its store. For weights that is three more
//! passes over all parameters a step; ops that compute such a gradient hand it over here instead and
//! give candle none, which it takes for "nothing to add".
//!
//! It also signals when a gradient is complete: candle exposes its store only after the pass.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::{Result, Tensor, TensorId, bail};

/// The sum of what was handed over for one weight.
#[derive(Debug)]
pub enum Sum {
    /// By the CPU's ops.
    Host(Vec<f32>),
    /// On a GPU.
    Device(Tensor),
}

impl Sum {
    /// The gradient of `weight`.
    ///
    /// # Errors
    ///
    /// If it has not as many values as `weight`, or the device fails.
    pub fn of(self, weight: &Tensor) -> Result<Tensor> {
        match self {
            Self::Host(values) => Tensor::from_vec(values, weight.shape(), weight.device()),
            Self::Device(gradient) => gradient.reshape(weight.shape()),
        }
    }
}

/// What was handed over for one weight; nothing yet, or nothing any more.
#[derive(Debug, Default)]
pub struct Slot {
    /// The sum; none if nothing has come since it was taken.
    pub sum: Option<Sum>,
    /// How many parts have come.
    pub parts: usize,
    /// How many parts of any weight had come before the last of them.
    pub order: usize,
}

/// Called after each partial gradient with the weight's id and the number of parts so far. It may [`take`] the running
/// sum.
pub type GradHook = dyn FnMut(TensorId, usize) -> Result<()>;

/// What a backward pass hands over.
#[derive(Default)]
struct Pass {
    slots: HashMap<TensorId, Slot>,
    parts: usize,
    calls: bool,
    hook: Option<Box<GradHook>>,
}

/// What a backward pass has handed over.
#[derive(Debug)]
pub struct Collected {
    /// By the id of the weight.
    pub slots: HashMap<TensorId, Slot>,
    /// Whether it asked other processes for something itself.
    pub calls: bool,
}

thread_local! {
    /// The backward pass that runs on this thread.
    static ACTIVE: RefCell<Option<Pass>> = const { RefCell::new(None) };
}

/// Puts back what was active before, whatever happens in between.
struct Scope(Option<Pass>);

impl Drop for Scope {
    fn drop(&mut self) {
        ACTIVE.set(self.0.take());
    }
}

/// Runs a backward pass; gives the gradients of those of `weights` that ops handed over, while `hook` looks on.
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

/// Takes the sum of what has come for a weight in the pass that runs; later parts make a new sum.
pub fn take(weight: TensorId) -> Option<Sum> {
    ACTIVE.with_borrow_mut(|active| active.as_mut()?.slots.get_mut(&weight)?.sum.take())
}

/// Notes that the pass that runs asks other processes for something.
pub(super) fn mark_collective() {
    ACTIVE.with_borrow_mut(|active| {
        if let Some(pass) = active {
            pass.calls = true;
        }
    });
}

/// Hands over a part of the gradient of `weight`: `write` gets the sum of the parts so far, if there is
/// one. Gives false, and does nothing, where no one collects it.
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

/// A weight that has a gradient to hand over: none that tracks no gradient.
pub(super) fn tracked_id(weight: &Tensor) -> Option<TensorId> {
    weight.track_op().then(|| weight.id())
}

/// Hands over a part of the gradient of the weight `id`; gives it back, for candle, where no one collects it.
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
            Some(Sum::Device(_)) => bail!("a gradient was handed over on two devices"),
            Some(Sum::Host(sum)) => Some(sum),
            None => None,
        };
        Ok(Sum::Host(added(sum, part)))
    })?;
    Ok((!taken).then_some(part))
}

/// [`accumulate_or_return`] of what a [`tracked_id`] weight gets; nothing to do for another.
pub(super) fn accumulate_if_tracked(
    weight: Option<TensorId>,
    part: Tensor,
) -> Result<Option<Tensor>> {
    weight.map_or(Ok(None), |id| accumulate_or_return(id, part))
}

/// [`accumulate_or_return`] of values on the CPU.
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

/// Whether anyone collects gradients on this thread.
pub(super) fn active() -> bool {
    ACTIVE.with_borrow(Option::is_some)
}

fn accumulate_to(id: TensorId, write: impl FnOnce(Option<Sum>) -> Result<Sum>) -> Result<bool> {
    // Taken out while it is written: threads that help may run other work of this one.
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
    // Out of its place for the same reason.
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
    fn parts_add_up_and_only_for_those_who_ask() {
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
    fn what_nobody_collects_comes_back() {
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
    fn who_looks_on_may_take_what_is_there() {
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
    fn a_panic_inside_leaves_nothing_behind() {
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
