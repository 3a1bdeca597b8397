//! Every decoder: its prediction and all gradients, for an encoder that drops hidden patches or one that sees all.
//!
//! `cargo bench --bench decoders`; a name filters, e.g. `-- mae`. Ids give the encoder's tokens a batch of
//! four images of 14 x 14 patches comes as: a class token and 49 visible patches each, or 196. All decoders
//! are 256 wide and two blocks deep (those that predict features are as wide as the encoder, 384), so
//! that their ways, not their sizes, are compared.

#![expect(
    clippy::expect_used,
    reason = "a benchmark has no caller to return an error to"
)]

mod common;

use common::{GRID, SIDE, backward, batch, brief, mask, time, values};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mim_core::decoders::{
    InjectDecoder, InjectDecoderConfig, InjectOutput, LightDecoder, LightDecoderConfig,
    LinearDecoder, MaeDecoder, MaeDecoderConfig, PooledDecoder, PromptDecoder, PromptOutput,
    RelativePredictor, RelativePredictorConfig, VisibleMlp, VisibleMlpConfig,
};
use mim_core::nn::ProjectionHeadConfig;
use mim_core::optim::Gradients;
use mim_core::params::Params;
use mim_core::{DecodeContext, Decoder, Encoded, ParamStore, Result, StepContext};

const IMAGES: usize = 4;

/// Width of the encoder's tokens.
const INPUTS: usize = 384;

/// Values of a patch of 16 x 16 pixels.
const PIXELS: usize = 768;

type Build = fn(&Params) -> Result<Box<dyn Decoder>>;

fn sizes() -> MaeDecoderConfig {
    MaeDecoderConfig {
        embed_dim: 256,
        depth: 2,
        num_heads: 8,
        ..MaeDecoderConfig::default()
    }
}

fn linear(params: &Params) -> Result<Box<dyn Decoder>> {
    Ok(Box::new(LinearDecoder::new(params, INPUTS, PIXELS)?))
}

fn light(params: &Params) -> Result<Box<dyn Decoder>> {
    let config = LightDecoderConfig {
        depth: 2,
        ..LightDecoderConfig::default()
    };
    Ok(Box::new(LightDecoder::new(
        params, &config, INPUTS, PIXELS,
    )?))
}

fn mae(params: &Params) -> Result<Box<dyn Decoder>> {
    let widths = (INPUTS, PIXELS);
    Ok(Box::new(MaeDecoder::new(params, &sizes(), GRID, widths)?))
}

fn prompt(params: &Params) -> Result<Box<dyn Decoder>> {
    let widths = (INPUTS, PIXELS);
    let decoder = PromptDecoder::new(params, &sizes(), GRID, widths, PromptOutput::Hidden)?;
    Ok(Box::new(decoder))
}

fn inject(params: &Params) -> Result<Box<dyn Decoder>> {
    let config = InjectDecoderConfig {
        embed_dim: 256,
        num_heads: 8,
        ..InjectDecoderConfig::default()
    };
    let output = InjectOutput::Pixels {
        channels: 3,
        patch_size: 16,
    };
    let decoder = InjectDecoder::new(params, &config, (INPUTS, 1), None, output)?;
    Ok(Box::new(decoder))
}

fn visible_mlp(params: &Params) -> Result<Box<dyn Decoder>> {
    let config = VisibleMlpConfig::default();
    Ok(Box::new(VisibleMlp::new(params, &config, INPUTS, PIXELS)?))
}

fn relative(params: &Params) -> Result<Box<dyn Decoder>> {
    let config = RelativePredictorConfig {
        depth: 2,
        ..RelativePredictorConfig::default()
    };
    let decoder = RelativePredictor::new(params, &config, GRID, INPUTS)?;
    Ok(Box::new(decoder))
}

fn pooled(params: &Params) -> Result<Box<dyn Decoder>> {
    let heads = ProjectionHeadConfig::default();
    Ok(Box::new(PooledDecoder::new(
        MaeDecoder::new(params, &sizes(), GRID, (INPUTS, INPUTS))?,
        heads.build(&params.pp("projector"), INPUTS)?,
        heads.build(&params.pp("predictor"), heads.out_dim)?,
    )))
}

/// Times the decoders on `patches` tokens of each image.
fn run(c: &mut Criterion, patches: usize, decoders: &[(&str, Build)]) {
    let tokens = values(&[IMAGES, 1 + patches, INPUTS]).as_tensor().clone();
    let encoded = Encoded {
        prefix: 1,
        layers: vec![(0, tokens.clone())],
        tokens,
        cls_attention: None,
        grid: GRID,
    };
    let (mask, batch) = (mask(IMAGES, GRID), batch(IMAGES, 2, SIDE));
    let step = StepContext::new(0);
    let cx = DecodeContext {
        encoded: &encoded,
        mask: &mask,
        batch: &batch,
        step: &step,
    };
    for (name, build) in decoders {
        let store = ParamStore::cpu(0);
        let decoder = build(&store.root()).expect("settings hold");
        let mut gradients = Gradients::new(store.trainable());
        let mut group = c.benchmark_group("decoders");
        group.throughput(Throughput::Elements(IMAGES as u64));
        time(
            &mut group,
            &format!("{name}/{IMAGES}x{}x{INPUTS}", 1 + patches),
            || backward(&decoder.decode(&cx)?.values, &mut gradients),
        );
    }
}

fn visible(c: &mut Criterion) {
    let decoders: [(_, Build); 6] = [
        ("mae", mae),
        ("prompt", prompt),
        ("inject", inject),
        ("visible_mlp", visible_mlp),
        ("relative", relative),
        ("pooled", pooled),
    ];
    run(c, GRID.len() / 4, &decoders);
}

fn whole(c: &mut Criterion) {
    let decoders: [(_, Build); 2] = [("linear", linear), ("light", light)];
    run(c, GRID.len(), &decoders);
}

criterion_group! {
    name = benches;
    config = brief();
    targets = visible, whole
}
criterion_main!(benches);
