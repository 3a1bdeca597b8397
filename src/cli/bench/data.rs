//! `mim bench data`.

use cpu_time::ProcessTime;
use mim_core::augment::{Augment, ColorJitter, GaussianBlur, Grayscale, ViewPlan};
use mim_core::data::{DataSource, Loader, LoaderConfig, Split};
use mim_core::{Error, Norm, Result};
use serde_json::{Value, json};

/// Settings of `mim bench data`.
#[derive(Debug, clap::Args)]
pub(super) struct Data {
    /// Images, as in `mim pretrain`.
    #[arg(long)]
    images: DataSource,
    /// The augmentation.
    #[arg(long, value_enum, default_value = "mae")]
    plan: Plan,
    /// Side of the views in pixels.
    #[arg(long, default_value_t = 224)]
    size: usize,
    /// How often all images are read; the fastest pass counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
}

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

impl Data {
    /// Decodes and augments on one thread, up to normalised f32 images.
    pub(super) fn time(&self) -> Result<Value> {
        let images = self.images.open(Split::Train)?;
        let count = images.len();
        let loading = LoaderConfig {
            batch_size: 1,
            workers: 0,
            ..LoaderConfig::default()
        };
        let loader = Loader::new(images, self.plan.views(self.size), loading, 0)?;
        let mut best = 0f64;
        for epoch in 0..self.repeat {
            let start = ProcessTime::now();
            for batch in loader.epoch(usize::from(epoch), 0)? {
                batch?.view(0)?.normalized(&Norm::imagenet())?;
            }
            best = best.max(count as f64 / start.elapsed().as_secs_f64());
        }
        if !best.is_finite() {
            let what = "there is nothing to time";
            let path = self.images.to_string();
            return Err(Error::format(path, what, "give more images"));
        }
        Ok(json!({
            "framework": concat!("mim ", env!("CARGO_PKG_VERSION")),
            "plan": format!("{:?}", self.plan).to_lowercase(),
            "images": count,
            "images_per_cpu_s": (best * 10.).round() / 10.,
        }))
    }
}
