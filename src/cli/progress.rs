//! The progress bar, and Ctrl-C.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mim_core::train::{EpochRecord, Observer, StepReport};

/// Shows a run on a terminal, or one line an epoch elsewhere.
pub(crate) struct Progress {
    shown: bool,
    bar: ProgressBar,
    stop: Arc<AtomicBool>,
    start: Instant,
    images: usize,
    epochs: usize,
}

impl Progress {
    /// For a run of `epochs` epochs; from now on Ctrl-C asks it to end. Nothing is shown unless `shown`.
    pub(crate) fn new(epochs: usize, shown: bool) -> Self {
        let target = match shown {
            true => ProgressDrawTarget::stderr_with_hz(5),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let template = "{bar:24} {pos}/{len} steps, {msg}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let handler = ctrlc::set_handler(move || {
            if asked.swap(true, Ordering::SeqCst) {
                std::process::exit(1);
            }
            if shown {
                eprintln!("\nending after this step; press Ctrl-C again to end at once");
            }
        });
        if let Err(error) = handler {
            tracing::warn!("Ctrl-C will end the run without a checkpoint: {error}");
        }
        Self {
            shown,
            bar,
            stop,
            start: Instant::now(),
            images: 0,
            epochs,
        }
    }

    /// Leaves the bar as it is.
    pub(crate) fn finish(&self) {
        self.bar.abandon();
    }
}

impl Observer for Progress {
    fn step(&mut self, report: &StepReport) {
        if self.images == 0 {
            // A resumed run starts in the middle: the time left counts from there.
            self.bar.set_length(report.total as u64);
            self.bar.set_position(report.step as u64 - 1);
            self.bar.reset_eta();
        }
        self.images += report.images;
        let speed = self.images as f64 / self.start.elapsed().as_secs_f64();
        self.bar.set_message(format!(
            "loss {:.4}, lr {:.2e}, {speed:.0} images/s",
            report.loss, report.lr
        ));
        self.bar.set_position(report.step as u64);
    }

    fn epoch(&mut self, record: &EpochRecord) {
        if self.shown && self.bar.is_hidden() {
            let EpochRecord {
                epoch,
                train_loss,
                lr,
                images_per_s,
                ..
            } = record;
            let epoch = epoch + 1;
            eprintln!(
                "epoch {epoch}/{}: loss {train_loss:.4}, lr {lr:.2e}, {images_per_s:.0} images/s",
                self.epochs
            );
        }
    }

    fn stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
