//! Tokenizers in other methods: their runs, files of their weights, and what is refused.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use common::{Few, StopAfter, Tiny, images, tiny};
use mim_core::data::{Dataset, LoaderConfig};
use mim_core::train::{Checkpoint, TrainConfig, Trainer};
use mim_core::weights::WeightMap;
use mim_core::{StepContext, Tokenizer};
use mim_methods::{TokenizerConfig, TokensConfig};

/// A run of one step.
fn trained(tiny: &Tiny, run: &Path) -> Trainer {
    let data: Arc<dyn Dataset> = Arc::new(Few::new(8));
    let loading = LoaderConfig {
        workers: 0,
        ..LoaderConfig::default()
    };
    let train = TrainConfig {
        epochs: 1,
        batch_size: 4,
        lr: Some(1e-3),
        ..TrainConfig::default()
    };
    let mut trainer = Trainer::new(tiny.build(5), (data, loading), train, run)
        .unwrap()
        .settings(serde_json::to_value(tiny.resolved()).unwrap());
    trainer.train(&mut StopAfter(1)).unwrap();
    trainer
}

fn tokens_of(tokenizer: &dyn Tokenizer, images: &Tensor) -> Vec<u32> {
    let tokens = tokenizer.tokens(images, &StepContext::inference()).unwrap();
    tokens.flatten_all().unwrap().to_vec1().unwrap()
}

fn opened(checkpoint: &Path) -> mim_core::Result<Box<dyn Tokenizer>> {
    let config = TokensConfig {
        checkpoint: checkpoint.to_str().unwrap().to_owned(),
        ..TokensConfig::default()
    };
    config.open(&Device::Cpu)
}

#[test]
fn runs_of_tokenizers_make_their_tokens() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["vqkd", "peco_tokenizer", "dvae"] {
        let run = dir.path().join(name);
        let trainer = trained(&tiny(name), &run);
        let method = trainer.method();
        let pixels = images(method).view(0).unwrap().unit().unwrap();
        let own = method.tokenizer().unwrap();
        let again = opened(&run).unwrap();
        assert_eq!(
            (again.vocab_size(), again.stride(), again.channels()),
            (own.vocab_size(), own.stride(), own.channels()),
            "{name}"
        );
        assert_eq!(
            tokens_of(&again, &pixels),
            tokens_of(own, &pixels),
            "{name}"
        );
        assert_eq!(again.has_logits(), name == "dvae");
    }
}

#[test]
fn a_run_that_trains_no_tokenizer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    trained(&tiny("mae"), dir.path());
    let Err(error) = opened(dir.path()) else {
        panic!("MAE has no tokens");
    };
    let error = error.to_string();
    assert!(
        error.contains("mae trains no tokenizer") && error.contains("--method vqkd"),
        "{error}"
    );
}

#[test]
fn files_of_weights_load_and_another_codebook_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let trainer = trained(&tiny("peco_tokenizer"), &run);
    let checkpoint = Checkpoint::latest(&run).unwrap().unwrap();
    let weights: WeightMap = checkpoint.weights("student").unwrap();
    let file = dir.path().join("tokenizer.safetensors");
    weights.write(&file, None).unwrap();
    let open = |size: usize| {
        let network = tiny("peco_tokenizer").resolved()["network"].clone();
        let mut network: toml::Table = network.try_into().unwrap();
        network.insert("type".to_owned(), "peco".into());
        network["codebook"]["size"] = i64::try_from(size).unwrap().into();
        let network: TokenizerConfig = network.try_into().unwrap();
        let config = TokensConfig {
            checkpoint: file.to_str().unwrap().to_owned(),
            source: "mae".to_owned(),
            network,
            ..TokensConfig::default()
        };
        config.open(&Device::Cpu)
    };
    let pixels = images(trainer.method()).view(0).unwrap().unit().unwrap();
    let own = trainer.method().tokenizer().unwrap();
    assert_eq!(
        tokens_of(&open(8).unwrap(), &pixels),
        tokens_of(own, &pixels)
    );
    let Err(error) = open(16) else {
        panic!("the file has 8 codes");
    };
    let error = error.to_string();
    assert!(
        error.contains("16 codes") && error.contains("[8, 4]"),
        "{error}"
    );
}
