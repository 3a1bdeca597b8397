//! The training step of MIM-Refiner.

use candle_core::{DType, Tensor};
use mim_core::augment::ViewPlan;
use mim_core::encoders::Vit;
use mim_core::nn::{BatchNormMlp, NeighbourQueue, QueueEntry};
use mim_core::objectives::{ContrastRows, NeighbourContrast};
use mim_core::params::ParamStore;
use mim_core::{
    Batch, EncodeOptions, Encoded, Encoder, Error, Input, LossTerms, Mask, Masking, Method,
    Pooling, Purpose, Result, StepContext, ops,
};
use rand::RngExt;

/// A contrastive head on the output of one block.
pub(crate) struct Head {
    pub(crate) name: String,
    /// The block whose output is read; `None` for the encoder's output, after its final norm.
    pub(super) block: Option<usize>,
    pub(super) projector: BatchNormMlp,
    pub(super) predictor: BatchNormMlp,
    pub(super) queue: NeighbourQueue,
    /// Fixed ranks of the neighbours instead of random ones.
    pub(crate) ranks: Option<Vec<usize>>,
}

/// MIM-Refiner: several contrastive heads on the last blocks of a trained encoder.
///
/// One training step: all crops go through the encoder, one batch per size, and through each head. There the outputs
/// for the crops of an image must match a neighbour of that image among those of the whole batch. Then the outputs for
/// the first crop enter the head's queue of neighbours.
pub struct MimRefiner {
    pub(super) store: ParamStore,
    pub(super) input: Input,
    pub(super) views: ViewPlan,
    pub(super) globals: usize,
    pub(super) locals: usize,
    pub(super) frozen: bool,
    pub(super) pooling: Pooling,
    pub(super) topk: usize,
    pub(super) encoder: Vit,
    pub(crate) heads: Vec<Head>,
    pub(super) objective: NeighbourContrast,
}

/// Indices and classes of the images of a batch, on the host and as tensors; -1 if unknown.
struct Known {
    own: Vec<i64>,
    indices: Tensor,
    labels: Tensor,
}

impl Known {
    /// Those of this process's images, and as tensors those of all ranks, in rank order.
    fn of(batch: &Batch, step: &StepContext) -> Result<Self> {
        let (images, device) = (batch.len(), batch.view(0)?.pixels().device());
        let own: Vec<i64> = match batch.indices.len() == images {
            true => batch.indices.iter().copied().map(i64::from).collect(),
            false => vec![-1; images],
        };
        // Two 16-bit halves, and classes below 2^24: f32 holds them exactly.
        let half = |value: i64, shift: u32| ((value + 1) >> shift & 0xffff) as f32;
        let halves = own
            .iter()
            .flat_map(|value| [half(*value, 16), half(*value, 0)]);
        let halves = ops::upload(halves.collect(), (images, 2), device)?;
        let labels = match &batch.labels {
            Some(labels) => labels.to_dtype(DType::F32)?,
            None => Tensor::full(-1f32, images, device)?,
        };
        let rows = Tensor::cat(&[&halves, &labels.unsqueeze(1)?], 1)?;
        let rows = step.comm.all_gather(&rows)?;
        let column = |index: usize| rows.narrow(1, index, 1)?.squeeze(1)?.to_dtype(DType::I64);
        let indices = ((column(0)? * 65_536.)? + column(1)?)?;
        Ok(Self {
            own,
            indices: (indices - 1.)?,
            labels: column(2)?,
        })
    }
}

impl MimRefiner {
    /// Features of all views for each head, `[views * images, dim]`, view by view.
    fn features(&self, batch: &Batch, step: &StepContext) -> Result<Vec<Tensor>> {
        let step = StepContext {
            training: step.training && !self.frozen,
            ..step.clone()
        };
        let want = EncodeOptions {
            layers: self.heads.iter().filter_map(|head| head.block).collect(),
            ..EncodeOptions::default()
        };
        let mut pooled = vec![Vec::new(); self.heads.len()];
        for (pass, run) in (0u8..).zip(self.runs(batch)?) {
            let images = run.map(|index| batch.view(index)?.normalized(&self.input.norm));
            let images = Tensor::cat(&images.collect::<Result<Vec<_>>>()?, 0)?;
            // Each pass has its own stochastic depth.
            let step = StepContext {
                pass,
                ..step.clone()
            };
            let encoded = self.encoder.encode(&images, Masking::None, &want, &step)?;
            for (head, pooled) in self.heads.iter().zip(&mut pooled) {
                pooled.push(self.pool(&encoded, head.block)?);
            }
        }
        let all = pooled.iter().map(|rows| Ok(Tensor::cat(rows, 0)?));
        all.collect()
    }

