//! Logs on standard error.

use tracing_subscriber::EnvFilter;

/// Warnings, except those of the crates that bring files of the Hub: what fails there comes back as an error.
const SHOWN: &str = "warn,hf_hub=off,xet=off";

/// Shows warnings, or what `RUST_LOG` selects.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(SHOWN));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would be reported on standard error, and panic there.
        .log_internal_errors(false)
        .without_time()
        .with_target(false)
        .init();
}
