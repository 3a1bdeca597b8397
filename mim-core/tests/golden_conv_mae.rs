//! ConvMAE's encoder against values recorded from the authors' code.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use mim_core::encoders::{ConvMae, ConvMaeConfig};
use mim_core::weights::{Source, WeightMap};
use mim_core::{
    EncodeOptions, Encoder, Mask, Masking, ParamStore, PatchGrid, StepContext, TraceSink,
};
use mim_testing::shared;

#[derive(Default)]
struct Trace(Mutex<BTreeMap<String, Tensor>>);

impl TraceSink for Trace {
    fn record(&self, name: &str, value: &Tensor) -> mim_core::Result<()> {
        self.0
            .lock()
            .unwrap()
            .insert(name.to_owned(), value.detach());
        Ok(())
    }
}

#[track_caller]
fn assert_close(got: &Tensor, want: &Tensor) {
    assert_eq!(got.dims(), want.dims());
    let flat = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (got, want) in flat(got).iter().zip(flat(want)) {
        let close = (got - want).abs() <= 1e-5 + 1e-4 * want.abs();
        assert!(close, "{got} against {want}");
    }
}

#[test]
#[ignore = "needs ../shared/goldens"]
fn visible_tokens_and_fused_stages_are_those_of_the_release() {
    let case = shared("components/convmae_encoder").with_extension("safetensors");
    let case = WeightMap::read(case).unwrap();
    let get = |name: &str| case.get(name).unwrap();
    let config = ConvMaeConfig {
        image_size: 48.into(),
        embed_dims: [12, 16, 24],
        depths: [1, 1, 2],
        num_heads: 4,
        ..ConvMaeConfig::default()
    };
    let store = ParamStore::cpu(0);
    let encoder = ConvMae::new(&store.root(), &config).unwrap();
    let source = Source::named("convmae").unwrap();
    let weights = source.import(&case.strip_prefix("param.")).unwrap();
    let decoder = |name: &str| name.starts_with("decoder") || name == "mask_token";
    store.load_allowing(&weights, decoder).unwrap();

    let kept = get("input.ids_keep").to_dtype(DType::U32).unwrap();
    let kept = kept.to_vec2::<u32>().unwrap();
    let hidden = |kept: &[u32]| (0..9).filter(|id| !kept.contains(id)).collect::<Vec<u32>>();
    let order = kept
        .iter()
        .flat_map(|row| [row.clone(), hidden(row)].concat());
    let keep = kept.iter().map(Vec::len).collect();
    let mask = Mask::new(PatchGrid::new(3, 3), order.collect(), keep).unwrap();
    let bits: Vec<u8> = get("input.mask").flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(mask.to_bits(), bits);

    let trace = Arc::new(Trace::default());
    let step = StepContext {
        trace: Some(trace.clone()),
        ..StepContext::new(0)
    };
    let (image, want) = (
        get("input.image").to_device(&Device::Cpu).unwrap(),
        EncodeOptions::default(),
    );
    let encoded = encoder
        .encode(&image, Masking::Drop(&mask), &want, &step)
        .unwrap();
    assert_close(&encoded.tokens, get("expect.latent"));
    for stage in [1, 2] {
        let fused = trace.0.lock().unwrap()[&format!("stage{stage}_fused")].clone();
        let maps = fused.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
        assert_close(&maps, get(&format!("expect.stage{stage}_output_decode")));
    }
}
