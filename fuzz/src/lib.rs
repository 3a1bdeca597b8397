//! What fuzz targets do with bytes.

use std::fs;

use mim::RunConfig;
use mim_core::weights::{Guess, Source, WeightFile, look};

/// Reads `bytes` as a file of weights of this name, and goes on with what it holds as the program does.
pub fn weights(name: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    let opened = [None, Some("."), Some("model")].map(|key| WeightFile::open(&path, key));
    for file in opened.into_iter().flatten() {
        look(&file.weights);
        for guess in Guess::best(&file.weights).into_iter().take(3) {
            let _ = Source::named(guess.source).and_then(|source| source.import(&file.weights));
        }
    }
}

/// Reads `bytes` as the settings of a run.
pub fn settings(bytes: &[u8]) {
    let Ok(json) = serde_json::from_slice(bytes) else {
        return;
    };
    if let Ok(config) = RunConfig::from_json(&json) {
        let again = RunConfig::from_json(&config.to_json().unwrap());
        assert_eq!(again.unwrap(), config);
    }
}
