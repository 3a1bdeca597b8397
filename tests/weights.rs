//! Weights of other projects load as the README says.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use mim::prelude::*;

fn tiny() -> MaeConfig {
    let mut config = MaeConfig::default();
    let (encoder, decoder) = (&mut config.encoder, &mut config.decoder);
    (encoder.image_size, encoder.patch_size) = (32.into(), 8);
    (encoder.embed_dim, encoder.depth, encoder.num_heads) = (32, 2, 4);
    (decoder.embed_dim, decoder.depth, decoder.num_heads) = (16, 1, 4);
    (encoder.norm_eps, decoder.norm_eps) = (1e-12, 1e-12);
    config
}

fn student(seed: u64) -> (Composite, ParamStore) {
    let config = tiny();
    let student = ParamStore::new(&Device::Cpu, seed, config.init());
    (config.build(&student).unwrap(), student)
}

fn features(method: &dyn Method) -> Vec<f32> {
    let values: Vec<f32> = (0u16..3 * 32 * 32)
        .map(|i| f32::from(i % 251) / 125. - 1.)
        .collect();
    let image = Tensor::from_vec(values, (1, 3, 32, 32), &Device::Cpu).unwrap();
    let step = StepContext::inference();
    let encoder = method.encoder().unwrap();
    let encoded = encoder
        .encode(&image, Masking::None, &EncodeOptions::default(), &step)
        .unwrap();
    encoded.tokens.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn weights_survive_the_naming_of_every_source_with_a_decoder() {
    let (theirs, store) = student(1);
    let ours: WeightMap = store
        .vars()
        .into_iter()
        .map(|(name, var)| (name, var.as_detached_tensor()))
        .collect();
    for source in ["mae", "hf_vit_mae"] {
        let source = Source::named(source).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        source.export(&ours).unwrap().write(&path, None).unwrap();

        let (method, store) = student(2);
        assert_ne!(features(&method), features(&theirs));
        let read = WeightMap::read(folder.path()).unwrap();
        let report = store.load(&source.import(&read).unwrap()).unwrap();
        assert!(report.is_complete(), "{}: {report}", source.name());
        assert_eq!(features(&method), features(&theirs), "{}", source.name());
    }
}

#[test]
fn weights_that_do_not_fit_are_listed_and_change_nothing() {
    let (method, store) = student(1);
    let before = features(&method);
    let mut weights = WeightMap::default();
    let wrong = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    weights.insert("norm.weight", wrong.clone());
    weights.insert("head.weight", wrong);
    let error = store.load(&weights).unwrap_err().to_string();
    for name in ["norm.weight", "head.weight", "patch_embed.proj.weight"] {
        assert!(error.contains(name), "{name} is not in: {error}");
    }
    assert_eq!(features(&method), before);
}

#[test]
fn a_folder_of_hugging_face_loads() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/mim-methods/tests/goldens/hf_vit_mae_checkpoint"
    );
    let (method, store) = student(1);
    let before = features(&method);
    let theirs = WeightMap::read(folder).unwrap();
    let ours = Source::named("hf_vit_mae")
        .unwrap()
        .import(&theirs)
        .unwrap();
    let report = store.load(&ours).unwrap();
    assert!(report.is_complete(), "{report}");
    assert_ne!(features(&method), before);
}
