//! Which of our values each recorded output belongs to, as data.

use std::rc::Rc;

use candle_core::{DType, Device, Tensor};
use mim_core::ops::{PatchOrder, unpatchify};
use mim_core::{Mask, StepContext};

use super::super::run::Extract;
use super::super::{Case, Recorded, Result};

/// A prepared case: what its outputs may depend on.
#[derive(Debug)]
pub struct Made<C> {
    /// The case.
    pub case: Case,
    /// The settings of its method.
    pub config: C,
    /// Its masks, unless the method draws them itself.
    pub mask: Option<Mask>,
    /// The position of its step in the run.
    pub step: StepContext,
    /// Number of images in its batch.
    pub images: usize,
    /// The device that it runs on.
    pub device: Device,
}

/// Where to find our value. The name of a trace may have a `*`, which stands for the same text as the `*` of the
/// recorded name.
#[derive(Debug)]
pub enum Output<C: 'static> {
    /// The trace of this name.
    Trace(&'static str),
    /// The trace whose name follows from these settings.
    TraceOf(fn(&C) -> String),
    /// The first of these traces that exists; settings decide which.
    Any(&'static [&'static str]),
    /// A trace times a weight that the recorded value includes.
    Weighted(&'static str, fn(&C) -> f64),
    /// The hidden rows of a trace `[images, tokens, ...]`, those of all images on one axis.
    Hidden(&'static str),
    /// The same, with equally many of each image: `[images, hidden, ...]`.
    HiddenOfEach(&'static str),
    /// A trace with the rows of all images on one axis.
    Rows(&'static str),
    /// A trace `[images, rows, cols, dim]` as `[images, tokens, dim]`.
    Tokens(&'static str),
    /// A trace `[images, rows, cols, dim]` as `[images, dim, rows, cols]`.
    ChannelsFirst(&'static str),
    /// Patches on the mask's grid, with this many values per side, channel by channel, as images.
    Image(&'static str, fn(&C) -> usize),
    /// The mask, `[images, tokens]`: 1 is hidden.
    Bits,
    /// Visible ids in the mask's order.
    IdsKeep,
    /// The position of each token in the mask's order.
    IdsRestore,
    /// The value of a schedule at the step.
    Value(fn(&C, &StepContext) -> f64),
    /// What the other variants cannot express.
    By(fn(&Made<C>, &Recorded) -> Result<Tensor>),
    /// The same, with the text that the `*` of the recorded name stands for.
    Part(fn(&Made<C>, &Recorded, &str) -> Result<Tensor>),
}

impl<C> Made<C> {
    /// The masks of the case.
    ///
    /// # Errors
    ///
    /// If it has none.
    pub fn mask(&self) -> Result<&Mask> {
        let none = || self.case.bad("there is no mask".to_owned());
        Ok(self.mask.as_ref().ok_or_else(none)?)
    }

    /// The hidden rows of a trace `[images, tokens, ...]`, those of all images on one axis.
    ///
    /// # Errors
    ///
    /// If there is no such trace or no mask.
    pub fn hidden(&self, recorded: &Recorded, name: &str) -> Result<Tensor> {
        let all = recorded.get(name)?;
        let ids = self.mask()?.flat(true, all.dim(0)?, all.device())?;
        Ok(all.flatten(0, 1)?.index_select(&ids, 0)?)
    }
}

/// The text that the `*` of a pattern stands for in a matching name; empty if the pattern has none.
pub(super) fn part<'a>(pattern: &str, name: &'a str) -> Option<&'a str> {
    match pattern.split_once('*') {
        None => (pattern == name).then_some(""),
        Some((start, end)) => name.strip_prefix(start)?.strip_suffix(end),
    }
}

impl<C> Output<C> {
    /// How to find our value for a recorded tensor of this type, if the `*` of its name stands for `part`.
    pub(super) fn extract(&'static self, made: &Rc<Made<C>>, part: &str, dtype: DType) -> Extract {
        let (made, part) = (made.clone(), part.to_owned());
        Box::new(move |recorded| match self {
            Self::Value(value) => {
                let value = value(&made.config, &made.step);
                Ok(Tensor::new(value, &Device::Cpu)?.to_dtype(dtype)?)
            }
            _ => self.of(&made, recorded, &part),
        })
    }

    fn of(&self, made: &Made<C>, recorded: &Recorded, part: &str) -> Result<Tensor> {
        let trace = |name: &str| recorded.get(&name.replace('*', part));
        Ok(match self {
            Self::Trace(name) => trace(name)?,
            Self::TraceOf(name) => recorded.get(&name(&made.config))?,
            Self::Any(names) => {
                let mut found = names.iter().map(|name| trace(name));
                let first = found.find(Result::is_ok);
                first.unwrap_or_else(|| recorded.get(&names.join(" or ")))?
            }
            Self::Weighted(name, weight) => (trace(name)? * weight(&made.config))?,
            Self::Hidden(name) => made.hidden(recorded, name)?,
            Self::HiddenOfEach(name) => {
                let (rows, mask) = (made.hidden(recorded, name)?, made.mask()?);
                let each = mask.hidden_total() / mask.rows();
                rows.reshape((mask.rows(), each, ()))?
            }
            Self::Rows(name) => trace(name)?.flatten_to(1)?,
            Self::Tokens(name) => trace(name)?.flatten(1, 2)?,
            Self::ChannelsFirst(name) => trace(name)?.permute((0, 3, 1, 2))?.contiguous()?,
            Self::Image(name, side) => {
                let (side, grid) = (side(&made.config), made.mask()?.grid());
                unpatchify(&trace(name)?, side, grid, PatchOrder::ChannelsThenPixels)?
            }
            Self::Bits => made.mask()?.bits(&made.device)?,
            Self::IdsKeep => made.mask()?.ids_keep(&made.device)?,
            Self::IdsRestore => made.mask()?.ids_restore(&made.device)?,
            Self::Value(value) => Tensor::new(value(&made.config, &made.step), &Device::Cpu)?,
            Self::By(make) => make(made, recorded)?,
            Self::Part(make) => make(made, recorded, part)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::part;

    #[test]
    fn a_star_stands_for_what_differs() {
        assert_eq!(part("latent", "latent"), Some(""));
        assert_eq!(part("latent", "latent_t"), None);
        assert_eq!(part("fea*", "fea11"), Some("11"));
        assert_eq!(part("stage*_fused", "stage2_fused"), Some("2"));
        assert_eq!(part("stage*_fused", "stage2"), None);
        // The two ends do not overlap.
        assert_eq!(part("ab*ba", "aba"), None);
    }
}
