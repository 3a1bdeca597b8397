//! Requests to the Hub.

use std::io::Read;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, StatusCode, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use super::HubSettings;
use super::failure::{Failure, Refused};
use super::path::is_commit;
use crate::{Error, Result};

const AGENT: &str = concat!("mim/", env!("CARGO_PKG_VERSION"));
const REDIRECTS: usize = 10;
/// A connection that is silent for longer is dead; a download goes on with another.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);
/// Longest text that is taken as an answer.
const TEXT: u64 = 64 << 20;

/// What the Hub says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    /// The commit that the revision stands for.
    pub(super) commit: String,
    /// The name of its content: the SHA-256 of large files, the git hash of others.
    pub(super) etag: String,
    /// Bytes.
    pub(super) size: u64,
}

/// The bytes of a file from some place on.
pub(super) struct Stream {
    pub(super) bytes: Box<dyn Read>,
    /// Where they start.
    pub(super) start: u64,
    /// Bytes of the whole file, if the answer says so.
    pub(super) size: Option<u64>,
}

/// A connection to the Hub.
#[derive(Debug)]
pub(super) struct Http {
    agent: Agent,
    /// Who is sent the token: scheme, host and port of the Hub.
    origin: String,
    token: Option<String>,
}

impl Http {
    /// Opens no connection yet.
    ///
    /// # Errors
    ///
    /// If the certificates cannot be read.
    pub(super) fn new(settings: &HubSettings) -> Result<Self> {
        let roots = match &settings.certificates {
            None => RootCerts::WebPki,
            Some(path) => {
                let pem = std::fs::read(path).map_err(Error::io("read", path))?;
                let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
                    .filter_map(|item| match item {
                        Ok(PemItem::Certificate(certificate)) => Some(certificate),
                        _ => None,
                    })
                    .collect();
                if certificates.is_empty() {
                    return Err(Error::format(
                        path,
                        "holds no certificate in PEM",
                        "correct or unset SSL_CERT_FILE",
                    ));
                }
                RootCerts::from(certificates)
            }
        };
        let mut config = Agent::config_builder()
            .user_agent(AGENT)
            .http_status_as_error(false)
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
            .timeout_resolve(Some(Duration::from_secs(10)))
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_per_read(Some(LONGEST_SILENCE))
            .tls_config(TlsConfig::builder().root_certs(roots).build());
        // Proxies know nothing of this machine's own servers.
        let origin = origin(&settings.endpoint).to_owned();
        if ["//localhost", "//127.", "//[::1]"]
            .iter()
            .any(|host| origin.contains(host))
        {
            config = config.proxy(None);
        }
        Ok(Self {
            agent: config.build().into(),
            origin,
            token: settings.token.clone(),
        })
    }

    /// Whether anybody answers at `url` within this time; why not otherwise. No token is sent.
    pub(super) fn knock(&self, url: &str, patience: Duration) -> std::result::Result<(), String> {
        let request = self.agent.head(url).config();
        let answer = request.timeout_global(Some(patience)).build().call();
        answer.map(drop).map_err(|error| error.to_string())
    }

    /// What is behind `url`.
    pub(super) fn metadata(&self, url: &str) -> Result<Metadata, Failure> {
        let mut url = url.to_owned();
        let mut found = Found::default();
        for _ in 0..=REDIRECTS {
            let request = self.agent.head(&url);
            let request = request
                .config()
                .max_redirects(0)
                .max_redirects_will_error(false)
                .build();
            let response = self.send(request, &url)?;
            found.add(response.headers());
            let status = response.status();
            if status.is_redirection() {
                let target = target(&url, response.headers())?;
                // The storage behind the Hub knows nothing more about the file.
                if origin(&target) != origin(&url) && found.is_complete() {
                    break;
                }
                url = target;
            } else if status.is_success() {
                found.add_own(response.headers());
                break;
            } else {
                return Err(refused(response));
            }
        }
        found.metadata().map_err(Failure::Broken)
    }

    /// The bytes behind `url` from byte `start` on, or all of them where the server does not do parts.
    pub(super) fn get(&self, url: &str, start: u64) -> Result<Stream, Failure> {
        let mut request = self.agent.get(url);
        if start > 0 {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        let response = self.send(request, url)?;
        let status = response.status();
        let (start, size) = match status {
            StatusCode::OK => (0, length(response.headers())),
            StatusCode::PARTIAL_CONTENT => part(response.headers())
                .ok_or_else(|| Failure::Broken("an answer without Content-Range".to_owned()))?,
            _ => return Err(refused(response)),
        };
        Ok(Stream {
            bytes: Box::new(response.into_body().into_reader()),
            start,
            size,
        })
    }

    /// The text behind `url`.
    pub(super) fn text(&self, url: &str) -> Result<String, Failure> {
        let mut response = self.send(self.agent.get(url), url)?;
        if response.status() != StatusCode::OK {
            return Err(refused(response));
        }
        let text = response.body_mut().with_config().limit(TEXT);
        text.read_to_string()
            .map_err(|error| Failure::Broken(error.to_string()))
    }

    fn send(
        &self,
        request: RequestBuilder<WithoutBody>,
        url: &str,
    ) -> Result<Response<Body>, Failure> {
        // Lengths and hashes are those of the file as it is.
        let mut request = request.header(header::ACCEPT_ENCODING, "identity");
        if let (Some(token), true) = (&self.token, origin(url) == self.origin) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request
            .call()
            .map_err(|error| Failure::Broken(error.to_string()))
    }
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..]
        .find(['/', '?'])
        .map_or(url.len(), |at| host + at);
    &url[..end]
}

