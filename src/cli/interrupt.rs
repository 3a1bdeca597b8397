//! SIGINT (Ctrl-C) and SIGTERM: the first asks a run to end, the second ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What adds up with the number of a signal to the exit status of a program that it ended.
const BASE: u8 = 128;

/// The signals that ask a run to end.
const SIGNALS: [(i32, u8); 2] = [(SIGINT, 2), (SIGTERM, 15)];

/// What has been asked so far.
#[derive(Debug)]
pub(crate) struct Interrupt {
    /// Number of the last signal, or 0.
    signal: Arc<AtomicUsize>,
    /// Whether the next signal ends the program at once.
    armed: Arc<AtomicBool>,
}

impl Interrupt {
    /// From now on signals are noted.
    pub(crate) fn watch() -> Self {
        let interrupt = Self {
            signal: Arc::default(),
            armed: Arc::default(),
        };
        for (signal, number) in SIGNALS {
            if let Err(error) = interrupt.register(signal, number) {
                tracing::warn!("signal {number} will end the run without a checkpoint: {error}");
            }
        }
        interrupt
    }

    fn register(&self, signal: i32, number: u8) -> std::io::Result<()> {
        // Actions run in this order, so the first signal finds the shutdown not armed yet.
        let status = i32::from(BASE + number);
        flag::register_conditional_shutdown(signal, status, self.armed.clone())?;
        flag::register(signal, self.armed.clone())?;
        flag::register_usize(signal, self.signal.clone(), usize::from(number))?;
        Ok(())
    }

    /// Whether a signal has come.
    pub(crate) fn asked(&self) -> bool {
        self.signal.load(Ordering::SeqCst) != 0
    }

    /// The exit status of a run that a signal ended: 130 for SIGINT, 143 for SIGTERM; 0 without one.
    pub(crate) fn status(&self) -> u8 {
        match u8::try_from(self.signal.load(Ordering::SeqCst)) {
            Ok(0) | Err(_) => 0,
            Ok(number) => BASE + number,
        }
    }

    /// From now on the first signal ends the program at once: nothing is lost by it any more.
    pub(crate) fn at_once(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }
}
