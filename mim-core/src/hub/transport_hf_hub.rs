//! The bytes of files by the crate hf-hub, and from the storage Xet by hf-xet, which is its own client of that.
//!
//! Of hf-hub 1.0 only streams are used. Its downloads to a folder take names of files from the answers of the server, and
//! its lists send the token to wherever their next page lies. Its streams do not see that a file is in Xet, so the
//! token of Xet comes by the own client. What a stream brings is limited, continued and checked as with that client.

mod pieces;
mod xet;

use std::ops::Range;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use futures_util::StreamExt;
use hf_hub::repository::download::HFByteStream;
use hf_hub::{HFClient, HFError, HFRepository, HFResult, RepoType};
use reqwest::redirect::Policy;

use self::pieces::{Piece, Pieces};
use super::address::public;
use super::download::Download;
use super::failure::{Failure, Refused};
use super::http::{
    AGENT, Http, LONGEST_ANSWER, LONGEST_SILENCE, REDIRECTS, Stream, is_local, may_lead,
};
use super::{HubPath, HubSettings, RepoKind};

const LONGEST_CONNECT: Duration = Duration::from_secs(10);
/// hf-hub looks for a token in the environment if it is given none. One that no header can hold is not sent.
const NO_TOKEN: &str = "\n";

/// The bytes of a file from byte `start` on, or all bytes if the server does not support ranges.
pub(super) fn get(download: &Download<'_>, start: u64) -> Result<Stream, Failure> {
    match &download.metadata.xet {
        Some(id) => xet::get(download, id, start),
        None => from_hub(download, start),
    }
}

fn from_hub(download: &Download<'_>, start: u64) -> Result<Stream, Failure> {
    let size = download.metadata.size;
    let wanted = Wanted {
        client: client(download.settings).map_err(|error| failure(error, download.http))?,
        path: download.path.clone(),
        commit: download.metadata.commit.clone(),
        range: (start > 0).then_some(start..size),
    };
    let (opened, answer) = sync_channel(1);
    let (sender, bytes) = Pieces::new(download.settings);
    in_background(move || wanted.bring(&opened, &sender))?;
    let length = match answer.recv() {
        Ok(Ok(length)) => length,
        Ok(Err(error)) => return Err(failure(error, download.http)),
        Err(_) => {
            let seconds = LONGEST_ANSWER.as_secs();
            return Err(Failure::Broken(format!("no answer in {seconds} s")));
        }
    };
    // Without ranges the answer is the whole file, from its start.
    let start = match length {
        Some(length) if length == size => 0,
        _ => start,
    };
    Ok(Stream {
        bytes: Box::new(bytes),
        start,
        size: length.map(|length| start.saturating_add(length)),
    })
}

/// A request for a file of the Hub.
struct Wanted {
    client: HFClient,
    path: HubPath,
    commit: String,
    range: Option<Range<u64>>,
}

impl Wanted {
    /// Sends the length of the answer, then its pieces, until nobody wants them. Ends without a word if there is no
    /// answer in time.
    fn bring(self, opened: &SyncSender<HFResult<Option<u64>>>, pieces: &SyncSender<Piece>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = opened.send(Err(error.into()));
                return;
            }
        };
        runtime.block_on(async {
            let Ok(answer) = tokio::time::timeout(LONGEST_ANSWER, self.open()).await else {
                return;
            };
            let (length, mut stream) = match answer {
                Ok((length, stream)) => (Ok(length), Some(stream)),
                Err(error) => (Err(error), None),
            };
            let _ = opened.send(length);
            let Some(stream) = &mut stream else { return };
            // This thread has nothing else to do while a piece waits.
            while let Some(piece) = stream.next().await {
                let piece = piece.map(Vec::from).map_err(text);
                if pieces.send(piece).is_err() {
                    return;
                }
            }
        });
    }

    async fn open(&self) -> HFResult<(Option<u64>, HFByteStream)> {
        let repository = self.path.repository();
        let (owner, name) = hf_hub::split_id(&repository);
        match self.path.kind() {
            RepoKind::Model => self.stream(self.client.model(owner, name)).await,
            RepoKind::Dataset => self.stream(self.client.dataset(owner, name)).await,
        }
    }

    async fn stream<T: RepoType>(
        &self,
        repository: HFRepository<T>,
    ) -> HFResult<(Option<u64>, HFByteStream)> {
        repository
            .download_file_stream()
            .filename(self.path.file().unwrap_or_default())
            .revision(self.commit.as_str())
            .maybe_range(self.range.clone())
            .send()
            .await
    }
}

/// hf-hub with our settings, and none of the environment.
fn client(settings: &HubSettings) -> HFResult<HFClient> {
    let mut client = reqwest::Client::builder()
        .user_agent(AGENT)
        .connect_timeout(LONGEST_CONNECT)
        .read_timeout(LONGEST_SILENCE)
        .redirect(Policy::custom(|attempt| {
            let from = attempt.previous().last().map_or("", |url| url.as_str());
            let to = attempt.url().as_str();
            if attempt.previous().len() > REDIRECTS {
                attempt.error(format!("it redirects more than {REDIRECTS} times"))
            } else if !may_lead(from, to) {
                let what = format!("a redirect to {:?}", public(to));
                attempt.error(what)
            } else {
                // Headers with a token stay behind if scheme, host or port changes.
                attempt.follow()
            }
        }));
    if is_local(&settings.endpoint) {
        client = client.no_proxy();
    }
    if let Some(path) = &settings.certificates {
        let pem = std::fs::read(path)?;
        client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem)?);
    }
    HFClient::builder()
        .endpoint(&settings.endpoint)
        .token(settings.token.as_deref().unwrap_or(NO_TOKEN))
        .client(client.build()?)
        .user_agent(AGENT)
        .cache_dir(&settings.cache)
        .cache_enabled(false)
        // Attempts are counted by the caller.
        .retry_max_attempts(0)
        .build()
}

fn failure(error: HFError, http: &Http) -> Failure {
    let (context, wait) = match error {
        HFError::Http { context }
        | HFError::AuthRequired { context }
        | HFError::Forbidden { context }
        | HFError::Conflict { context }
        | HFError::RepoNotFound {
            context: Some(context),
            ..
        }
        | HFError::RevisionNotFound {
            context: Some(context),
            ..
        }
        | HFError::EntryNotFound {
            context: Some(context),
            ..
        } => (context, None),
        HFError::RateLimited {
            context,
            retry_after,
        } => (context, retry_after),
        HFError::Request { ref source, .. } if source.is_redirect() || source.is_builder() => {
            return Failure::Final(http.without_secrets(&text(error)));
        }
        error => return Failure::Broken(http.without_secrets(&text(error))),
    };
    let message = context.server_message.unwrap_or_default();
    Failure::Refused(Refused {
        status: context.status.as_u16(),
        code: context.error_code.unwrap_or_default(),
        message: http.without_secrets(&message),
        wait,
    })
}

/// An error with its causes, without addresses, which may hold signatures.
fn text(error: HFError) -> String {
    let error: Box<dyn std::error::Error> = match error {
        HFError::Request { source, .. } => Box::new(source.without_url()),
        other => Box::new(other),
    };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// Runs `work` on a thread of its own: neither crate may be called from one that runs asynchronous work, as the
/// caller's may.
fn in_background(work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let thread = thread::Builder::new().name("hub download".to_owned());
    thread
        .spawn(work)
        .map(drop)
        .map_err(|error| Failure::Broken(format!("no thread for it: {error}")))
}