/// Where an answer from `url` points to.
fn target(url: &str, headers: &HeaderMap) -> Result<String, Failure> {
    match text(headers, "location") {
        Some(location) if location.contains("://") => Ok(location.to_owned()),
        Some(location) if location.starts_with('/') => Ok(format!("{}{location}", origin(url))),
        other => Err(Failure::Broken(format!("a redirect to {other:?}"))),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn length(headers: &HeaderMap) -> Option<u64> {
    text(headers, "content-length")?.parse().ok()
}

/// Start and whole size from a `Content-Range`.
fn part(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let range = text(headers, "content-range")?.strip_prefix("bytes ")?;
    let (bytes, size) = range.split_once('/')?;
    let (start, _) = bytes.split_once('-')?;
    Some((start.parse().ok()?, size.parse().ok()))
}

fn refused(mut response: Response<Body>) -> Failure {
    let headers = response.headers();
    let say = |name| text(headers, name).unwrap_or_default().to_owned();
    let (code, mut message) = (say("x-error-code"), say("x-error-message"));
    let wait = text(headers, "retry-after").and_then(|seconds| seconds.trim().parse().ok());
    if message.is_empty() {
        let body = response.body_mut().with_config().limit(1 << 16);
        let body = body.read_to_string().unwrap_or_default();
        let json: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        message = json["error"].as_str().unwrap_or_default().to_owned();
    }
    Failure::Refused(Refused {
        status: response.status().as_u16(),
        code,
        message,
        wait: wait.map(Duration::from_secs),
    })
}

/// Metadata as it comes in over redirects.
#[derive(Default)]
struct Found {
    commit: Option<String>,
    etag: Option<String>,
    size: Option<u64>,
}

impl Found {
    fn is_complete(&self) -> bool {
        self.commit.is_some() && self.etag.is_some() && self.size.is_some()
    }

    /// Takes what an answer says of the file that the Hub keeps, unless an earlier one said it.
    fn add(&mut self, headers: &HeaderMap) {
        let take = |name| text(headers, name).map(str::to_owned);
        self.commit = self.commit.take().or_else(|| take("x-repo-commit"));
        self.etag = self.etag.take().or_else(|| take("x-linked-etag"));
        let size = || text(headers, "x-linked-size")?.parse().ok();
        self.size = self.size.or_else(size);
    }

    /// Takes what is left from the headers of the file itself.
    fn add_own(&mut self, headers: &HeaderMap) {
        let etag = || text(headers, "etag").map(str::to_owned);
        self.etag = self.etag.take().or_else(etag);
        self.size = self.size.or_else(|| length(headers));
    }

    fn metadata(self) -> Result<Metadata, String> {
        let etag = self.etag.unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        // They become names of files.
        let is_name = (1..=128).contains(&etag.len())
            && etag
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        match (self.commit.filter(|commit| is_commit(commit)), self.size) {
            (Some(commit), Some(size)) if is_name => Ok(Metadata { commit, etag, size }),
            _ => Err(
                "its answer lacks the commit, hash or length of the file, as if from another kind \
                 of server"
                    .to_owned(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        assert_eq!(origin("https://h:1/a/b"), "https://h:1");
        assert_eq!(origin("http://h"), "http://h");
        let mut headers = HeaderMap::new();
        headers.insert("location", "/x?y".parse().unwrap());
        assert_eq!(target("http://h:1/a", &headers).unwrap(), "http://h:1/x?y");
        headers.insert("location", "https://cdn/z".parse().unwrap());
        assert_eq!(target("http://h:1/a", &headers).unwrap(), "https://cdn/z");
        headers.insert("content-range", "bytes 5-9/10".parse().unwrap());
        assert_eq!(part(&headers), Some((5, Some(10))));
    }

    #[test]
    fn hashes_that_are_no_file_names_are_refused() {
        let found = |etag: &str| Found {
            commit: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
            etag: Some(etag.to_owned()),
            size: Some(1),
        };
        assert_eq!(found("W/\"ab-1\"").metadata().unwrap().etag, "ab-1");
        for etag in ["\"../x\"", "\"\"", "a/b"] {
            assert!(found(etag).metadata().is_err(), "{etag}");
        }
    }
}
