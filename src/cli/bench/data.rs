//! `mim bench data`.

use std::time::Instant;

use cpu_time::ProcessTime;
use mim_core::augment::{Augment, ColorJitter, GaussianBlur, Grayscale, ViewPlan};
use mim_core::data::{DataSource, Loader, LoaderConfig, Split};
use mim_core::{Error, Norm, Result};
use serde_json::{Value, json};

use super::resident_kib;

/// Settings of `mim bench data`.
#[derive(Debug, clap::Args)]
pub(super) struct Data {
    /// Images, as in `mim pretrain`; repeatable, to compare folders, tar and parquet files of the same images in turns.
    #[arg(long, required = true)]
    images: Vec<DataSource>,
    /// The augmentation.
    #[arg(long, value_enum, default_value = "mae")]
    plan: Plan,
    /// Side of the views in pixels.
    #[arg(long, default_value_t = 224)]
    size: usize,
    /// How often all images are read; the fastest pass counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
    /// Threads that read and augment; 0 for the program's own.
    #[arg(long, default_value_t = 0)]
    workers: usize,
}

/// Images a batch, if threads make it.
const BATCH: usize = 64;

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Plan {
    /// Random resized crop and flip.
    Mae,
    /// The same, then colour jitter, greys and blur: a view of the two-view methods.
    Simclr,
}

impl Plan {
    fn views(self, size: usize) -> ViewPlan {
        let mut plan = ViewPlan::mae(size);
        if matches!(self, Self::Simclr) {
            plan.shared.extend([
                Augment::ColorJitter(ColorJitter::default()),
                Augment::Grayscale(Grayscale::default()),
                Augment::GaussianBlur(GaussianBlur::default()),
            ]);
        }
        plan
    }
}

/// A source on the bench.
struct Timed<'a> {
    source: &'a DataSource,
    loader: Loader,
    /// Images a second, of the clock and of CPU time, of the fastest pass.
    best: [f64; 2],
    /// The most memory that a pass took beyond what was in use before.
    memory_mib: Option<f64>,
}

impl Data {
    /// Reads, decodes and augments all images, up to normalised f32; a line of JSON for each source.
    pub(super) fn time(&self) -> Result<Vec<Value>> {
        let mut sources = Vec::new();
        for source in &self.images {
            sources.push(self.open(source)?);
        }
        let count = |timed: &Timed<'_>| timed.loader.dataset().len();
        if let Some(other) = sources
            .iter()
            .find(|other| count(other) != count(&sources[0]))
        {
            let what = format!(
                "has {} images, {} has {}",
                count(other),
                self.images[0],
                count(&sources[0])
            );
            let fix = "compare sources of the same images";
            return Err(Error::format(other.source.to_string(), what, fix));
        }
        for epoch in 0..usize::from(self.repeat) {
            for timed in &mut sources {
                timed.pass(epoch)?;
            }
        }
        sources.iter().map(|timed| self.line(timed)).collect()
    }

    fn open<'a>(&self, source: &'a DataSource) -> Result<Timed<'a>> {
        let loading = LoaderConfig {
            batch_size: if self.workers == 0 { 1 } else { BATCH },
            workers: self.workers,
            drop_last: false,
            ..LoaderConfig::default()
        };
        let images = source.open(Split::Train)?;
        Ok(Timed {
            source,
            loader: Loader::new(images, self.plan.views(self.size), loading, 0)?,
            best: [0.; 2],
            memory_mib: None,
        })
    }

    fn line(&self, timed: &Timed<'_>) -> Result<Value> {
        if timed.best.iter().any(|rate| !rate.is_finite()) {
            let path = timed.source.to_string();
            let what = "there is nothing to time";
            return Err(Error::format(path, what, "give more images"));
        }
        let [per_s, per_cpu_s] = timed.best.map(|rate| (rate * 10.).round() / 10.);
        Ok(json!({
            "framework": concat!("mim ", env!("CARGO_PKG_VERSION")),
            "source": timed.source.to_string(),
            "plan": format!("{:?}", self.plan).to_lowercase(),
            "images": timed.loader.dataset().len(),
            "workers": self.workers,
            "images_per_s": per_s,
            "images_per_cpu_s": per_cpu_s,
            "memory_mib": timed.memory_mib,
        }))
    }
}

impl Timed<'_> {
    /// Goes through all images once, in a new order.
    fn pass(&mut self, epoch: usize) -> Result<()> {
        let before = fresh_peak();
        let (start, busy) = (Instant::now(), ProcessTime::now());
        for batch in self.loader.epoch(epoch, 0)? {
            batch?.view(0)?.normalized(&Norm::imagenet())?;
        }
        let count = self.loader.dataset().len() as f64;
        let rates = [start.elapsed(), busy.elapsed()].map(|time| count / time.as_secs_f64());
        for (best, rate) in self.best.iter_mut().zip(rates) {
            *best = best.max(rate);
        }
        let taken = before.and_then(|before| Some(resident_kib()? - before));
        let taken = taken.map(|kib| (kib / 102.4).round() / 10.);
        let both = [self.memory_mib, taken].into_iter().flatten();
        self.memory_mib = both.reduce(f64::max);
        Ok(())
    }
}

/// The memory in use, from which the peak counts anew, where the system can do that.
fn fresh_peak() -> Option<f64> {
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    resident_kib()
}
