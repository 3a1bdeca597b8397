//! Tokenizers and learned parts in other methods: their runs, files of their weights, and what is refused.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use common::{Few, StopAfter, Tiny, images, tiny};
use mim_core::data::{Dataset, LoaderConfig};
use mim_core::train::{Checkpoint, TrainConfig, Trainer};
use mim_core::weights::WeightMap;
use mim_core::{Batch, Method, StepContext, Tokenizer, TraceSink};
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

/// SemMAE with the parts of a run, and other settings on top of those of its tiny size.
fn semmae(run: &Path, more: &str) -> mim_core::Result<Box<dyn Method>> {
    let mut tiny = tiny("semmae");
    let text = format!("[parts]\ntype = \"learned\"\ncheckpoint = {run:?}\n{more}");
    tiny.settings.extend(text.parse::<toml::Table>().unwrap());
    tiny.entry().build(tiny.resolved(), &Device::Cpu, 5)
}

/// All intermediates.
#[derive(Default)]
struct Traces(Mutex<BTreeMap<String, Tensor>>);

impl TraceSink for Traces {
    fn record(&self, name: &str, value: &Tensor) -> mim_core::Result<()> {
        let mut all = self.0.lock().unwrap();
        all.insert(name.to_owned(), value.detach());
        Ok(())
    }
}

fn traced(method: &dyn Method, batch: &Batch, name: &str) -> Tensor {
    let sink = Arc::new(Traces::default());
    let step = StepContext {
        trace: Some(sink.clone()),
        ..StepContext::new(3)
    };
    method.forward(batch, &step).unwrap();
    let all = sink.0.lock().unwrap();
    all[name].clone()
}

#[test]
fn parts_that_a_run_has_learned_guide_semmae() {
    let dir = tempfile::tempdir().unwrap();
    let trainer = trained(&tiny("semmae_parts"), dir.path());
    let batch = images(trainer.method());
    let maps = traced(trainer.method(), &batch, "maps");
    let wanted = maps.argmax(2).unwrap().to_vec2::<u32>().unwrap();
    let parts = |method: &dyn Method| traced(method, &batch, "target.parts");
    let method = semmae(dir.path(), "").unwrap();
    let found = parts(method.as_ref()).to_vec2::<u32>().unwrap();
    assert_eq!(found, wanted);
    assert!(method.notes()[0].contains("come from the run"));
    // Of the most attended patches alone.
    let some = semmae(dir.path(), "retain = 5").unwrap();
    for row in parts(some.as_ref()).to_vec2::<u32>().unwrap() {
        assert_eq!(row.iter().filter(|part| **part < 3).count(), 5);
    }
}

#[test]
fn runs_whose_parts_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [parts, mae] = ["parts", "mae"].map(|name| dir.path().join(name));
    trained(&tiny("semmae_parts"), &parts);
    trained(&tiny("mae"), &mae);
    let error = |run: &Path, more: &str| match semmae(run, more) {
        Ok(_) => panic!("{more}"),
        Err(error) => error.to_string(),
    };
    let other = error(&mae, "");
    assert!(
        other.contains("mae does not learn parts") && other.contains("semmae_parts"),
        "{other}"
    );
    let finer =
        "[encoder]\nimage_size = 32\npatch_size = 4\nembed_dim = 16\ndepth = 1\nnum_heads = 2";
    let grid = error(&parts, finer);
    assert!(grid.contains("8x8") && grid.contains("4x4"), "{grid}");
    assert!(error(Path::new(""), "").contains("parts.checkpoint"));
}
