//! SIGINT (Ctrl-C) and SIGTERM: the first signal asks a run to end, the second ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Added to the number of a signal, this gives the exit status of a program that the signal ended.
const BASE: u8 = 128;

/// The signals that ask a run to end.
const SIGNALS: [(i32, u8); 2] = [(SIGINT, 2), (SIGTERM, 15)];

/// How long a run may take to reach the end of a step, where it checks for signals.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often this is checked.
const PAUSE: Duration = Duration::from_millis(200);

/// The signals so far.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    /// Number of the last signal, or 0.
    signal: Arc<AtomicUsize>,
    /// Whether the next signal ends the program at once.
    armed: Arc<AtomicBool>,
    /// Whether the run has seen the signal.
    seen: Arc<AtomicBool>,
}

impl Interrupt {
    /// From now on signals are noted, and reported if `shown`.
    pub(crate) fn watch(shown: bool) -> Self {
        let interrupt = Self {
            signal: Arc::default(),
            armed: Arc::default(),
            seen: Arc::default(),
        };
        for (signal, number) in SIGNALS {
            if let Err(error) = interrupt.register(signal, number) {
                tracing::warn!("signal {number} will end the run without a checkpoint: {error}");
            }
        }
        let (own, thread) = (interrupt.clone(), std::thread::Builder::new());
        let started = thread
            .name("signals".to_owned())
            .spawn(move || own.patrol(shown));
        if let Err(error) = started {
            tracing::warn!(
                "a signal will be handled only at the end of a step, however long that takes: {error}"
            );
        }
        interrupt
    }

    fn register(&self, signal: i32, number: u8) -> std::io::Result<()> {
        // Actions run in this order, so the shutdown is not armed yet at the first signal.
        let status = i32::from(BASE + number);
        flag::register_conditional_shutdown(signal, status, self.armed.clone())?;
        flag::register(signal, self.armed.clone())?;
        flag::register_usize(signal, self.signal.clone(), usize::from(number))?;
        Ok(())
    }

    /// Reports the first signal, and ends the program if the run does not react. Files on disk stay whole.
    fn patrol(&self, shown: bool) {
        while self.status() == 0 {
            std::thread::sleep(PAUSE);
        }
        let (start, seconds) = (Instant::now(), PATIENCE.as_secs());
        if shown && !self.seen.load(Ordering::SeqCst) {
            eprintln!(
                "\nending after this step, within {seconds} s; press Ctrl-C again to end at once"
            );
        }
        while !self.seen.load(Ordering::SeqCst) {
            if start.elapsed() > PATIENCE {
                eprintln!(
                    "no step has ended within {seconds} s, so the program ends here: resume from the last checkpoint"
                );
                std::process::exit(i32::from(self.status()));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether a signal has arrived; from now on the run is trusted to end.
    pub(crate) fn asked(&self) -> bool {
        let asked = self.status() != 0;
        if asked {
            self.seen.store(true, Ordering::SeqCst);
        }
        asked
    }

    /// The exit status of a run that a signal ended: 130 for SIGINT, 143 for SIGTERM; 0 without one.
    pub(crate) fn status(&self) -> u8 {
        match u8::try_from(self.signal.load(Ordering::SeqCst)) {
            Ok(0) | Err(_) => 0,
            Ok(number) => BASE + number,
        }
    }

    /// From now on the first signal ends the program at once: there is nothing left to lose.
    pub(crate) fn at_once(&self) {
        self.seen.store(true, Ordering::SeqCst);
        self.armed.store(true, Ordering::SeqCst);
    }
}
