//! What a worker does: reads and augments a few samples, a pure function of (seed, epoch, sample indices).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::Dataset;
use crate::augment::{Sample, ViewPlan};
use crate::rng::{Purpose, stream};
use crate::{Batch, Crop, Error, Result, View};

/// How many samples after an unreadable one are tried in its place.
const REPLACEMENTS: usize = 100;

/// Data set, plan and seed: everything that decides about a sample's bytes.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) dataset: Arc<dyn Dataset>,
    pub(super) plan: ViewPlan,
    pub(super) seed: u64,
    /// Whether unreadable samples are left out, rather than replaced.
    pub(super) leave_out_unreadable: bool,
}

/// Some finished samples of one batch.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    views: Vec<Planes>,
    labels: Vec<u32>,
    indices: Vec<u32>,
    samples: usize,
    /// Why samples were replaced or left out, with their names.
    pub(super) unreadable: Vec<String>,
    /// Indices of those left out.
    pub(super) left_out: Vec<usize>,
}

/// One view of some samples, `[samples, channels, height, width]` of bytes or values, or `[samples, points, 3]` of clouds.
#[derive(Debug, Default)]
struct Planes {
    bytes: Vec<u8>,
    values: Vec<f32>,
    points: Vec<[f32; 3]>,
    shape: [usize; 3],
    crops: Vec<Crop>,
}

