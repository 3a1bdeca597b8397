//! The download of one file, in several pieces if necessary.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::check;
use super::failure::Failure;
use super::headers::Metadata;
use super::http::Http;
use super::refusal::{Patience, explain};
use super::transport::Transport;
use super::{HubPath, HubSettings, Observer, Transfer, space};
use crate::{Error, Result};

/// Maximum number of attempts without progress.
pub(super) const ATTEMPTS: u32 = 5;
/// Bytes that count as progress.
const PROGRESS: u64 = 1 << 20;

/// A pending download.
pub(super) struct Download<'a> {
    pub(super) http: &'a Http,
    pub(super) transport: Transport,
    pub(super) settings: &'a HubSettings,
    pub(super) observer: Option<&'a Observer>,
    pub(super) path: &'a HubPath,
    pub(super) url: String,
    pub(super) metadata: &'a Metadata,
}

/// Time and position of the latest progress of a connection.
struct Pace {
    since: Instant,
    at: u64,
    slowest: Duration,
}

impl Pace {
    fn new(have: u64, settings: &HubSettings) -> Self {
        Self {
            since: Instant::now(),
            at: have,
            slowest: settings.longest_stall / 2,
        }
    }

    /// Gives up a connection that delivers almost nothing.
    fn check(&mut self, have: u64) -> Result<(), Failure> {
        if have >= self.at + PROGRESS {
            (self.since, self.at) = (Instant::now(), have);
        }
        match self.since.elapsed() > self.slowest {
            true => {
                let seconds = self.slowest.as_secs_f64();
                let what = format!("fewer than {PROGRESS} bytes arrived in {seconds} s");
                Err(Failure::Broken(what))
            }
            false => Ok(()),
        }
    }
}

/// Why a piece ended.
enum Stop {
    /// The next attempt may continue from here.
    Failure(Failure),
    /// No attempt will succeed.
    Error(Error),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl Download<'_> {
    /// Completes `part` from its current content, and checks it; a bad file is removed.
    pub(super) fn run(&self, part: &Path) -> Result<()> {
        let name = self.path.to_string();
        let mut patience = Patience::new(ATTEMPTS, self.settings);
        let mut reached = 0;
        while let Err(stop) = self.piece(part, &name) {
            let failure = match stop {
                Stop::Failure(failure) => failure,
                Stop::Error(error) => return Err(error),
            };
            let length = fs::metadata(part).map_or(0, |metadata| metadata.len());
            if length >= reached + PROGRESS {
                reached = length;
                patience.renew();
            }
            if !patience.again(&failure, self.path) {
                return Err(explain(self.path, &failure, self.settings));
            }
        }
        let file = self.path.file().unwrap_or_default();
        check::download(part, file, self.metadata).map_err(|what| self.bad(part, &what))?;
        self.tell(&name, self.metadata.size);
        Ok(())
    }

    /// One request: appends the received bytes.
    fn piece(&self, part: &Path, name: &str) -> Result<(), Stop> {
        let size = self.metadata.size;
        let failed = |action| move |error| Stop::Error(Error::io(action, part)(error));
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(part)
            .map_err(failed("create"))?;
        let mut have = file.metadata().map_err(failed("read"))?.len();
        if have > size {
            have = empty(&file).map_err(failed("write"))?;
        }
        self.tell(name, have.min(size.saturating_sub(1)));
        if have == size {
            return Ok(());
        }
        self.check_room(part, size - have)?;
        let mut stream = match self.transport.get(self, have) {
            // The server gives another length, so the existing bytes belong to another file.
            Err(Failure::Refused(refused)) if refused.status == 416 => {
                empty(&file).map_err(failed("write"))?;
                let what = "it cannot continue the partial file".to_owned();
                return Err(Failure::Broken(what).into());
            }
            answer => answer?,
        };
        if let Some(found) = stream.size.filter(|found| *found != size) {
            let what = format!("the download has {found} bytes, but the Hub announced {size}");
            return Err(Stop::Error(self.bad(part, &what)));
        }
        if stream.start != have {
            have = empty(&file).map_err(failed("write"))?;
            if stream.start != have {
                let what = format!("bytes from {} on instead of all bytes", stream.start);
                return Err(Failure::Broken(what).into());
            }
        }
        let mut piece = vec![0; 1 << 18];
        let mut pace = Pace::new(have, self.settings);
        loop {
            let bytes = stream
                .bytes
                .read(&mut piece)
                .map_err(|error| Failure::Broken(error.to_string()))?;
            if bytes == 0 {
                break;
            }
            file.write_all(&piece[..bytes]).map_err(failed("write"))?;
            have += bytes as u64;
            pace.check(have)?;
            if have > size {
                let what = format!("the download has more than the announced {size} bytes");
                return Err(Stop::Error(self.bad(part, &what)));
            }
            self.tell(name, have.min(size.saturating_sub(1)));
        }
        if have < size {
            let what = format!("the answer ended after {have} of {size} bytes");
            return Err(Failure::Broken(what).into());
        }
        file.sync_all().map_err(failed("write"))
    }

    fn check_room(&self, part: &Path, bytes: u64) -> Result<(), Stop> {
        let folder = part.parent().unwrap_or(Path::new("."));
        let fix = "free some, or set HF_HUB_CACHE to a folder on another disk";
        space::check(folder, bytes).map_err(|what| Stop::Error(Error::hub(self.path, what, fix)))
    }

    /// Removes a file that is not the requested one.
    fn bad(&self, part: &Path, what: &str) -> Error {
        let removed = match fs::remove_file(part) {
            Ok(()) => "it was removed".to_owned(),
            Err(error) => format!("removing {} failed: {error}", part.display()),
        };
        Error::hub(
            self.path,
            format!("{what}; {removed}"),
            "try again; if the error remains, a proxy, a mirror (HF_ENDPOINT) or the disk changes the file",
        )
    }

    fn tell(&self, file: &str, done: u64) {
        if let Some(observer) = self.observer {
            let size = self.metadata.size;
            observer(&Transfer { file, done, size });
        }
    }
}

fn empty(file: &File) -> std::io::Result<u64> {
    file.set_len(0)?;
    Ok(0)
}
