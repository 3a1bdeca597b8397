//! The progress bar of downloads from the Hugging Face Hub.

use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mim_core::hub::{self, Transfer};

/// Shows downloads from now on: a progress bar on a terminal, one line per file elsewhere.
pub(crate) fn show() {
    let bar = Mutex::new(None);
    hub::observe(move |transfer| {
        let mut bar = bar.lock().unwrap_or_else(PoisonError::into_inner);
        draw(&mut bar, transfer);
    });
}

fn draw(bar: &mut Option<ProgressBar>, transfer: &Transfer<'_>) {
    let Transfer { file, done, size } = *transfer;
    let shown = bar.get_or_insert_with(|| {
        let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr_with_hz(5));
        let template = "{msg} {bar:24} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if bar.is_hidden() {
            eprintln!("downloading {file} ({:.1} MB)", size as f64 / 1e6);
        }
        bar.set_message(file.to_owned());
        bar.set_position(done);
        // Bytes of an earlier download must not count towards the speed of this one.
        bar.reset_eta();
        bar
    });
    shown.set_position(done);
    if done == size {
        shown.finish();
        *bar = None;
    }
}
