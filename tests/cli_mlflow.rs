//! `--log mlflow:URL`, against a server that answers as MLflow does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "hub")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

const CONFIG: &str = "method = \"mae\"\nencoder = { image_size = 16, patch_size = 8, embed_dim = 8, depth = 1, \
    num_heads = 2 }\ndecoder = { embed_dim = 8, depth = 1, num_heads = 2 }\nviews = { shared = [{ type = \
    \"random_resized_crop\", size = \"image_size\" }] }\n[data]\nworkers = 0\n[train]\nepochs = 2\nbatch_size = 500\n\
    lr = 1e-3\n";

/// Standard error of a run with these options, which must succeed.
fn pretrain(dir: &Path, more: &[&str]) -> String {
    fs::write(dir.join("c.toml"), CONFIG).unwrap();
    let args = [
        "pretrain",
        "--config",
        "c.toml",
        "--no-eval",
        "--output-dir",
        "run",
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_mim"));
    command.env("CUDA_VISIBLE_DEVICES", "");
    let output = command
        .args(args)
        .args(more)
        .current_dir(dir)
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{more:?}\n{err}");
    err
}

/// A server, and what it is asked: the path and the body. The first `down` requests for batches fail.
fn server(mut down: usize) -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mlflow:http://{}/", listener.local_addr().unwrap());
    let (asked, requests) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut first, mut length) = (String::new(), 0);
            stream.read_line(&mut first).unwrap();
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                if line.trim().is_empty() {
                    break;
                }
                let line = line.to_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let path = first.split(' ').nth(1).unwrap().to_owned();
            let path = path.strip_prefix("/api/2.0/mlflow/").unwrap().to_owned();
            let (status, answer) = match path.as_str() {
                "experiments/get-by-name?experiment_name=tiny" => (
                    "404 Not Found",
                    json!({ "error_code": "RESOURCE_DOES_NOT_EXIST" }),
                ),
                "experiments/create" => ("200 OK", json!({ "experiment_id": "7" })),
                "runs/create" => ("200 OK", json!({ "run": { "info": { "run_id": "abc" } } })),
                "runs/log-batch" if down > 0 => {
                    down -= 1;
                    ("503 Service Unavailable", json!("busy"))
                }
                _ => ("200 OK", json!({})),
            };
            let answer = answer.to_string();
            let length = answer.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            stream
                .get_mut()
                .write_all((head + &answer).as_bytes())
                .unwrap();
            asked
                .send((path, serde_json::from_slice(&body).unwrap_or_default()))
                .unwrap();
        }
    });
    (url, requests)
}

/// Everything of one kind that was sent: parameters or metrics.
fn sent(requests: &[(String, Value)], kind: &str) -> Vec<Value> {
    let lists = requests
        .iter()
        .filter_map(|(_, body)| body[kind].as_array());
    lists.flatten().cloned().collect()
}

#[test]
fn a_run_is_an_mlflow_run_with_settings_figures_and_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let (url, requests) = server(0);
    let err = pretrain(dir.path(), &["--log", &url, "--log-experiment", "tiny"]);
    assert!(!err.contains("training goes on without"), "{err}");
    let all: Vec<_> = requests.try_iter().collect();
    let of = |path: &str| -> Vec<&Value> {
        all.iter()
            .filter(|(asked, _)| asked == path)
            .map(|(_, body)| body)
            .collect()
    };
    assert_eq!(of("experiments/create"), [&json!({ "name": "tiny" })]);
    assert_eq!(of("runs/create")[0]["experiment_id"], "7");
    assert_eq!(of("runs/create")[0]["run_name"], "run");
    let params = sent(&all, "params");
    assert!(
        params.contains(&json!({ "key": "train.batch_size", "value": "500" })),
        "{params:?}"
    );
    let metrics = sent(&all, "metrics");
    let loss: Vec<_> = metrics
        .iter()
        .filter(|metric| metric["key"] == "loss")
        .collect();
    let steps: Vec<_> = loss
        .iter()
        .map(|metric| metric["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [2, 4]);
    let log = fs::read_to_string(dir.path().join("run/log.jsonl")).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(loss[1]["value"], last["train_loss"]);
    for wanted in ["terms.pixel", "final.final_loss"] {
        assert!(
            metrics.iter().any(|metric| metric["key"] == wanted),
            "{wanted}"
        );
    }
    let end = of("runs/update");
    assert_eq!((end.len(), &end[0]["status"]), (1, &json!("FINISHED")));
    // A run that is trained further goes on with the run of the server.
    pretrain(
        dir.path(),
        &["--log", &url, "--resume", "auto", "--epochs", "3"],
    );
    let more: Vec<_> = requests.try_iter().collect();
    assert!(!more.iter().any(|(path, _)| path == "runs/create"));
    let status = more.iter().filter_map(|(_, body)| body["status"].as_str());
    assert_eq!(status.collect::<Vec<_>>(), ["RUNNING", "FINISHED"]);
    assert!(more.iter().all(|(_, body)| body["run_id"] == "abc"));
}

#[test]
fn a_server_that_is_gone_or_busy_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mlflow:http://{}", free.local_addr().unwrap());
    drop(free);
    let err = pretrain(dir.path(), &["--log", &url]);
    assert_eq!(err.matches("training goes on without").count(), 1, "{err}");
    assert!(
        err.contains("requests to http://") && err.contains("did not arrive"),
        "{err}"
    );
    assert!(dir.path().join("run/summary.json").exists());
    // What a busy server refuses is sent again.
    let dir = tempfile::tempdir().unwrap();
    let (url, requests) = server(2);
    let err = pretrain(dir.path(), &["--log", &url, "--log-experiment", "tiny"]);
    assert!(
        err.contains("status 503") && err.contains("0 figures did not arrive"),
        "{err}"
    );
    let all: Vec<_> = requests.try_iter().collect();
    let steps = |all: &[(String, Value)]| {
        let loss = sent(all, "metrics")
            .into_iter()
            .filter(|metric| metric["key"] == "loss");
        loss.map(|metric| metric["step"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert!(steps(&all).ends_with(&[2, 4]), "{:?}", steps(&all));
    assert_eq!(
        all.iter().filter(|(path, _)| path == "runs/create").count(),
        1
    );
}

#[test]
fn other_trackers_are_refused() {
    for (log, wanted) in [
        ("wandb:x", "write mlflow:http"),
        ("mlflow:localhost", "write mlflow:http"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mim"));
        let output = command.args(["pretrain", "--log", log]).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert!(err.contains(wanted), "{err}");
    }
}
