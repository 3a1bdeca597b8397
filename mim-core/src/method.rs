//! The method trait: what the training engine, the evaluations and the tools ask for.

use candle_core::Tensor;

use crate::augment::ViewPlan;
use crate::params::ParamStore;
use crate::{
    Batch, Classifier, Encoder, Error, ImageSize, LossTerms, Mask, Norm, Result, StepContext,
    Tokenizer,
};

/// Images of a reconstruction, each `[batch, channels, height, width]` in `[0, 1]`.
#[derive(Debug, Clone)]
pub struct Reconstruction {
    /// What the method saw before masking.
    pub original: Tensor,
    /// The same with hidden patches in grey.
    pub masked: Tensor,
    /// Visible patches as they are, hidden ones as predicted.
    pub reconstruction: Tensor,
}

/// The images an encoder takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Height and width in pixels.
    pub size: ImageSize,
    /// Normalisation, with one mean and deviation for each channel.
    pub norm: Norm,
}

impl Input {
    /// Channels of the images.
    pub fn channels(&self) -> usize {
        self.norm.mean.len()
    }
}

/// A pre-training method: networks, masks, targets and loss.
///
/// Most methods are a `Composite` of parts (crate `mim-methods`). The registry there builds a method from its settings, and
/// [`crate::train::Trainer`] trains it. A loop of your own needs no more than this:
///
/// ```
/// use mim_core::optim::{AdamWConfig, Clip};
/// use mim_core::train::Stepper;
/// use mim_core::{Batch, Method, Result, StepContext};
///
/// fn train(method: &dyn Method, batches: Vec<Batch>) -> Result<()> {
///     let mut stepper = Stepper::new(method, AdamWConfig::default(), Clip::None)?;
///     let iters_per_epoch = batches.len();
///     for (iter, batch) in batches.into_iter().enumerate() {
///         let step = StepContext { iter, iters_per_epoch, ..StepContext::new(0) };
///         let report = stepper.step(method, &[batch], &step, 1e-3)?;
///         println!("{iter}: loss {:.4}", report.loss);
///     }
///     Ok(())
/// }
/// ```
pub trait Method: Send + Sync {
    /// The name it has in the registry.
    fn name(&self) -> &str;

    /// How images become the views of a batch in this epoch.
    fn views(&self, epoch: usize) -> ViewPlan;

    /// The images the encoder takes.
    fn input(&self) -> &Input;

    /// The weights of a checkpoint: `"student"` first, then momentum teachers.
    ///
    /// Frozen outside networks (CLIP, dVAE) are not among them.
    fn stores(&self) -> Vec<(&str, &ParamStore)>;

    /// The encoder evaluated by default; `None` for tokenizers.
    fn encoder(&self) -> Option<&dyn Encoder>;

    /// The tokenizer that is trained, if the method trains one: what a target of tokens takes from its run.
    fn tokenizer(&self) -> Option<&dyn Tokenizer> {
        None
    }

    /// The classifier that is trained with labels, if the method trains one.
    fn classifier(&self) -> Option<&dyn Classifier> {
        None
    }

    /// How many images one image counts for where the learning rate follows the batch (`blr`): more than
    /// one for methods that learn more from an image (DMJD).
    fn batch_factor(&self) -> f64 {
        1.
    }

    /// The first epochs of the stages of a run, ascending from 0: the schedule of the learning rate starts again at each,
    /// and what a stage has trained is reported before the next one replaces it in [`Method::end_epoch`] (dBOT).
    /// Default: one stage.
    fn stages(&self) -> &[usize] {
        &[0]
    }

    /// All encoders that can be evaluated, by name, [`Method::encoder`] first. Default: that one, named `student`.
    fn encoders(&self) -> Vec<(&str, &dyn Encoder)> {
        self.encoder()
            .map(|encoder| ("student", encoder))
            .into_iter()
            .collect()
    }

    /// Lines for a reader of the results: for instance which network was the teacher.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// What it cannot start without, where it cannot start from initial values.
    fn must_start_from(&self) -> Option<&'static str> {
        None
    }

    /// The loss of one batch.
    ///
    /// # Errors
    ///
    /// If the batch does not fit the method.
    fn forward(&self, batch: &Batch, step: &StepContext) -> Result<LossTerms>;

    /// Runs before the forward pass of each optimizer step.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    fn before_step(&self, _step: &StepContext) -> Result<()> {
        Ok(())
    }

    /// Runs after each optimizer step.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    fn after_step(&self, _step: &StepContext) -> Result<()> {
        Ok(())
    }

    /// Runs after each epoch.
    ///
    /// # Errors
    ///
    /// Fails only if the device does.
    fn end_epoch(&mut self, _step: &StepContext) -> Result<()> {
        Ok(())
    }

    /// Uses a recorded mask in place of the masker, for parity, pictures and tests.
    ///
    /// # Errors
    ///
    /// If the method draws no masks.
    fn override_mask(&mut self, mask: Mask) -> Result<()>;

    /// Draws what the method predicts, for pictures.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if it does not predict pixels.
    fn reconstruct(&self, _batch: &Batch, _step: &StepContext) -> Result<Reconstruction> {
        Err(Error::unsupported(
            format!("a reconstruction by {}", self.name()),
            "it does not predict pixels",
            "use a method with a pixel target",
        ))
    }
}
