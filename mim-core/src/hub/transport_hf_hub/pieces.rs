//! Bytes from another thread.

use std::io::{self, Cursor, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crate::hub::HubSettings;

/// Pieces that may wait to be written.
const AHEAD: usize = 4;

/// Some bytes, or why there are none.
pub(super) type Piece = Result<Vec<u8>, String>;

/// The bytes that another thread brings.
pub(super) struct Pieces {
    incoming: Receiver<Piece>,
    piece: Cursor<Vec<u8>>,
    /// The longest wait for one. Xet brings up to 64 MiB at once.
    patience: Duration,
}

impl Pieces {
    pub(super) fn new(settings: &HubSettings) -> (SyncSender<Piece>, Self) {
        let (sender, incoming) = sync_channel(AHEAD);
        let pieces = Self {
            incoming,
            piece: Cursor::default(),
            patience: settings.longest_stall / 2,
        };
        (sender, pieces)
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let bytes = self.piece.read(buffer)?;
            if bytes > 0 {
                return Ok(bytes);
            }
            self.piece = match self.incoming.recv_timeout(self.patience) {
                Ok(Ok(piece)) => Cursor::new(piece),
                Ok(Err(error)) => return Err(io::Error::other(error)),
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = self.patience.as_secs_f64();
                    return Err(io::Error::other(format!("no bytes arrived in {seconds} s")));
                }
            };
        }
    }
}
