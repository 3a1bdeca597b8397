//! The method trait, used by the training engine, evaluations and tools.

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
    /// Input of the method before masking.
    pub original: Tensor,
    /// The original with hidden patches in grey.
    pub masked: Tensor,
    /// Visible patches of the original, hidden ones as predicted.
    pub reconstruction: Tensor,
}

/// Image format of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Height and width in pixels.
    pub size: ImageSize,
    /// Normalisation, with one mean and deviation per channel.
    pub norm: Norm,
}

impl Input {
    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.norm.mean.len()
    }
}

/// A pre-training method: networks, masks, targets and loss.
///
/// Most methods are a `Composite` of parts (crate `mim-methods`). The registry there builds a method from its settings, and
/// [`Trainer`](crate::train::Trainer) trains it. What cannot be composed implements the trait:
///
/// ```
#[doc = include_str!("../doc/bottleneck.rs")]
/// # fn main() -> Result<()> {
/// # let pixels = candle_core::Tensor::zeros((2, 1, 28, 28), candle_core::DType::U8, &Device::Cpu)?;
/// # let batch = Batch::single(mim_core::View::new(pixels, vec![])?);
/// # let loss = Bottleneck::new(0)?.forward(&batch, &StepContext::new(0))?.total()?;
/// # assert!(loss.to_scalar::<f32>()?.is_finite());
/// # Ok(())
/// # }
/// ```
///
/// A training loop of your own needs no more than this:
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
    /// Name in the registry.
    fn name(&self) -> &str;

    /// The view plan of this epoch: how images become the views of a batch.
    fn views(&self, epoch: usize) -> ViewPlan;

    /// Image format of the encoder.
    fn input(&self) -> &Input;

    /// The stores in a checkpoint: `"student"` first, then momentum teachers.
    ///
    /// Frozen external networks (CLIP, dVAE) are not included.
    fn stores(&self) -> Vec<(&str, &ParamStore)>;

    /// The encoder evaluated by default; `None` for tokenizers.
    fn encoder(&self) -> Option<&dyn Encoder>;

    /// The trained tokenizer, if any: token targets load it from the run.
    fn tokenizer(&self) -> Option<&dyn Tokenizer> {
        None
    }

    /// The classifier trained with labels, if any.
    fn classifier(&self) -> Option<&dyn Classifier> {
        None
    }

    /// How many images one image counts for when the learning rate scales with the batch (`blr`): more than
    /// one for methods that learn several times from an image (DMJD).
    fn batch_factor(&self) -> f64 {
        1.
    }

    /// First epochs of the stages of a run, ascending from 0. The learning-rate schedule restarts at each stage, and
    /// the result of a stage is reported before [`Method::end_epoch`] replaces it (dBOT).
    /// Default: one stage.
    fn stages(&self) -> &[usize] {
        &[0]
    }

    /// All encoders for evaluation, by name, [`Method::encoder`] first. Default: only that one, named `student`.
    fn encoders(&self) -> Vec<(&str, &dyn Encoder)> {
        self.encoder()
            .map(|encoder| ("student", encoder))
            .into_iter()
            .collect()
    }

    /// Notes for readers of the results, for instance which network was the teacher.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Weights that the method requires, if it cannot start from initial values.
    fn must_start_from(&self) -> Option<&'static str> {
        None
    }

    /// The loss of one batch.
    ///
    /// # Errors
    ///
    /// If the batch does not match the method.
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

    /// Replaces the masker by a recorded mask, for parity, pictures and tests.
    ///
    /// # Errors
    ///
    /// If the method does not use masks.
    fn override_mask(&mut self, mask: Mask) -> Result<()>;

    /// Draws the prediction, for pictures.
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