    /// Ranges of consecutive views of one size.
    fn runs(&self, batch: &Batch) -> Result<Vec<std::ops::Range<usize>>> {
        let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
        for index in 0..self.globals + self.locals {
            let size = batch.view(index)?.size();
            match runs.last_mut() {
                Some(run) if batch.view(run.start)?.size() == size => run.end = index + 1,
                _ => runs.push(index..index + 1),
            }
        }
        Ok(runs)
    }

    fn pool(&self, encoded: &Encoded, block: Option<usize>) -> Result<Tensor> {
        let pooled = match block {
            Some(block) => self.pooling.of_layer(encoded, block)?,
            None => self.pooling.apply(encoded)?,
        };
        Ok(pooled.contiguous()?)
    }

    /// The rank of the neighbour that each key uses.
    fn ranks(&self, index: usize, rows: usize, step: &StepContext) -> Vec<usize> {
        match &self.heads[index].ranks {
            Some(ranks) => ranks.clone(),
            None if self.topk == 1 => vec![0; rows],
            None => {
                let lane = u32::try_from(index).unwrap_or(u32::MAX);
                let mut rng = step.rng(Purpose::Method, lane);
                (0..rows).map(|_| rng.random_range(0..self.topk)).collect()
            }
        }
    }

    /// The loss of a head; its outputs for the first crop enter its queue.
    fn contrast(
        &self,
        index: usize,
        features: &Tensor,
        known: &Known,
        step: &StepContext,
    ) -> Result<Tensor> {
        let (head, images) = (&self.heads[index], known.own.len());
        let name = &head.name;
        step.trace(&format!("features.{name}"), || Ok(features.clone()))?;
        let projected = head.projector.forward(features, step)?;
        let rows = self.globals * images;
        let keys = projected.narrow(0, 0, rows)?.detach();
        step.trace(&format!("projected.{name}"), || Ok(keys.clone()))?;
        let indices = known.own.repeat(self.globals);
        let ranks = self.ranks(index, rows, step);
        let neighbours = head.queue.find(&keys, &indices, &ranks)?;
        step.trace(&format!("neighbours.{name}"), || Ok(neighbours.clone()))?;
        let predictions = head.predictor.forward(&projected, step)?;
        step.trace(&format!("predicted.{name}"), || Ok(predictions.clone()))?;
        let rows = ContrastRows {
            keys: &keys,
            neighbours: &neighbours,
            predictions: &predictions,
            images,
        };
        let loss = self.objective.loss(&rows, &step.scoped(name))?;
        step.trace(&format!("loss.{name}"), || Ok(loss.clone()))?;
        if step.training {
            // Parity: only the first of the global crops enters the queue.
            let newest = keys.narrow(0, 0, images)?.contiguous()?;
            head.queue.push(QueueEntry {
                rows: &step.comm.all_gather(&newest)?,
                indices: &known.indices,
                labels: &known.labels,
            })?;
        }
        Ok(loss)
    }
}

impl Method for MimRefiner {
    fn name(&self) -> &str {
        "mimrefiner"
    }

    fn views(&self, _epoch: usize) -> ViewPlan {
        self.views.clone()
    }

    fn input(&self) -> &Input {
        &self.input
    }

    fn stores(&self) -> Vec<(&str, &ParamStore)> {
        vec![("student", &self.store)]
    }

    fn encoder(&self) -> Option<&dyn Encoder> {
        Some(&self.encoder)
    }

    fn must_start_from(&self) -> Option<&'static str> {
        Some("a trained encoder, such as that of a run of mae, which it then refines")
    }

    fn forward(&self, batch: &Batch, step: &StepContext) -> Result<LossTerms> {
        let known = Known::of(batch, step)?;
        let features = self.features(batch, step)?;
        let mut terms = LossTerms::default();
        for (index, features) in features.iter().enumerate() {
            let loss = self.contrast(index, features, &known, step)?;
            terms.push(self.heads[index].name.clone(), loss, 1.)?;
        }
        step.trace("loss", || terms.total())?;
        Ok(terms)
    }

    fn override_mask(&mut self, _mask: Mask) -> Result<()> {
        Err(Error::unsupported(
            "a mask for mimrefiner",
            "it hides nothing",
            "remove the mask",
        ))
    }
}

impl std::fmt::Debug for MimRefiner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let heads: Vec<_> = self.heads.iter().map(|head| &head.name).collect();
        f.debug_struct("MimRefiner")
            .field("heads", &heads)
            .field("frozen", &self.frozen)
            .finish_non_exhaustive()
    }
}
