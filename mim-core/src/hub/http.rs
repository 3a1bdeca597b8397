//! Requests to the Hub.

use std::io::Read;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, StatusCode, Uri, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use super::HubSettings;
use super::address::public;
use super::failure::{Failure, Refused};
use super::headers::{Found, Metadata, length, part, text};
use crate::{Error, Result};

pub(super) const AGENT: &str = concat!("mim/", env!("CARGO_PKG_VERSION"));
pub(super) const REDIRECTS: usize = 10;
/// A connection that is silent for longer is dead; a download then continues with another.
pub(super) const LONGEST_SILENCE: Duration = Duration::from_secs(60);
/// Maximum time for a complete short answer.
pub(super) const LONGEST_ANSWER: Duration = Duration::from_secs(120);
/// Maximum length of a text answer.
const TEXT: u64 = 64 << 20;

/// The bytes of a file from a position on.
pub(super) struct Stream {
    pub(super) bytes: Box<dyn Read>,
    /// Where they start.
    pub(super) start: u64,
    /// Size of the whole file, if the answer gives it.
    pub(super) size: Option<u64>,
}

/// A connection to the Hub.
#[derive(Debug)]
pub(super) struct Http {
    agent: Agent,
    /// Where the token may be sent: scheme, host and port of the Hub.
    origin: Option<(String, String, u16)>,
    token: Option<String>,
    /// Name and password in the address of the Hub.
    userinfo: Option<String>,
}

impl Http {
    /// Does not open a connection yet.
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
                        "contains no PEM certificate",
                        "correct or unset SSL_CERT_FILE",
                    ));
                }
                RootCerts::from(certificates)
            }
        };
        let mut config = Agent::config_builder()
            .user_agent(AGENT)
            .http_status_as_error(false)
            // They are followed here: only the Hub itself gets the token.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::Never)
            .timeout_resolve(Some(Duration::from_secs(10)))
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_per_read(Some(LONGEST_SILENCE))
            .tls_config(TlsConfig::builder().root_certs(roots).build());
        // A proxy cannot reach servers on this machine.
        if is_local(&settings.endpoint) {
            config = config.proxy(None);
        }
        let shown = public(&settings.endpoint).len();
        let hidden = settings.endpoint.len() - shown;
        let start = settings.endpoint.find("://").map_or(0, |at| at + 3);
        let userinfo = settings
            .endpoint
            .get(start..(start + hidden).saturating_sub(1));
        Ok(Self {
            agent: config.build().into(),
            origin: origin(&settings.endpoint),
            token: settings.token.clone(),
            userinfo: userinfo.filter(|text| !text.is_empty()).map(str::to_owned),
        })
    }

    /// Checks whether a server answers at `url` within this time. No token is sent.
    pub(super) fn knock(&self, url: &str, patience: Duration) -> std::result::Result<(), String> {
        let request = self.agent.head(url).config();
        let answer = request.timeout_global(Some(patience)).build().call();
        answer.map(drop).map_err(|error| error.to_string())
    }

    /// The metadata of the file at `url`.
    pub(super) fn metadata(&self, url: &str) -> Result<Metadata, Failure> {
        let mut found = Found::default();
        let deadline = Some(LONGEST_ANSWER);
        self.follow(url, |url| {
            let response = self.send(self.agent.head(url), url, deadline)?;
            found.add(response.headers());
            let next = next(url, &response)?;
            let status = response.status();
            if status.is_success() {
                found.add_own(response.headers());
            } else if next.is_none() {
                return Err(self.refused(response));
            }
            // The storage behind the Hub has no further metadata.
            Ok(match next {
                Some(next) if found.is_complete() && origin(&next) != origin(url) => Hop::Here(()),
                Some(next) => Hop::Next(next),
                None => Hop::Here(()),
            })
        })?;
        found.metadata().map_err(Failure::Final)
    }

    /// The bytes at `url` from byte `start` on, or all bytes if the server does not support ranges.
    pub(super) fn get(&self, url: &str, start: u64) -> Result<Stream, Failure> {
        let response = self.follow(url, |url| {
            let mut request = self.agent.get(url);
            if start > 0 {
                request = request.header(header::RANGE, format!("bytes={start}-"));
            }
            let response = self.send(request, url, None)?;
            Ok(next(url, &response)?.map_or(Hop::Here(response), Hop::Next))
        })?;
        let status = response.status();
        let (start, size) = match status {
            StatusCode::OK => (0, length(response.headers())),
            StatusCode::PARTIAL_CONTENT => part(response.headers())
                .ok_or_else(|| Failure::Broken("an answer without Content-Range".to_owned()))?,
            _ => return Err(self.refused(response)),
        };
        Ok(Stream {
            bytes: Box::new(response.into_body().into_reader()),
            start,
            size,
        })
    }

    /// The text at `url`.
    pub(super) fn text(&self, url: &str) -> Result<String, Failure> {
        let mut response = self.follow(url, |url| {
            let response = self.send(self.agent.get(url), url, Some(LONGEST_ANSWER))?;
            Ok(next(url, &response)?.map_or(Hop::Here(response), Hop::Next))
        })?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(response));
        }
        let text = response.body_mut().with_config().limit(TEXT);
        text.read_to_string()
            .map_err(|error| Failure::Broken(error.to_string()))
    }

    /// Calls `ask` at `url`, and follows redirects.
    fn follow<T>(
        &self,
        url: &str,
        mut ask: impl FnMut(&str) -> Result<Hop<T>, Failure>,
    ) -> Result<T, Failure> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS {
            match ask(&url)? {
                Hop::Here(answer) => return Ok(answer),
                Hop::Next(next) => url = next,
            }
        }
        let what = format!("it redirects more than {REDIRECTS} times");
        Err(Failure::Final(what))
    }

    /// One request without redirects; only the Hub itself gets the token.
    fn send(
        &self,
        request: RequestBuilder<WithoutBody>,
        url: &str,
        deadline: Option<Duration>,
    ) -> Result<Response<Body>, Failure> {
        // Lengths and hashes refer to the uncompressed file.
        let mut request = request.header(header::ACCEPT_ENCODING, "identity");
        let own = origin(url);
        if let (Some(token), true) = (&self.token, own.is_some() && own == self.origin) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.config().timeout_global(deadline).build();
        request.call().map_err(|error| {
            let what = self.without_secrets(&error.to_string());
            match error {
                ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => {
                    Failure::Final(what)
                }
                _ => Failure::Broken(what),
            }
        })
    }

    /// A text from outside with any echo of the token removed.
    pub(super) fn without_secrets(&self, text: &str) -> String {
        let secrets = [self.token.as_deref(), self.userinfo.as_deref()];
        let secrets = secrets.into_iter().flatten();
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }

    fn refused(&self, mut response: Response<Body>) -> Failure {
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
            message: self.without_secrets(&message),
            wait: wait.map(Duration::from_secs),
        })
    }
}

