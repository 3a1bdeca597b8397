//! Finding values that are not finite.

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Tensor, Var};

use super::replay::Origin;
use crate::comm::{Communicator, Reduce};
use crate::params::Kind;
use crate::{Method, Result, TraceSink};

/// One of several processes, run without the others; its draws are those of its rank.
pub(super) struct Alone(pub(super) usize);

impl Communicator for Alone {
    fn rank(&self) -> usize {
        self.0
    }

    fn world(&self) -> usize {
        1
    }

    fn all_reduce(&self, xs: &Tensor, _how: Reduce) -> Result<Tensor> {
        Ok(xs.clone())
    }

    fn all_gather(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(xs.clone())
    }
}

/// Keeps the first intermediate with a value that is not finite.
pub(super) struct FirstNonFinite {
    images: usize,
    found: Mutex<Option<Origin>>,
}

impl FirstNonFinite {
    /// For a batch of `images` images.
    pub(super) fn new(images: usize) -> Self {
        let found = Mutex::new(None);
        Self { images, found }
    }

    pub(super) fn found(&self) -> Option<Origin> {
        let found = self.found.lock();
        found.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl TraceSink for FirstNonFinite {
    fn record(&self, name: &str, value: &Tensor) -> Result<()> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.is_some() || is_finite(value)? {
            return Ok(());
        }
        let (dims, mut rows) = (value.dims().to_vec(), Vec::new());
        if let Some(count) = dims.first().copied()
            && count.is_multiple_of(self.images)
        {
            // Several rows of an image are copy-major.
            for row in 0..count {
                let image = row % self.images;
                if !is_finite(&value.get(row)?)? && !rows.contains(&image) {
                    rows.push(image);
                }
            }
            rows.sort_unstable();
        }
        let name = name.to_owned();
        *found = Some(Origin::Intermediate { name, dims, rows });
        Ok(())
    }
}

pub(super) fn is_finite(values: &Tensor) -> Result<bool> {
    if values.dtype().is_int() {
        return Ok(true);
    }
    let values = values.to_dtype(DType::F32)?.flatten_all()?;
    Ok(values
        .to_vec1::<f32>()?
        .iter()
        .all(|value| value.is_finite()))
}

/// A parameter or buffer and its value.
pub(super) struct Saved {
    /// As `store.name`.
    pub(super) name: String,
    pub(super) is_buffer: bool,
    pub(super) value: Tensor,
    var: Var,
}

/// The current values of all parameters and buffers.
pub(super) fn save(method: &dyn Method) -> Result<Vec<Saved>> {
    let mut all = Vec::new();
    for (owner, store) in method.stores() {
        for (name, kind) in store.names() {
            let Some(var) = store.var(&name) else {
                continue;
            };
            all.push(Saved {
                name: format!("{owner}.{name}"),
                is_buffer: kind == Kind::Buffer,
                value: var.as_detached_tensor().copy()?,
                var,
            });
        }
    }
    Ok(all)
}

/// Restores what a forward pass has changed: centres, running statistics.
pub(super) fn restore(before: &[Saved]) -> Result<()> {
    before
        .iter()
        .try_for_each(|saved| Ok(saved.var.set(&saved.value)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_first_intermediate_and_its_images_are_found() {
        let xs = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let sink = FirstNonFinite::new(2);
        sink.record("mask", &Tensor::new(&[1u32, 0], &Device::Cpu).unwrap())
            .unwrap();
        sink.record("latent", &xs(&[1., 2.])).unwrap();
        assert_eq!(sink.found(), None);
        // Two rows an image, copy-major.
        sink.record("pred", &xs(&[1., 2., 3., f32::NAN])).unwrap();
        sink.record("later", &xs(&[f32::INFINITY, 1.])).unwrap();
        let found = Origin::Intermediate {
            name: "pred".to_owned(),
            dims: vec![4],
            rows: vec![1],
        };
        assert_eq!(sink.found(), Some(found));
        let other = FirstNonFinite::new(2);
        other.record("centre", &xs(&[1., 2., f32::NAN])).unwrap();
        let Some(Origin::Intermediate { rows, .. }) = other.found() else {
            panic!("nothing found");
        };
        assert!(rows.is_empty());
    }
}