impl Stage {
    /// Makes the samples of `indices`, never panicking.
    pub(super) fn chunk(&self, epoch: u64, indices: &[u32]) -> Result<Chunk> {
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut chunk = Chunk::default();
            for index in indices {
                self.add(epoch, *index as usize, &mut chunk)?;
            }
            Ok(chunk)
        }));
        result.unwrap_or_else(|panic| {
            Err(Error::unsupported(
                format!("augmenting samples {indices:?}"),
                format!("it panicked: {}", message(&*panic)),
                "please report it with the view plan",
            ))
        })
    }

    fn add(&self, epoch: u64, index: usize, chunk: &mut Chunk) -> Result<()> {
        let (views, read, unreadable) = match self.leave_out_unreadable {
            false => self.read(epoch, index)?,
            true => match self.views(epoch, index, index)? {
                Ok(views) => (views, index, None),
                Err(error) => {
                    chunk.unreadable.push(error.to_string());
                    chunk.left_out.push(index);
                    return Ok(());
                }
            },
        };
        chunk.views.resize_with(views.len(), Planes::default);
        for (view, (planes, sample)) in chunk.views.iter_mut().zip(&views).enumerate() {
            planes.push(sample, view)?;
        }
        chunk.labels.extend(self.dataset.label(read));
        chunk.indices.extend(u32::try_from(read));
        chunk.unreadable.extend(unreadable);
        chunk.samples += 1;
        Ok(())
    }

    /// An error about the shape of a sample, with the sample's name.
    fn named(&self, error: Error, index: usize) -> Error {
        match error {
            Error::Shape {
                what,
                expected,
                got,
                fix,
            } => Error::Shape {
                what: format!("{}: {what}", self.dataset.name_of(index)).into(),
                expected,
                got,
                fix,
            },
            other => other,
        }
    }

    /// The views of sample `index`, or of the next usable one and why; with the index read.
    fn read(&self, epoch: u64, index: usize) -> Result<(Vec<Sample>, usize, Option<String>)> {
        let error = match self.views(epoch, index, index)? {
            Ok(views) => return Ok((views, index, None)),
            Err(error) => error,
        };
        let len = self.dataset.len();
        let tries = REPLACEMENTS.min(len.saturating_sub(1));
        for next in (1..=tries).map(|step| (index + step) % len) {
            if let Ok(views) = self.views(epoch, index, next)? {
                return Ok((views, next, Some(error.to_string())));
            }
        }
        Err(Error::format(
            self.dataset.name_of(index),
            format!("neither it nor any of the {tries} samples after it can be used: {error}"),
            "check the data source",
        ))
    }

    /// The views of sample `index` in the place of sample `place`. The inner error is about this sample alone: it cannot
    /// be read, or its channels are not those of the network.
    fn views(&self, epoch: u64, place: usize, index: usize) -> Result<Result<Vec<Sample>>> {
        let sample = match self.try_read(index) {
            Ok(sample) => sample,
            Err(error) => return Ok(Err(error)),
        };
        let mut rng = stream(self.seed, Purpose::Augment, [epoch, place as u64]);
        match self.plan.apply(sample, &mut rng) {
            Err(error @ Error::InvalidConfig { .. }) => {
                let fix = "or take it out of the data";
                let name = self.dataset.name_of(index);
                Ok(Err(Error::format(name, error.to_string(), fix)))
            }
            views => Ok(Ok(views.map_err(|error| self.named(error, index))?)),
        }
    }

    fn try_read(&self, index: usize) -> Result<Sample> {
        catch_unwind(AssertUnwindSafe(|| self.dataset.read(index))).unwrap_or_else(|panic| {
            Err(Error::format(
                self.dataset.name_of(index),
                format!("reading it panicked: {}", message(&*panic)),
                "remove the file or save it again",
            ))
        })
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

impl Planes {
    fn push(&mut self, sample: &Sample, view: usize) -> Result<()> {
        let (height, width) = sample.size();
        self.fit([sample.channels(), height, width], view)?;
        match sample.is_cloud() {
            true => self.points.extend_from_slice(sample.points()?),
            false if sample.is_deep() => sample.append_values(&mut self.values),
            false => sample.append_planes(&mut self.bytes),
        }
        if !self.bytes.is_empty() && !self.values.is_empty() {
            return Err(Error::shape(
                format!("view {view} of a batch"),
                "images that are all of bytes or all of values",
                "both",
                "join sources that are read in one way (data.range)",
            ));
        }
        self.crops.push(sample.crop());
        Ok(())
    }

    /// Takes over the shape of the first sample and refuses others.
    fn fit(&mut self, shape: [usize; 3], view: usize) -> Result<()> {
        if self.crops.is_empty() {
            self.shape = shape;
        }
        if self.shape == shape {
            return Ok(());
        }
        let fix = if !self.points.is_empty() {
            "begin the view's operations with sample_points"
        } else if self.shape[0] == shape[0] {
            "end the view's operations with random_resized_crop, or resize and center_crop"
        } else {
            "add to_channels to the view's operations"
        };
        Err(Error::shape(
            format!("view {view} of a batch"),
            format!("[channels, height, width] {:?} for all images", self.shape),
            shape,
            fix,
        ))
    }
}

impl Chunk {
    /// Appends the samples of `other`.
    pub(super) fn extend(&mut self, other: Self) -> Result<()> {
        if other.samples == 0 {
            return Ok(());
        }
        self.views.resize_with(other.views.len(), Planes::default);
        for (view, (planes, more)) in self.views.iter_mut().zip(other.views).enumerate() {
            planes.fit(more.shape, view)?;
            planes.bytes.extend(more.bytes);
            planes.values.extend(more.values);
            planes.points.extend(more.points);
            planes.crops.extend(more.crops);
        }
        self.labels.extend(other.labels);
        self.indices.extend(other.indices);
        self.samples += other.samples;
        Ok(())
    }

    /// Makes room for `samples` samples in all.
    pub(super) fn reserve(&mut self, samples: usize) {
        for planes in self
            .views
            .iter_mut()
            .filter(|planes| !planes.bytes.is_empty())
        {
            let bytes = samples * planes.shape.iter().product::<usize>();
            planes
                .bytes
                .reserve_exact(bytes.saturating_sub(planes.bytes.len()));
        }
    }

    /// The batch on the CPU; labelled if every sample is.
    pub(super) fn into_batch(self) -> Result<Batch> {
        let views = self.views.into_iter().map(|planes| {
            let [channels, height, width] = planes.shape;
            if !planes.points.is_empty() {
                let shape = (planes.crops.len(), height, 3);
                let points = planes.points.into_flattened();
                return View::of_points(Tensor::from_vec(points, shape, &Device::Cpu)?);
            }
            let shape = (planes.crops.len(), channels, height, width);
            if !planes.values.is_empty() {
                let pixels = Tensor::from_vec(planes.values, shape, &Device::Cpu)?;
                return View::of_unit(pixels, planes.crops);
            }
            let pixels = Tensor::from_vec(planes.bytes, shape, &Device::Cpu)?;
            View::new(pixels, planes.crops)
        });
        let views = views.collect::<Result<_>>()?;
        let labels = (self.labels.len() == self.samples && self.samples > 0)
            .then(|| Tensor::from_vec(self.labels, self.samples, &Device::Cpu))
            .transpose()?;
        Ok(Batch {
            views,
            indices: self.indices,
            labels,
            extras: std::collections::BTreeMap::new(),
        })
    }
}