/// An answer, or a redirect.
enum Hop<T> {
    Here(T),
    Next(String),
}

/// Scheme, host and port of an address; `None` if it is not the address of a server.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let usual = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let host = uri.host()?.to_ascii_lowercase();
    Some((scheme, host, uri.port_u16().unwrap_or(usual)))
}

/// Whether the server at an address is on this machine.
pub(super) fn is_local(url: &str) -> bool {
    let origin = origin(url);
    let host = origin.as_ref().map_or("", |(_, host, _)| host.as_str());
    host == "localhost" || host.starts_with("127.") || host == "[::1]"
}

/// Whether the server at `from` may send us on to `to`: it must be http or https, and https if `from` is.
pub(super) fn may_lead(from: &str, to: &str) -> bool {
    let scheme = |url| origin(url).map(|(scheme, ..)| scheme).unwrap_or_default();
    match scheme(to).as_str() {
        "https" => true,
        "http" => scheme(from) == "http",
        _ => false,
    }
}

/// The target of a redirect from `url`, if the answer is one.
fn next(url: &str, response: &Response<Body>) -> Result<Option<String>, Failure> {
    match response.status().is_redirection() {
        true => target(url, response.headers()).map(Some),
        false => Ok(None),
    }
}

/// The target of a redirect from `url`.
fn target(url: &str, headers: &HeaderMap) -> Result<String, Failure> {
    let from = origin(url).map(|(scheme, ..)| scheme).unwrap_or_default();
    let target = match text(headers, "location") {
        Some(location) if location.contains("://") => location.to_owned(),
        Some(location) if location.starts_with("//") => format!("{from}:{location}"),
        Some(location) if location.starts_with('/') => {
            let start = url.find("://").map_or(0, |at| at + 3);
            let end = url[start..].find(['/', '?', '#']);
            let end = end.map_or(url.len(), |at| start + at);
            format!("{}{location}", &url[..end])
        }
        other => return Err(Failure::Final(format!("a redirect to {other:?}"))),
    };
    match may_lead(url, &target) {
        true => Ok(target),
        false => Err(Failure::Final(format!(
            "a redirect to {:?}",
            public(&target)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let origin_of =
            |url| origin(url).map(|(scheme, host, port)| format!("{scheme} {host} {port}"));
        for (url, origin) in [
            ("https://h:1/a/b", Some("https h 1")),
            ("http://me:secret@H?x", Some("http h 80")),
            ("https://h:443", Some("https h 443")),
            ("http://h:1@evil/", Some("http evil 80")),
            ("ftp://h/a", None),
            ("h/a", None),
        ] {
            assert_eq!(origin_of(url).as_deref(), origin, "{url}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("location", "/x?y".parse().unwrap());
        assert_eq!(target("http://h:1/a", &headers).unwrap(), "http://h:1/x?y");
        headers.insert("location", "https://cdn/z".parse().unwrap());
        assert_eq!(target("http://h:1/a", &headers).unwrap(), "https://cdn/z");
        headers.insert("location", "//cdn/z".parse().unwrap());
        assert_eq!(target("https://h:1/a", &headers).unwrap(), "https://cdn/z");
        for bad in ["http://h:1/z", "file:///etc/passwd", "ftp://h/z", "z"] {
            headers.insert("location", bad.parse().unwrap());
            assert!(target("https://h:1/a", &headers).is_err(), "{bad}");
        }
    }
}
