//! A Hub on this machine: answers as the real one does, or as a test wants.

#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "a test fails by panicking, and not each uses everything"
)]

pub(crate) mod xet;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha1::{Digest, Sha1};

/// The commit of every revision.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) host: String,
    /// The first byte wanted.
    pub(crate) start: Option<usize>,
    pub(crate) token: Option<String>,
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// The length that the header gives, if it is another one.
    pub(crate) promised: Option<u64>,
    /// Waits so long after each byte of the body.
    pub(crate) pause: Option<Duration>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![],
            body: body.into(),
            cut: None,
            promised: None,
            pause: None,
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }
}

/// A repository of files, each with its hash.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repository(pub(crate) BTreeMap<String, (Vec<u8>, String)>);

impl Repository {
    pub(crate) fn with(mut self, name: &str, bytes: impl Into<Vec<u8>>, etag: &str) -> Self {
        self.0
            .insert(name.to_owned(), (bytes.into(), etag.to_owned()));
        self
    }

    /// A file that is stored in git itself: its hash is git's.
    pub(crate) fn small(self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let hash = Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
        let hash = hash.chain_update(&bytes).finalize();
        let etag: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        self.with(name, bytes, &etag)
    }

    /// What the Hub answers.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        if request.path.starts_with("/api/") {
            let names = self
                .0
                .keys()
                .map(|name| format!("{{\"rfilename\":\"{name}\"}}"));
            let names = names.collect::<Vec<_>>().join(",");
            return Reply::new(
                200,
                format!("{{\"sha\":\"{COMMIT}\",\"siblings\":[{names}]}}"),
            );
        }
        let name = request
            .path
            .split("/resolve/")
            .nth(1)
            .and_then(|rest| rest.split_once('/'));
        let Some((bytes, etag)) = name.and_then(|(_, name)| self.0.get(name)) else {
            return Reply::new(404, "Entry not found").with("X-Error-Code", "EntryNotFound");
        };
        let reply = match request.start {
            Some(start) if start < bytes.len() => Reply::new(206, &bytes[start..]).with(
                "Content-Range",
                format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()),
            ),
            Some(_) => Reply::new(416, ""),
            None => Reply::new(200, bytes.clone()),
        };
        reply
            .with("X-Repo-Commit", COMMIT)
            .with("ETag", format!("\"{etag}\""))
    }
}

/// A running Hub.
pub(crate) struct MockHub {
    pub(crate) endpoint: String,
    pub(crate) port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl MockHub {
    /// Answers every request with `answer`, until the process ends.
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(vec![]));
        let (log, answer) = (requests.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, answer) = (log.clone(), answer.clone());
                thread::spawn(move || {
                    let stream = stream.unwrap();
                    let Some(request) = read(&stream) else { return };
                    log.lock().unwrap().push(request.clone());
                    write(stream, &request, &answer(&request));
                });
            }
        });
        Self {
            endpoint: format!("http://127.0.0.1:{port}"),
            port,
            requests,
        }
    }

    /// A Hub with one repository under any name.
    pub(crate) fn of(repository: Repository) -> Self {
        Self::start(move |request| repository.answer(request))
    }

    /// What was asked since the last time, as `METHOD path`.
    pub(crate) fn requests(&self) -> Vec<String> {
        let requests = self.take().into_iter();
        requests
            .map(|request| format!("{} {}", request.method, request.path))
            .collect()
    }

    /// What was asked since the last time.
    pub(crate) fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let (method, rest) = first.split_once(' ')?;
    let (path, _) = rest.rsplit_once(' ')?;
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        host: String::new(),
        start: None,
        token: None,
    };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "host" => request.host = value.to_owned(),
            "authorization" => request.token = value.strip_prefix("Bearer ").map(str::to_owned),
            "range" => {
                let (start, _) = value.strip_prefix("bytes=")?.split_once('-')?;
                request.start = start.parse().ok()
            }
            _ => {}
        }
    }
    Some(request)
}

fn write(mut stream: TcpStream, request: &Request, reply: &Reply) {
    let mut head = format!("HTTP/1.1 {} -\r\nConnection: close\r\n", reply.status);
    let length = reply.body.len();
    let promised = reply.promised.unwrap_or(length as u64);
    head.push_str(&format!("Content-Length: {promised}\r\n"));
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let body = match request.method.as_str() {
        "HEAD" => &[][..],
        _ => &reply.body[..reply.cut.unwrap_or(length).min(length)],
    };
    // A client that has heard enough closes first.
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| match reply.pause {
            None => stream.write_all(body),
            Some(pause) => body.iter().try_for_each(|byte| {
                thread::sleep(pause);
                stream.write_all(&[*byte])
            }),
        });
}
