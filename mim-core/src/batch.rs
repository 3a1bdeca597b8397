//! The input of a training step.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use crate::{Error, Result, View, ops};

/// In part maps, marks a patch that belongs to no part and is not used in training.
pub const NO_PART: u32 = 255;

/// One or more views of the same images, with further inputs of a method.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The views, in the order of the method's plan.
    pub views: Vec<View>,
    /// Index of each image in its data set, on the host; empty if unknown.
    pub indices: Vec<u32>,
    /// Class labels `[batch]` u32, if the data has them.
    pub labels: Option<Tensor>,
    /// Further named inputs: `part_id` `[batch, tokens]`, `points` `[batch, points, 3]`, ...
    pub extras: BTreeMap<String, Tensor>,
}

impl Batch {
    /// A batch of one view.
    pub fn single(view: View) -> Self {
        Self {
            views: vec![view],
            indices: Vec::new(),
            labels: None,
            extras: BTreeMap::new(),
        }
    }

    /// View `index`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if the batch has fewer views.
    pub fn view(&self, index: usize) -> Result<&View> {
        self.views.get(index).ok_or_else(|| {
            Error::shape(
                "batch",
                format!("at least {} views", index + 1),
                self.views.len(),
                "use the view plan of the method",
            )
        })
    }

    /// Images in the batch.
    pub fn len(&self) -> usize {
        self.views.first().map_or(0, View::len)
    }

    /// Whether the batch holds no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A batch of image `row` only.
    ///
    /// # Errors
    ///
    /// If there is no such image.
    pub fn only(&self, row: usize) -> Result<Self> {
        let one = |xs: &Tensor| Ok::<_, Error>(xs.narrow(0, row, 1)?);
        let extras = self.extras.iter();
        let extras = extras.map(|(name, xs)| Ok((name.clone(), one(xs)?)));
        Ok(Self {
            views: self
                .views
                .iter()
                .map(|view| view.only(row))
                .collect::<Result<_>>()?,
            indices: self.indices.get(row).copied().into_iter().collect(),
            labels: self.labels.as_ref().map(one).transpose()?,
            extras: extras.collect::<Result<_>>()?,
        })
    }

    /// The same batch on another device.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(Self {
            views: self
                .views
                .iter()
                .map(|view| view.to_device(device))
                .collect::<Result<_>>()?,
            indices: self.indices.clone(),
            labels: self
                .labels
                .as_ref()
                .map(|labels| ops::to_device(labels, device))
                .transpose()?,
            extras: self
                .extras
                .iter()
                .map(|(name, xs)| Ok((name.clone(), ops::to_device(xs, device)?)))
                .collect::<Result<_>>()?,
        })
    }
}
