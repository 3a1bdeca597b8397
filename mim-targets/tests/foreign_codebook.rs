//! A tiny `FlavaImageCodebook` of transformers loads by name and computes what it computes there.
//!
//! Files and values: scripts/make_weight_fixtures.py.

use mim_core::weights::{Source, WeightMap};
use mim_core::{ParamStore, StepContext};
use mim_targets::dvae::{DvaeConfig, DvaeEncoder};

#[test]
fn the_codebook_gives_the_logits_of_transformers() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../mim-core/tests/fixtures/weights/flava_codebook"
    );
    let config = DvaeConfig {
        n_hid: 4,
        n_blk_per_group: 1,
        vocab_size: 11,
        ..DvaeConfig::default()
    };
    let store = ParamStore::cpu(0);
    let encoder = DvaeEncoder::new(&store.root().pp("encoder"), &config).unwrap();
    let source = Source::named("flava_codebook").unwrap();
    let theirs = WeightMap::read(folder).unwrap();
    let ours = source.import(&theirs).unwrap();
    assert!(store.load(&ours).unwrap().is_complete());
    let back = source.export(&ours).unwrap();
    assert!(back.names().eq(theirs.names()));

    let values = WeightMap::read(format!("{folder}/values.safetensors")).unwrap();
    let logits = encoder
        .logits(values.get("image").unwrap(), &StepContext::inference())
        .unwrap();
    let expected = values.get("logits").unwrap();
    assert_eq!(logits.dims(), expected.dims());
    let flat = |xs: &candle_core::Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (got, expected) in flat(&logits).into_iter().zip(flat(expected)) {
        assert!(
            (got - expected).abs() < 1e-5 * expected.abs().max(1.),
            "{got} {expected}"
        );
    }
}
