//! Meaning and remedy of failures.

use std::time::{Duration, Instant};

use super::address::public;
use super::failure::{Failure, Refused};
use super::{HubPath, HubSettings, RepoKind};
use crate::{Error, Text};

/// Maximum wait for a busy Hub, and between attempts; after that it is an error.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The attempts of a request and the waits between them.
#[derive(Debug)]
pub(super) struct Patience {
    attempts: u32,
    left: u32,
    first_wait: Duration,
    wait: Duration,
    waited: Duration,
    /// The start, or the latest progress.
    since: Instant,
    longest_stall: Duration,
}

impl Patience {
    pub(super) fn new(attempts: u32, settings: &HubSettings) -> Self {
        Self {
            attempts,
            left: attempts,
            first_wait: settings.first_wait,
            wait: settings.first_wait,
            waited: Duration::ZERO,
            since: Instant::now(),
            longest_stall: settings.longest_stall,
        }
    }

    /// Waits, with a warning, if `failure` is temporary and an attempt is left.
    pub(super) fn again(&mut self, failure: &Failure, path: &HubPath) -> bool {
        self.left = self.left.saturating_sub(1);
        let asked = match failure {
            Failure::Refused(refused) => refused.wait,
            Failure::Broken(_) | Failure::Final(_) => None,
        };
        let wait = asked.unwrap_or(self.wait);
        // Of all attempts together. The Hub says how long, so the sums may exceed what a duration holds.
        self.waited = self.waited.saturating_add(wait);
        let stalled = self.since.elapsed().saturating_add(wait);
        let is_late = self.waited > LONGEST_WAIT || stalled >= self.longest_stall;
        if self.left == 0 || !failure.may_pass() || is_late {
            return false;
        }
        let seconds = wait.as_secs_f64();
        tracing::warn!("{path}: {}; trying again in {seconds:.0} s", brief(failure));
        std::thread::sleep(wait);
        self.wait *= 2;
        true
    }

    /// Starts counting again after some progress.
    pub(super) fn renew(&mut self) {
        (self.left, self.wait) = (self.attempts, self.first_wait);
        self.since = Instant::now();
    }
}

/// A failure in a few words.
pub(super) fn brief(failure: &Failure) -> String {
    match failure {
        Failure::Broken(what) | Failure::Final(what) => what.clone(),
        Failure::Refused(Refused {
            status, message, ..
        }) if message.is_empty() => {
            format!("the Hub answers {status}")
        }
        Failure::Refused(Refused {
            status, message, ..
        }) => format!("the Hub answers {status}: {message}"),
    }
}

/// The error that a failure becomes.
pub(super) fn explain(path: &HubPath, failure: &Failure, settings: &HubSettings) -> Error {
    let (endpoint, repository) = (&public(&settings.endpoint), path.repository());
    let revision = path.revision();
    let (what, fix): (String, Text) = match failure {
        Failure::Broken(what) => (
            format!("{endpoint} cannot be reached, or the connection breaks off ({what})"),
            "check the network, HF_ENDPOINT and HTTPS_PROXY; without a network, copy the cache of another machine \
             and set HF_HUB_CACHE"
                .into(),
        ),
        Failure::Final(what) => (
            format!("{endpoint} does not answer like the Hub: {what}"),
            "check HF_ENDPOINT".into(),
        ),
        Failure::Refused(refused) => {
            let (code, said) = (refused.code.as_str(), brief(failure));
            match refused.status {
                401 if settings.token.is_none() => (
                    format!("{said}; it does not exist, or is private or gated"),
                    format!(
                        "check the name, or set HF_TOKEN to a token that may read it ({endpoint}/settings/tokens)"
                    )
                    .into(),
                ),
                401 => (
                    format!("{said}; the token is not valid"),
                    format!("set HF_TOKEN to a valid one ({endpoint}/settings/tokens), or unset it").into(),
                ),
                403 if code == "GatedRepo" => (
                    format!("{said}; its owners require you to accept their terms"),
                    format!("accept them at {}, and set HF_TOKEN", page(endpoint, path)).into(),
                ),
                403 => (said, "set HF_TOKEN to a token that may read it".into()),
                404 if code == "RevisionNotFound" => (
                    format!("{repository} has no branch, tag or commit {revision}"),
                    format!("see {}", page(endpoint, path)).into(),
                ),
                404 if code == "EntryNotFound" => (
                    format!("{repository} has no such file at revision {revision}"),
                    format!("see {}/tree/{revision}", page(endpoint, path)).into(),
                ),
                404 => (
                    format!("{said}; there is no such repository, or it is private"),
                    "check the name, or set HF_TOKEN".into(),
                ),
                429 => (
                    match refused.wait {
                        Some(wait) => format!("{said}; it asks for a wait of {} s", wait.as_secs()),
                        None => said,
                    },
                    "try again later; requests with HF_TOKEN have a higher limit".into(),
                ),
                _ => (said, "try again later".into()),
            }
        }
    };
    Error::hub(path, what, fix)
}

/// The page of a repository.
fn page(endpoint: &str, path: &HubPath) -> String {
    let kind = match path.kind() {
        RepoKind::Model => "",
        RepoKind::Dataset => "datasets/",
    };
    format!("{endpoint}/{kind}{}", path.repository())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_wait_that_is_too_long_ends_the_attempts_at_once() {
        let mut settings = HubSettings::new("http://hub", Path::new("cache"));
        settings.first_wait = Duration::from_millis(1);
        let path: HubPath = "hf:o/n".parse().unwrap();
        let busy = |wait: Option<u64>| {
            Failure::Refused(Refused {
                status: 429,
                code: String::new(),
                message: String::new(),
                wait: wait.map(Duration::from_secs),
            })
        };
        let mut patience = Patience::new(5, &settings);
        assert!(patience.again(&busy(None), &path));
        assert!(!patience.again(&busy(Some(u64::MAX)), &path));

        settings.longest_stall = Duration::from_secs(1);
        let mut patience = Patience::new(5, &settings);
        assert!(!patience.again(&busy(Some(200)), &path));
    }
}
