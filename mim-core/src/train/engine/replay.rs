//! Repeating and analysing a step that failed.

use std::sync::Arc;

use candle_core::{Tensor, Var};

use super::non_finite::{Alone, FirstNonFinite, Saved, is_finite, restore, save};
use super::{Trainer, stages};
use crate::ops::with_precision;
use crate::optim::Gradients;
use crate::train::failed_step::named;
use crate::train::{BatchImage, Checkpoint, FailedStep};
use crate::{Batch, Error, Method, Result, StepContext};

/// If this many images are not finite, no image is expected to be.
const ENOUGH: usize = 8;

/// The findings of a replay.
#[derive(Debug, Clone)]
pub struct Replay {
    /// Number of parameters of the method, and those that were not finite before the step, as `store.name`.
    pub parameters: (usize, Vec<String>),
    /// The same for buffers. The forward pass of the failed step may already have changed the saved ones.
    pub buffers: (usize, Vec<String>),
    /// Each micro-batch of each process.
    pub batches: Vec<ReplayedBatch>,
}

/// The findings for a micro-batch.
#[derive(Debug, Clone)]
pub struct ReplayedBatch {
    /// The process it belongs to.
    pub rank: usize,
    /// Its position in the step (gradient accumulation).
    pub micro: usize,
    /// Its images.
    pub images: Vec<BatchImage>,
    /// Loss terms: (name, value, weight).
    pub terms: Vec<(String, f64, f64)>,
    /// Their weighted sum.
    pub loss: f64,
    /// Its gradients: their number, those that are not finite (in the order of the student), and the norm of all.
    pub gradients: (usize, Vec<String>, f64),
    /// Where values that are not finite come from; `None` if loss and gradients are finite.
    pub origin: Option<Origin>,
}

/// Where values that are not finite come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// The first intermediate of the forward pass that has such values.
    Intermediate {
        /// Its name in traces.
        name: String,
        /// Its shape.
        dims: Vec<usize>,
        /// Positions in the batch of the images whose rows have them; empty if its rows do not belong to images.
        rows: Vec<usize>,
    },
    /// Images whose loss or gradient norm is not finite when each runs as a batch of its own, with the draws of the first
    /// image of a batch. If none of the first eight is finite, none counts as finite.
    Alone {
        /// Positions in the batch of those that are not finite.
        rows: Vec<usize>,
        /// How many could not run alone.
        refused: usize,
    },
}

impl Trainer {
    /// Repeats a step that failed, from the parameters before it, and finds out which terms, images and gradients are not
    /// finite. The trainer must be new. Nothing is written, and no parameter changes.
    ///
    /// `from` is the checkpoint that was saved before the step ([`FailedStep::kept`]) or an earlier one of the run; `None`
    /// means the initial weights. Steps between it and the failed one are repeated. The images of several processes run
    /// one process after the other, so statistics over all processes become those of each process.
    ///
    /// # Errors
    ///
    /// If the checkpoint does not fit or is of a later step, or steps of several processes would have to be repeated.
    pub fn replay(&mut self, failed: &FailedStep, from: Option<&Checkpoint>) -> Result<Replay> {
        let world = failed.world;
        self.iters_per_epoch = self.config.steps_per_epoch(self.data.0.len(), world)?;
        self.lr = stages::learning_rate(self.method.as_ref(), &self.config, world);
        if let Some(checkpoint) = from {
            checkpoint.load_method(self.method.as_ref())?;
            checkpoint.load_optimizer(self.stepper.optimizer_mut())?;
            self.state = checkpoint.state().clone();
        }
        self.advance_to(failed)?;
        let step = self.context();
        // The saved parameters include what the step had already prepared.
        if !(failed.kept && from.is_some_and(|from| is_kept(from, self))) {
            self.method.before_step(&step)?;
        }
        let before = save(self.method.as_ref())?;
        let mut batches = Vec::new();
        for rank in 0..world {
            let first = failed.iter * self.config.accum_iter;
            let loader = self.sharded_loader(rank, world)?;
            let micro = loader.epoch(failed.epoch, first)?;
            for (micro, batch) in micro.take(self.config.accum_iter).enumerate() {
                let batch = batch?.to_device(&self.device)?;
                let step = StepContext {
                    micro,
                    comm: Arc::new(Alone(rank)),
                    ..step.clone()
                };
                batches.push(self.replay_batch(&batch, &step, &before)?);
            }
        }
        Ok(Replay {
            parameters: not_finite(&before, false)?,
            buffers: not_finite(&before, true)?,
            batches,
        })
    }

    /// Repeats the steps before the failed one.
    fn advance_to(&mut self, failed: &FailedStep) -> Result<()> {
        let (at, step) = (self.state.step, failed.step);
        if at > step {
            let what = format!("it is of step {at}, but step {step} has to be repeated");
            let fix = "give a checkpoint of an earlier step by --from";
            return Err(Error::format(&self.run, what, fix));
        }
        if at < step && failed.world > 1 {
            return Err(Error::unsupported(
                format!(
                    "repeating steps {at} to {step} of {} processes",
                    failed.world
                ),
                "a replay has only one process",
                "resume the run on CPUs, where the parameters before a failing step are saved",
            ));
        }
        while self.state.step < step {
            let first = self.state.iter * self.config.accum_iter;
            let mut batches = self.loader()?.epoch(self.state.epoch, first)?;
            while self.state.iter < self.iters_per_epoch && self.state.step < step {
                self.start(&mut batches)?.pending.wait()?;
            }
            if self.state.iter == self.iters_per_epoch {
                let end = self.context();
                self.method.end_epoch(&end)?;
                (self.state.epoch, self.state.iter) = (self.state.epoch + 1, 0);
            }
        }
        Ok(())
    }

