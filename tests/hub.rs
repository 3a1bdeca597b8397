//! The program and a Hub on this machine.

#![cfg(all(feature = "cli", feature = "hub"))]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../mim-core/tests/mock_hub/mod.rs"]
mod mock_hub;

use std::path::Path;
use std::process::{Command, Output};

use mim::prelude::*;
use mock_hub::{MockHub, Repository};

fn weights() -> Vec<u8> {
    let file = tempfile::NamedTempFile::with_suffix(".safetensors").unwrap();
    let mut weights = WeightMap::default();
    let tensor = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    weights.insert("patch_embed.proj.weight", tensor);
    weights.write(file.path(), None).unwrap();
    std::fs::read(file.path()).unwrap()
}

fn mim(hub: &MockHub, home: &Path, args: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mim"))
        .args(args)
        .env("CUDA_VISIBLE_DEVICES", "")
        .env("HF_ENDPOINT", &hub.endpoint)
        .env("HF_HOME", home)
        .env("HF_TOKEN", "secret")
        .env_remove("HF_HUB_CACHE")
        .env_remove("HF_HUB_OFFLINE")
        .env_remove("HF_HUB_DISABLE_IMPLICIT_TOKEN")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, error)
}

#[test]
fn info_shows_weights_of_the_hub() {
    let hub = MockHub::of(Repository::default().small("model.safetensors", weights()));
    let home = tempfile::tempdir().unwrap();
    let (output, error) = mim(&hub, home.path(), &["info", "hf:o/n"]);
    assert!(output.status.success(), "{error}");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        shown.contains("patch_embed.proj.weight") && shown.contains("[2, 3]"),
        "{shown}"
    );
    assert!(
        error.contains("downloading hf:o/n/model.safetensors"),
        "{error}"
    );
    assert!(home.path().join("hub/models--o--n/refs/main").exists());
    assert!(
        hub.take()
            .iter()
            .all(|request| request.token.as_deref() == Some("secret"))
    );
    let (_, error) = mim(&hub, home.path(), &["info", "hf:o/n"]);
    assert_eq!(error, "", "nothing is downloaded twice");
}

#[test]
fn teachers_and_their_weights_come_from_the_hub() {
    let hub = MockHub::of(Repository::default().small("model.safetensors", weights()));
    let home = tempfile::tempdir().unwrap();
    let run = home.path().join("run");
    let run = run.to_str().unwrap();
    let teacher = [
        "pretrain",
        "--method",
        "milan",
        "--output-dir",
        run,
        "--set",
    ];
    for (checkpoint, expected) in [
        // It arrives, and is not CLIP.
        ("target.checkpoint=hf:o/n", "the weights do not fit"),
        (
            "target.checkpoint=hf:o/n/other.safetensors",
            "its files are model.safetensors",
        ),
        ("target.checkpoint=hf:o", "hf:owner/name"),
    ] {
        let mut args = teacher.to_vec();
        args.push(checkpoint);
        let (output, error) = mim(&hub, home.path(), &args);
        assert!(
            !output.status.success() && error.contains(expected),
            "{error}"
        );
    }
    assert!(home.path().join("hub/models--o--n/snapshots").exists());
}

#[test]
fn two_processes_download_a_file_once() {
    let repository = Repository::default().small("model.safetensors", weights());
    let hub = MockHub::start(move |request| {
        if request.method == "GET" {
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        repository.answer(request)
    });
    let home = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let (output, error) = mim(&hub, home.path(), &["info", "hf:o/n"]);
                assert!(output.status.success(), "{error}");
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
fn weights_of_the_hub_are_converted_and_published_names_lead_there() {
    let hub = MockHub::of(Repository::default().small("model.safetensors", weights()));
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out.safetensors");
    let convert = ["convert", "--from", "timm", "hf:o/n", out.to_str().unwrap()];
    let (output, error) = mim(&hub, home.path(), &convert);
    assert!(output.status.success(), "{error}");
    assert_eq!(WeightMap::read(&out).unwrap().len(), 1);

    let run = home.path().join("run");
    let init = [
        "pretrain",
        "--output-dir",
        run.to_str().unwrap(),
        "--init",
        "zoo:mae_base_timm",
    ];
    let (output, error) = mim(&hub, home.path(), &init);
    assert!(
        !output.status.success() && error.contains("patch_embed.proj.weight: the model has"),
        "{error}"
    );
    let asked = hub.requests().join("\n");
    assert!(asked.contains("/timm/vit_base_patch16_224.mae/resolve/main/model.safetensors"));
}

/// A SOCKS 5 proxy that leads to `hub`, whatever it is asked for; its port, and the names that it is asked for.
#[cfg(feature = "hf-hub")]
fn socks(hub: &MockHub) -> (u16, std::sync::mpsc::Receiver<String>) {
    use std::io::{self, Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    fn pass(mut from: &TcpStream, mut to: &TcpStream) {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    }
    let (listener, port) = (TcpListener::bind("127.0.0.1:0").unwrap(), hub.port);
    let own = listener.local_addr().unwrap().port();
    let (sender, names) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let client = client.unwrap();
                let read = |count: usize| {
                    let mut bytes = vec![0; count];
                    (&client).read_exact(&mut bytes).unwrap();
                    bytes
                };
                // Version, and how many ways to prove who one is.
                let greeting = read(2);
                read(greeting[1].into());
                (&client).write_all(&[5, 0]).unwrap();
                // Version, connect, nothing, a name follows.
                assert_eq!(read(4), [5, 1, 0, 3]);
                let length = read(1)[0];
                let name = read(length.into());
                read(2);
                (&client)
                    .write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
                    .unwrap();
                sender.send(String::from_utf8(name).unwrap()).unwrap();
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                std::thread::scope(|scope| {
                    scope.spawn(|| pass(&client, &server));
                    pass(&server, &client);
                });
            });
        }
    });
    (own, names)
}

#[test]
#[cfg(feature = "hf-hub")]
fn a_socks_proxy_leads_to_the_hub() {
    for by in ["hf-hub", "own"] {
        let hub = MockHub::of(Repository::default().small("model.safetensors", weights()));
        let home = tempfile::tempdir().unwrap();
        let (port, names) = socks(&hub);
        let output = Command::new(env!("CARGO_BIN_EXE_mim"))
            .args(["info", "hf:o/n"])
            .env("CUDA_VISIBLE_DEVICES", "")
            .env("HF_ENDPOINT", "http://hub.invalid")
            .env("HF_HOME", home.path())
            .env("MIM_HUB_TRANSPORT", by)
            .env("ALL_PROXY", format!("socks5h://127.0.0.1:{port}"))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{by}: {error}");
        assert!(names.try_iter().all(|name| name == "hub.invalid"));
        assert!(hub.requests().len() > 1);
    }
}

#[test]
fn an_unknown_transport_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mim"))
        .args(["info", "hf:o/n"])
        .env("HF_HOME", home.path())
        .env("MIM_HUB_TRANSPORT", "pigeon")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        error.contains("pigeon") && error.contains("own or hf-hub"),
        "{error}"
    );
}
