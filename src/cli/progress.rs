//! The progress bar.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use mim_core::train::{EpochRecord, Observer, StepReport};

use crate::cli::interrupt::Interrupt;

/// Without a terminal, a line is printed at least this often.
const PAUSE: Duration = Duration::from_secs(60);

/// Shows a run as a progress bar on a terminal, or as lines elsewhere, and ends it on Ctrl-C.
pub(crate) struct Progress {
    shown: bool,
    bar: ProgressBar,
    interrupt: Interrupt,
    start: Instant,
    last_line: Instant,
    /// Steps, images, and seconds spent waiting for images since the start of this program.
    steps: usize,
    images: usize,
    waited: f64,
    epochs: usize,
    /// The latest figures of the probes.
    measured: String,
}

impl Progress {
    /// For a run of `epochs` epochs, which Ctrl-C asks to end from now on. Nothing is shown unless `shown`.
    pub(crate) fn new(epochs: usize, shown: bool) -> Self {
        let target = match shown {
            true => ProgressDrawTarget::stderr_with_hz(5),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let template = "{bar:20} {pos}/{len} steps, {msg}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let now = Instant::now();
        Self {
            shown,
            bar,
            interrupt: Interrupt::watch(shown),
            start: now,
            last_line: now,
            steps: 0,
            images: 0,
            waited: 0.,
            epochs,
            measured: String::new(),
        }
    }

    /// Shows the figures of an epoch's probes, if there are any.
    pub(crate) fn measured(&mut self, figures: &BTreeMap<String, f64>) {
        if figures.is_empty() {
            return;
        }
        let figures = figures.iter();
        let figures: Vec<_> = figures
            .map(|(name, value)| format!("{name} {value:.4}"))
            .collect();
        self.measured = format!(", {}", figures.join(", "));
        if self.shown && self.bar.is_hidden() {
            eprintln!("probes: {}", figures.join(", "));
        }
    }

    /// Leaves the bar as it is; from now on Ctrl-C ends the program at once. Returns the exit status of an interrupted
    /// run, or 0.
    pub(crate) fn finish(&self) -> u8 {
        self.bar.abandon();
        self.interrupt.at_once();
        self.interrupt.status()
    }

    /// Whether no step has been done.
    pub(crate) fn is_empty(&self) -> bool {
        self.steps == 0
    }

    /// Images per second, and the share of the time spent waiting for them.
    fn speed(&self) -> String {
        let seconds = self.start.elapsed().as_secs_f64();
        format!(
            "{:.0} images/s, {:.0} % of the time waiting for data",
            self.images as f64 / seconds,
            100. * self.waited / seconds
        )
    }
}

impl Observer for Progress {
    fn step(&mut self, report: &StepReport) {
        if self.steps == 0 {
            // A resumed run starts in the middle, so the time left is estimated from there.
            self.bar.set_length(report.total as u64);
            self.bar.set_position(report.step as u64 - 1);
            self.bar.reset_eta();
        }
        self.steps += 1;
        self.images += report.images;
        self.waited += report.waited;
        let (epoch, speed) = (report.epoch + 1, self.speed());
        self.bar.set_message(format!(
            "epoch {epoch}/{}, loss {:.4}, lr {:.2e}, {speed}{}",
            self.epochs, report.loss, report.lr, self.measured
        ));
        self.bar.set_position(report.step as u64);
        if self.shown && self.bar.is_hidden() && self.last_line.elapsed() >= PAUSE {
            self.last_line = Instant::now();
            let left = (report.total - report.step) as f64 / self.steps as f64;
            let left = HumanDuration(self.start.elapsed().mul_f64(left));
            eprintln!(
                "epoch {epoch}/{}, step {}/{}: loss {:.4}, lr {:.2e}, {speed}, {left} left",
                self.epochs, report.step, report.total, report.loss, report.lr
            );
        }
    }

    fn epoch(&mut self, record: &EpochRecord) {
        if self.shown && self.bar.is_hidden() {
            self.last_line = Instant::now();
            eprintln!(
                "epoch {}/{}: loss {:.4}, lr {:.2e}, {}",
                record.epoch + 1,
                self.epochs,
                record.train_loss,
                record.lr,
                self.speed()
            );
        }
    }

    fn stop(&self) -> bool {
        self.interrupt.asked()
    }
}