    fn replay_batch(
        &self,
        batch: &Batch,
        step: &StepContext,
        before: &[Saved],
    ) -> Result<ReplayedBatch> {
        let Pass {
            terms,
            loss,
            gradients,
        } = self.pass(batch, step, before)?;
        let origin = match loss.is_finite() && gradients.2.is_finite() {
            true => None,
            false => Some(self.origin(batch, step, before)?),
        };
        Ok(ReplayedBatch {
            rank: step.comm.rank(),
            micro: step.micro,
            images: named(self.data.0.as_ref(), &batch.indices),
            terms,
            loss,
            gradients,
            origin,
        })
    }

    /// A forward and a backward pass from the parameters and buffers `before`.
    fn pass(&self, batch: &Batch, step: &StepContext, before: &[Saved]) -> Result<Pass> {
        restore(before)?;
        let mut gradients = Gradients::new(trainable(self.method.as_ref()));
        let (terms, total) = with_precision(self.config.precision, || {
            let terms = self.method.forward(batch, step)?;
            let total = terms.total()?;
            gradients.backward(&total)?;
            Ok::<_, Error>((terms, total))
        })?;
        let number = |xs: &Tensor| -> Result<f64> { Ok(f64::from(xs.to_scalar::<f32>()?)) };
        let terms = terms.terms().iter();
        let terms = terms.map(|(name, value, weight)| Ok((name.clone(), number(value)?, *weight)));
        let (mut count, mut bad) = (0, Vec::new());
        for (name, _, gradient) in gradients.iter() {
            let Some(gradient) = gradient else { continue };
            count += 1;
            if !is_finite(gradient)? {
                bad.push(name.to_owned());
            }
        }
        Ok(Pass {
            terms: terms.collect::<Result<_>>()?,
            loss: number(&total)?,
            gradients: (count, bad, gradients.norm()?),
        })
    }

    /// Finds the first intermediate that is not finite, then runs each image alone.
    fn origin(&self, batch: &Batch, step: &StepContext, before: &[Saved]) -> Result<Origin> {
        let sink = Arc::new(FirstNonFinite::new(batch.len()));
        let traced = StepContext {
            trace: Some(sink.clone()),
            ..step.clone()
        };
        restore(before)?;
        with_precision(self.config.precision, || {
            self.method.forward(batch, &traced)
        })?;
        let traced = sink.found();
        let some = |rows: &[usize]| !rows.is_empty() && rows.len() < batch.len();
        if let Some(traced @ Origin::Intermediate { rows, .. }) = &traced
            && some(rows)
        {
            return Ok(traced.clone());
        }
        // Batch norms carry the values of one image into all others.
        let (rows, refused) = self.alone(batch, step, before)?;
        Ok(match traced {
            Some(traced) if !some(&rows) => traced,
            _ => Origin::Alone { rows, refused },
        })
    }

    /// Positions of the images that are not finite alone, and how many cannot run alone.
    fn alone(
        &self,
        batch: &Batch,
        step: &StepContext,
        before: &[Saved],
    ) -> Result<(Vec<usize>, usize)> {
        let (mut rows, mut refused) = (Vec::new(), 0);
        for row in 0..batch.len() {
            // Some losses compare images with each other, and refuse a single one.
            match self.pass(&batch.only(row)?, step, before) {
                Ok(pass) if pass.loss.is_finite() && pass.gradients.2.is_finite() => {}
                Ok(_) => rows.push(row),
                Err(_) => refused += 1,
            }
            if rows.len() == ENOUGH && row + 1 == ENOUGH {
                return Ok(((0..batch.len()).collect(), refused));
            }
        }
        Ok((rows, refused))
    }
}

/// The results of a pass, as in [`ReplayedBatch`].
struct Pass {
    terms: Vec<(String, f64, f64)>,
    loss: f64,
    gradients: (usize, Vec<String>, f64),
}

/// Whether a checkpoint is the one that was saved before the failed step, in the run folder of the replay.
fn is_kept(checkpoint: &Checkpoint, trainer: &Trainer) -> bool {
    checkpoint.path() == trainer.run
}

fn trainable(method: &dyn Method) -> Vec<(String, Var)> {
    let stores = method.stores();
    stores
        .first()
        .map(|(_, student)| student.trainable())
        .unwrap_or_default()
}

/// The number of parameters or buffers, and those that are not finite.
fn not_finite(all: &[Saved], buffers: bool) -> Result<(usize, Vec<String>)> {
    let (mut count, mut bad) = (0, Vec::new());
    for saved in all.iter().filter(|saved| saved.is_buffer == buffers) {
        count += 1;
        if !is_finite(&saved.value)? {
            bad.push(saved.name.clone());
        }
    }
    Ok((count, bad))
}
