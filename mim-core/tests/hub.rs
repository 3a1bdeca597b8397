//! The client of the Hub against a Hub on this machine, with the transport of the build, or that of `MIM_HUB_TRANSPORT`.
//!
//! hf-hub asks for the headers of a file again before each piece of it, so with it some more requests are seen. All else is the same.

#![cfg(feature = "hub")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod mock_hub;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mim_core::hub::{Hub, HubPath, HubSettings, Transfer};
use mim_core::weights::WeightMap;
use mock_hub::{COMMIT, MockHub, Reply, Repository, Request, xet};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const MODEL: &str = "model.safetensors";

/// A weights file with one tensor of `length` bytes.
fn weights(length: usize) -> Vec<u8> {
    let header =
        format!(r#"{{"a":{{"dtype":"U8","shape":[{length}],"data_offsets":[0,{length}]}}}}"#);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.into_bytes());
    bytes.extend((0..=250).cycle().take(length));
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn model() -> Repository {
    let bytes = weights(100_000);
    let etag = sha256(&bytes);
    Repository::default().with(MODEL, bytes, &etag)
}

fn transport() -> Option<String> {
    std::env::var("MIM_HUB_TRANSPORT").ok()
}

/// Whether hf-hub brings the files.
fn by_hf_hub() -> bool {
    cfg!(feature = "hf-hub") && transport().as_deref() != Some("own")
}

fn settings(endpoint: &str, cache: &TempDir) -> HubSettings {
    let mut settings = HubSettings::new(endpoint, cache.path());
    settings.transport = transport();
    settings.first_wait = Duration::from_millis(1);
    settings
}

fn client(hub: &MockHub, cache: &TempDir) -> Hub {
    Hub::new(settings(&hub.endpoint, cache)).unwrap()
}

fn offline(cache: &TempDir) -> Hub {
    let mut settings = settings("http://127.0.0.1:9", cache);
    settings.offline = true;
    Hub::new(settings).unwrap()
}

fn path(text: &str) -> HubPath {
    text.parse().unwrap()
}

/// The error of a download, which must leave nothing behind that could be taken for the file.
fn fails(hub: &Hub, cache: &TempDir, text: &str) -> String {
    let error = hub.weights(&path(text)).unwrap_err().to_string();
    let repository = cache.path().join("models--o--n");
    assert!(!repository.join("snapshots").exists(), "{error}");
    for blob in fs::read_dir(repository.join("blobs")).into_iter().flatten() {
        let name = blob.unwrap().file_name().into_string().unwrap();
        assert!(name.ends_with(".incomplete"), "{name} is left");
    }
    error
}

#[test]
fn a_file_comes_once_and_then_from_the_cache() {
    let (hub, cache) = (MockHub::of(model()), tempfile::tempdir().unwrap());
    let client = client(&hub, &cache);
    let found = client.weights(&path("hf:o/n")).unwrap();
    assert_eq!(fs::read(&found).unwrap(), weights(100_000));
    assert_eq!(WeightMap::read(&found).unwrap().len(), 1);
    let head = format!("HEAD /o/n/resolve/main/{MODEL}");
    let mut asked = vec![
        head.clone(),
        format!("HEAD /o/n/resolve/{COMMIT}/{MODEL}"),
        format!("GET /o/n/resolve/{COMMIT}/{MODEL}"),
    ];
    if !by_hf_hub() {
        asked.remove(1);
    }
    assert_eq!(hub.requests(), asked);
    // Of a branch is asked whether it has moved, of a commit nothing.
    assert_eq!(
        client.weights(&path("hf:o/n/model.safetensors")).unwrap(),
        found
    );
    assert_eq!(hub.requests(), [head]);
    let fixed = path("hf:o/n").with_revision(COMMIT);
    assert_eq!(client.weights(&fixed).unwrap(), found);
    assert_eq!(offline(&cache).weights(&path("hf:o/n")).unwrap(), found);
    assert!(hub.requests().is_empty());
}

#[test]
fn the_cache_is_laid_out_as_pythons() {
    let (hub, cache) = (MockHub::of(model()), tempfile::tempdir().unwrap());
    let found = client(&hub, &cache)
        .weights(&path("hf:o/n@refs/pr/1"))
        .unwrap();
    let repository = cache.path().join("models--o--n");
    let etag = sha256(&weights(100_000));
    assert_eq!(found, repository.join("snapshots").join(COMMIT).join(MODEL));
    assert_eq!(
        fs::read_to_string(repository.join("refs/refs/pr/1")).unwrap(),
        COMMIT
    );
    assert!(repository.join("blobs").join(&etag).is_file());
    assert!(
        cache
            .path()
            .join(format!(".locks/models--o--n/{etag}.lock"))
            .exists()
    );
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(&found).unwrap(),
        Path::new("../../blobs").join(etag)
    );
    let names = |folder: &Path| fs::read_dir(folder).unwrap().count();
    assert_eq!(
        (names(&repository), names(&repository.join("blobs"))),
        (3, 1)
    );
}

#[test]
fn a_cache_that_python_wrote_is_read() {
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--o--n");
    for folder in ["blobs", "refs", &format!("snapshots/{COMMIT}")] {
        fs::create_dir_all(repository.join(folder)).unwrap();
    }
    fs::write(repository.join("blobs/abc"), weights(10)).unwrap();
    fs::write(repository.join("refs/main"), COMMIT).unwrap();
    let link = repository.join(format!("snapshots/{COMMIT}/{MODEL}"));
    #[cfg(unix)]
    std::os::unix::fs::symlink("../../blobs/abc", &link).unwrap();
    #[cfg(not(unix))]
    fs::copy(repository.join("blobs/abc"), &link).unwrap();
    let found = offline(&cache).weights(&path("hf:o/n")).unwrap();
    assert_eq!(fs::read(found).unwrap(), weights(10));
    // Nobody answers at this address either: a commit needs no one.
    let hub = Hub::new(settings("http://127.0.0.1:9", &cache)).unwrap();
    assert!(hub.weights(&path("hf:o/n").with_revision(COMMIT)).is_ok());
}

#[test]
fn offline_without_the_file_says_where_it_was_looked_for() {
    let cache = tempfile::tempdir().unwrap();
    let error = fails(&offline(&cache), &cache, "hf:o/n");
    for part in ["hf:o/n", "HF_HUB_OFFLINE", "models--o--n"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_hub_that_cannot_be_reached_is_an_error_only_without_the_file() {
    let cache = tempfile::tempdir().unwrap();
    let dead = Hub::new(settings("http://127.0.0.1:9", &cache)).unwrap();
    let error = fails(&dead, &cache, "hf:o/n");
    assert!(
        error.contains("http://127.0.0.1:9") && error.contains("HF_ENDPOINT"),
        "{error}"
    );
    let hub = MockHub::of(model());
    let found = client(&hub, &cache).weights(&path("hf:o/n")).unwrap();
    assert_eq!(dead.weights(&path("hf:o/n")).unwrap(), found);
    assert_eq!(dead.list(&path("hf:o/n")).unwrap().files, [MODEL]);
}

#[test]
fn redirects_are_followed_and_the_token_stays_with_the_hub() {
    let (repository, cache) = (model(), tempfile::tempdir().unwrap());
    let port = Arc::new(AtomicUsize::new(0));
    let own = port.clone();
    // The repository was renamed, and its large files lie elsewhere: the same server under another name.
    let hub = MockHub::start(move |request| match request.path.strip_prefix("/storage") {
        Some(rest) if request.host.starts_with("localhost") => repository.answer(&Request {
            path: rest.to_owned(),
            ..request.clone()
        }),
        None if request.path.starts_with("/o/n/") => {
            Reply::new(307, "").with("Location", request.path.replacen("/o/n/", "/new/name/", 1))
        }
        _ => {
            let to = format!(
                "http://localhost:{}/storage{}",
                own.load(Ordering::SeqCst),
                request.path
            );
            let bytes = weights(100_000);
            Reply::new(302, "")
                .with("Location", to)
                .with("X-Repo-Commit", COMMIT)
                .with("X-Linked-ETag", format!("\"{}\"", sha256(&bytes)))
                .with("X-Linked-Size", bytes.len())
        }
    });
    port.store(hub.port.into(), Ordering::SeqCst);
    let mut settings = settings(&hub.endpoint, &cache);
    settings.token = Some("secret".to_owned());
    let found = Hub::new(settings)
        .unwrap()
        .weights(&path("hf:o/n"))
        .unwrap();
    assert_eq!(fs::read(found).unwrap(), weights(100_000));
    let requests = hub.take();
    let seen: Vec<(&str, bool, bool)> = requests
        .iter()
        .map(|request| {
            let at_hub = request.host.starts_with("127.");
            (
                request.method.as_str(),
                at_hub,
                request.token.as_deref() == Some("secret"),
            )
        })
        .collect();
    let at_hub = |method| [(method, true, true), (method, true, true)];
    let mut expected = at_hub("HEAD").to_vec();
    if by_hf_hub() {
        expected.extend(at_hub("HEAD"));
        expected.push(("HEAD", false, false));
    }
    expected.extend(at_hub("GET"));
    expected.push(("GET", false, false));
    assert_eq!(seen, expected);
}

#[test]
fn the_token_goes_to_no_other_port_and_is_not_said_again() {
    let cache = tempfile::tempdir().unwrap();
    // It answers like a Hub, and keeps what it is told.
    let thief = MockHub::of(model());
    let to = thief.endpoint.clone();
    let hub = MockHub::start(move |request| {
        Reply::new(302, "").with("Location", format!("{to}{}", request.path))
    });
    let mut settings = settings(&hub.endpoint, &cache);
    settings.token = Some("hf_secret".to_owned());
    let found = Hub::new(settings.clone()).unwrap();
    found.weights(&path("hf:o/n")).unwrap();
    found.list(&path("hf:o/n")).unwrap();
    assert!(hub.take().iter().all(|request| request.token.is_some()));
    let stolen = thief.take();
    assert!(stolen.len() > 2 && stolen.iter().all(|request| request.token.is_none()));
    // A server that repeats it, and an address with a password.
    let echo = MockHub::start(|request| {
        let said = format!("no {}", request.token.as_deref().unwrap_or_default());
        Reply::new(403, "").with("X-Error-Message", said)
    });
    settings.endpoint = echo.endpoint.replace("//", "//me:pass@");
    let other = tempfile::tempdir().unwrap();
    settings.cache = other.path().to_owned();
    let error = fails(&Hub::new(settings).unwrap(), &other, "hf:o/n");
    assert!(
        !error.contains("hf_secret") && !error.contains("pass@"),
        "{error}"
    );
}

#[test]
fn what_cannot_pass_is_not_tried_again() {
    let cache = tempfile::tempdir().unwrap();
    for location in ["file:///etc/passwd", "ftp://there/x", "/again", ""] {
        let hub = MockHub::start(move |_| Reply::new(302, "").with("Location", location));
        let error = fails(&client(&hub, &cache), &cache, "hf:o/n/model.safetensors");
        assert!(error.contains("redirect"), "{error}");
        assert!(hub.requests().len() <= 11, "{location}");
    }
}

#[test]
fn who_may_not_read_is_told_what_to_set() {
    let private = |request: &Request| match request.token.as_deref() {
        Some("good") => model().answer(request),
        _ => Reply::new(401, "").with("X-Error-Message", "Invalid username or password."),
    };
    let (hub, cache) = (MockHub::start(private), tempfile::tempdir().unwrap());
    let error = fails(&client(&hub, &cache), &cache, "hf:o/n");
    for part in ["401", "Invalid username", "HF_TOKEN", "settings/tokens"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(hub.requests().len(), 1, "a refusal is final");
    let with = |token: &str| {
        let mut settings = settings(&hub.endpoint, &cache);
        settings.token = Some(token.to_owned());
        Hub::new(settings).unwrap()
    };
    let error = fails(&with("bad"), &cache, "hf:o/n");
    assert!(error.contains("not valid"), "{error}");
    assert!(with("good").weights(&path("hf:o/n")).is_ok());
}

#[test]
fn gated_repositories_are_told_by_their_page() {
    let gated = |_: &Request| Reply::new(403, "").with("X-Error-Code", "GatedRepo");
    let (hub, cache) = (MockHub::start(gated), tempfile::tempdir().unwrap());
    let error = fails(&client(&hub, &cache), &cache, "hf:o/n");
    assert!(error.contains(&format!("{}/o/n", hub.endpoint)), "{error}");
}

#[test]
fn a_refusal_after_good_metadata_is_no_file() {
    let repository = model();
    let hub = MockHub::start(move |request| match request.method.as_str() {
        "HEAD" => repository.answer(request),
        _ => Reply::new(403, r#"{"error":"Access to this resource is disabled."}"#),
    });
    let cache = tempfile::tempdir().unwrap();
    let client = client(&hub, &cache);
    for _ in 0..2 {
        let error = fails(&client, &cache, "hf:o/n");
        assert!(
            error.contains("403") && error.contains("is disabled"),
            "{error}"
        );
    }
}

#[test]
fn missing_files_are_answered_with_those_that_are_there() {
    let repository = Repository::default()
        .small("README.md", "text")
        .small("original/weights.pth", "bytes");
    let (hub, cache) = (MockHub::of(repository), tempfile::tempdir().unwrap());
    let client = client(&hub, &cache);
    let error = fails(&client, &cache, "hf:o/n");
    for part in [
        "model.safetensors, ",
        "original/weights.pth, README.md",
        "hf:owner/name/FILE",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let error = fails(&client, &cache, "hf:o/n/weights.pth");
    assert!(error.contains("no weights.pth at revision main"), "{error}");
    let found = client
        .weights(&path("hf:o/n/original/weights.pth"))
        .unwrap();
    assert_eq!(fs::read(found).unwrap(), b"bytes");
}

#[test]
fn without_a_name_the_usual_files_are_tried_in_order() {
    let index =
        r#"{"weight_map":{"a":"x-1.safetensors","b":"x-2.safetensors","c":"x-1.safetensors"}}"#;
    let sharded = Repository::default()
        .small("model.safetensors.index.json", index)
        .small("x-1.safetensors", weights(1))
        .small("x-2.safetensors", weights(2))
        .small("pytorch_model.bin", "zip");
    let (hub, cache) = (MockHub::of(sharded.clone()), tempfile::tempdir().unwrap());
    let found = client(&hub, &cache).weights(&path("hf:o/n")).unwrap();
    assert!(found.ends_with("model.safetensors.index.json"));
    for (name, length) in [("x-1.safetensors", 1), ("x-2.safetensors", 2)] {
        assert_eq!(
            fs::read(found.with_file_name(name)).unwrap(),
            weights(length)
        );
    }
    assert!(offline(&cache).weights(&path("hf:o/n")).is_ok());
    let mut old = sharded;
    old.0.remove("model.safetensors.index.json");
    let (hub, cache) = (MockHub::of(old), tempfile::tempdir().unwrap());
    let found = client(&hub, &cache).weights(&path("hf:o/n")).unwrap();
    assert!(found.ends_with("pytorch_model.bin"));
}

#[test]
fn an_index_cannot_name_files_outside_its_repository() {
    let index = r#"{"weight_map":{"a":"../../x"}}"#;
    let repository = Repository::default()
        .small("model.safetensors.index.json", index)
        .small("../../x", "bytes");
    let (hub, cache) = (MockHub::of(repository), tempfile::tempdir().unwrap());
    let error = client(&hub, &cache).weights(&path("hf:o/n")).unwrap_err();
    assert!(
        error.to_string().contains("not a path inside a repository"),
        "{error}"
    );
    assert!(
        hub.requests()
            .iter()
            .all(|request| !request.ends_with("/x"))
    );
}

#[test]
fn a_busy_hub_is_asked_again_when_it_says() {
    let (repository, asked) = (model(), AtomicUsize::new(0));
    let hub = MockHub::start(move |request| match asked.fetch_add(1, Ordering::SeqCst) {
        0 | 2 => Reply::new(429, "").with("Retry-After", 0),
        4 => Reply::new(503, ""),
        _ => repository.answer(request),
    });
    let cache = tempfile::tempdir().unwrap();
    assert!(client(&hub, &cache).weights(&path("hf:o/n")).is_ok());
    let count = if by_hf_hub() { 7 } else { 4 };
    assert_eq!(hub.requests().len(), count);

    let hub = MockHub::start(|_| Reply::new(429, "").with("Retry-After", 100_000));
    let cache = tempfile::tempdir().unwrap();
    let error = fails(&client(&hub, &cache), &cache, "hf:o/n");
    assert!(
        error.contains("429") && error.contains("100000 s"),
        "{error}"
    );
    assert_eq!(hub.requests().len(), 1);

    let hub = MockHub::start(|_| Reply::new(500, ""));
    let error = fails(&client(&hub, &cache), &cache, "hf:o/n");
    assert!(error.contains("500"), "{error}");
    assert_eq!(hub.requests().len(), 5);
}

#[test]
fn broken_downloads_go_on_where_they_ended() {
    let (repository, cuts) = (model(), AtomicUsize::new(0));
    let hub = MockHub::start(move |request| {
        let mut reply = repository.answer(request);
        if request.method == "GET" && cuts.fetch_add(1, Ordering::SeqCst) < 2 {
            reply.cut = Some(reply.body.len() / 2);
        }
        reply
    });
    let cache = tempfile::tempdir().unwrap();
    let found = client(&hub, &cache).weights(&path("hf:o/n")).unwrap();
    let whole = weights(100_000);
    assert_eq!(fs::read(found).unwrap(), whole);
    let starts: Vec<_> = hub
        .take()
        .into_iter()
        .filter(|r| r.method == "GET")
        .map(|r| r.start)
        .collect();
    let half = whole.len() / 2;
    assert_eq!(
        starts,
        [None, Some(half), Some(half + (whole.len() - half) / 2)]
    );
}

#[test]
fn a_later_process_goes_on_too() {
    let (hub, cache) = (MockHub::of(model()), tempfile::tempdir().unwrap());
    let blobs = cache.path().join("models--o--n/blobs");
    let whole = weights(100_000);
    fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{}.incomplete", sha256(&whole)));
    fs::write(&part, &whole[..777]).unwrap();
    let found = client(&hub, &cache).weights(&path("hf:o/n")).unwrap();
    assert_eq!(fs::read(found).unwrap(), whole);
    let requests = hub.take();
    let get = requests.iter().find(|request| request.method == "GET");
    assert_eq!(get.unwrap().start, Some(777));
    assert!(!part.exists());
}

#[test]
fn a_server_without_ranges_starts_anew() {
    let repository = model();
    let hub = MockHub::start(move |request| {
        repository.answer(&Request {
            start: None,
            ..request.clone()
        })
    });
    let cache = tempfile::tempdir().unwrap();
    let blobs = cache.path().join("models--o--n/blobs");
    let whole = weights(100_000);
    fs::create_dir_all(&blobs).unwrap();
    fs::write(
        blobs.join(format!("{}.incomplete", sha256(&whole))),
        "other",
    )
    .unwrap();
    let found = client(&hub, &cache).weights(&path("hf:o/n")).unwrap();
    assert_eq!(fs::read(found).unwrap(), whole);
}

#[test]
fn files_of_a_wrong_length_or_content_are_removed() {
    let repository = model();
    let (mut short, mut other) = (repository.clone(), repository.clone());
    short.0.get_mut(MODEL).unwrap().0.truncate(100);
    other.0.get_mut(MODEL).unwrap().0[99_999] ^= 1;
    for (wrong, part) in [(short, "has 100 bytes"), (other, "SHA-256")] {
        let right = repository.clone();
        let hub = MockHub::start(move |request| match request.method.as_str() {
            "HEAD" => right.answer(request),
            _ => wrong.answer(request),
        });
        let cache = tempfile::tempdir().unwrap();
        let error = fails(&client(&hub, &cache), &cache, "hf:o/n");
        assert!(
            error.contains(part) && error.contains("it was removed"),
            "{error}"
        );
        assert_eq!(
            fs::read_dir(cache.path().join("models--o--n/blobs"))
                .unwrap()
                .count(),
            0
        );
        let requests = hub.requests().into_iter();
        let gets = requests.filter(|request| request.starts_with("GET"));
        assert_eq!(gets.count(), 1);
    }
}

#[test]
fn small_files_are_compared_with_gits_hash() {
    let right = Repository::default().small("config.json", r#"{"a": 1}"#);
    let mut wrong = right.clone();
    wrong.0.get_mut("config.json").unwrap().0[6] = b'2';
    let cache = tempfile::tempdir().unwrap();
    let hub = MockHub::of(wrong);
    let error = fails(&client(&hub, &cache), &cache, "hf:o/n/config.json");
    assert!(
        error.contains("git hash") && error.contains("it was removed"),
        "{error}"
    );
    let hub = MockHub::of(right);
    let found = client(&hub, &cache).file(&path("hf:o/n/config.json"));
    assert_eq!(fs::read(found.unwrap()).unwrap(), br#"{"a": 1}"#);
}

#[test]
#[cfg(unix)]
fn what_no_disk_can_hold_is_not_begun() {
    let repository = model();
    let hub = MockHub::start(move |request| {
        let mut reply = repository.answer(request);
        reply.promised = Some(1 << 60);
        reply
    });
    let cache = tempfile::tempdir().unwrap();
    let error = fails(&client(&hub, &cache), &cache, "hf:o/n/model.safetensors");
    for part in ["has room for only", "1152921504606846976", "HF_HUB_CACHE"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(
        hub.requests()
            .iter()
            .all(|request| request.starts_with("HEAD"))
    );
}

#[test]
fn a_download_without_progress_is_given_up() {
    let repository = model();
    let hub = MockHub::start(move |request| {
        let mut reply = repository.answer(request);
        reply.pause = Some(Duration::from_millis(50));
        reply
    });
    let cache = tempfile::tempdir().unwrap();
    let mut settings = settings(&hub.endpoint, &cache);
    settings.longest_stall = Duration::from_secs(1);
    let start = Instant::now();
    let error = fails(&Hub::new(settings).unwrap(), &cache, "hf:o/n");
    assert!(error.contains("bytes arrived in 0.5 s"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(20));
    // A second connection was tried, and continued.
    let requests = hub.take();
    let gets: Vec<_> = requests.iter().filter(|r| r.method == "GET").collect();
    assert_eq!(gets.len(), 2);
    assert!(gets[1].start.is_some());
}

#[test]
fn weights_without_a_header_are_removed() {
    // Its length and its hash are as announced, so only its own format tells.
    let repository = Repository::default().small(MODEL, "<html>please log in</html>");
    let (hub, cache) = (MockHub::of(repository), tempfile::tempdir().unwrap());
    let error = fails(&client(&hub, &cache), &cache, "hf:o/n");
    assert!(error.contains("safetensors header"), "{error}");
}

#[test]
fn what_another_program_spoilt_is_downloaded_again() {
    let (hub, cache) = (MockHub::of(model()), tempfile::tempdir().unwrap());
    let client = client(&hub, &cache);
    let found = client.weights(&path("hf:o/n")).unwrap();
    let blob = cache
        .path()
        .join("models--o--n/blobs")
        .join(sha256(&weights(100_000)));
    for revision in ["main", COMMIT] {
        fs::write(&blob, r#"{"error":"Access denied"}"#).unwrap();
        let error = offline(&cache)
            .weights(&path("hf:o/n"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("damaged"), "{error}");
        assert_eq!(
            client
                .weights(&path("hf:o/n").with_revision(revision))
                .unwrap(),
            found
        );
        assert_eq!(fs::read(&found).unwrap(), weights(100_000));
    }
}

#[test]
fn who_comes_second_waits_for_the_first() {
    let repository = model();
    let hub = MockHub::start(move |request| {
        if request.method == "GET" {
            std::thread::sleep(Duration::from_millis(100));
        }
        repository.answer(request)
    });
    let cache = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let found = client(&hub, &cache).weights(&path("hf:o/n")).unwrap();
                assert_eq!(fs::read(found).unwrap(), weights(100_000));
            });
        }
    });
    let gets = hub
        .take()
        .into_iter()
        .filter(|request| request.method == "GET");
    assert_eq!(gets.count(), 1);
}

#[test]
fn observers_see_a_download_grow_to_its_end() {
    let (hub, cache) = (MockHub::of(model()), tempfile::tempdir().unwrap());
    let seen = Arc::new(Mutex::new(vec![]));
    let note = seen.clone();
    let client = client(&hub, &cache).observed(Arc::new(move |transfer: &Transfer<'_>| {
        assert_eq!(transfer.file, "hf:o/n/model.safetensors");
        note.lock().unwrap().push((transfer.done, transfer.size));
    }));
    client.weights(&path("hf:o/n")).unwrap();
    let size = weights(100_000).len() as u64;
    let seen = seen.lock().unwrap();
    assert!(seen.is_sorted() && seen.iter().all(|(_, whole)| *whole == size));
    assert_eq!((seen[0].0, seen[seen.len() - 1].0), (0, size));
    assert_eq!(seen.iter().filter(|(done, _)| *done == size).count(), 1);
}

/// A Hub that keeps `repository` in Xet.
fn in_xet(repository: Repository) -> MockHub {
    MockHub::start(move |request| xet::answer(&repository, request))
}

#[test]
fn files_in_xet_come_from_there_if_the_transport_can() {
    let (hub, cache) = (in_xet(model()), tempfile::tempdir().unwrap());
    let mut settings = settings(&hub.endpoint, &cache);
    settings.token = Some("secret".to_owned());
    let client = Hub::new(settings).unwrap();
    let found = client.weights(&path("hf:o/n")).unwrap();
    assert_eq!(fs::read(found).unwrap(), weights(100_000));
    // hf-xet's report about a download would come after it.
    std::thread::sleep(Duration::from_secs(1));
    let requests = hub.take();
    let from_xet = requests
        .iter()
        .any(|request| request.path.starts_with("/chunk/"));
    assert_eq!(from_xet, by_hf_hub());
    assert!(
        !requests
            .iter()
            .any(|request| request.path.contains("telemetry"))
    );
    for request in requests {
        let token = match request.path.split('/').nth(1) {
            Some("xet") => Some(xet::TOKEN),
            Some("chunk") => None,
            _ => Some("secret"),
        };
        assert_eq!(request.token.as_deref(), token, "{}", request.path);
    }
}

#[test]
fn downloads_from_xet_go_on_where_they_ended() {
    let (hub, cache) = (in_xet(model()), tempfile::tempdir().unwrap());
    let blobs = cache.path().join("models--o--n/blobs");
    let whole = weights(100_000);
    fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{}.incomplete", sha256(&whole)));
    fs::write(part, &whole[..777]).unwrap();
    let found = client(&hub, &cache).weights(&path("hf:o/n")).unwrap();
    assert_eq!(fs::read(found).unwrap(), whole);
    let requests = hub.take();
    let asked = match by_hf_hub() {
        true => "/xet/v1/",
        false => "/storage/",
    };
    let got = requests
        .iter()
        .find(|request| request.method == "GET" && request.path.starts_with(asked));
    assert_eq!(got.unwrap().start, Some(777));
}

#[test]
fn wrong_bytes_from_xet_are_removed() {
    let mut wrong = model();
    wrong.0.get_mut(MODEL).unwrap().0[99_999] ^= 1;
    let (hub, cache) = (in_xet(wrong), tempfile::tempdir().unwrap());
    let error = fails(&client(&hub, &cache), &cache, "hf:o/n");
    assert!(
        error.contains("SHA-256") && error.contains("it was removed"),
        "{error}"
    );
}

#[test]
fn a_broken_xet_is_an_error_that_names_the_other_way() {
    let repository = model();
    let hub = MockHub::start(move |request| match request.path.starts_with("/xet/") {
        true => Reply::new(403, ""),
        false => xet::answer(&repository, request),
    });
    let cache = tempfile::tempdir().unwrap();
    let client = client(&hub, &cache);
    if by_hf_hub() {
        let error = fails(&client, &cache, "hf:o/n");
        assert!(error.contains("MIM_HUB_TRANSPORT=own"), "{error}");
    } else {
        assert!(client.weights(&path("hf:o/n")).is_ok());
    }
}

#[test]
fn settings_alone_decide_about_the_token() {
    const CHILD: &str = "MIM_TEST_STRAY_TOKEN";
    if std::env::var_os(CHILD).is_none() {
        // A process of its own, with a token in its environment.
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "settings_alone_decide_about_the_token"])
            .envs([(CHILD, "1"), ("HF_TOKEN", "stray")])
            .status();
        assert!(status.unwrap().success());
        return;
    }
    for hub in [MockHub::of(model()), in_xet(model())] {
        let cache = tempfile::tempdir().unwrap();
        assert!(client(&hub, &cache).weights(&path("hf:o/n")).is_ok());
        let requests = hub.take().into_iter();
        let tokens: Vec<_> = requests.filter_map(|request| request.token).collect();
        assert!(!tokens.contains(&"stray".to_owned()), "{tokens:?}");
    }
}
