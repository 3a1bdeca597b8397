//! Every decoder: its prediction and all gradients, for an encoder that drops hidden patches or one that sees all
//! patches.
//!
//! `cargo bench --bench decoders`; a name filters, e.g. `-- mae`. Ids give the number of the encoder's tokens for four
//! images of 14 x 14 patches: a class token and 49 visible patches each, or 196 patches. All decoders are 256 wide and
//! two blocks deep (those that predict features are as wide as the encoder, 384), so that designs are compared, not
//! sizes.

#![expect(
    clippy::expect_used,
    reason = "a benchmark has no caller to return an error to"
)]

mod common;

use common::{GRID, SIDE, backward, batch, brief, mask, time, values};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mim_core::decoders::{
    DecoderShape, InjectDecoder, InjectDecoderConfig, InjectOutput, MaeDecoder, MaeDecoderConfig,
    PooledDecoder, RelativePredictor, RelativePredictorConfig, TokensNeeded, VisibleMlp,
    VisibleMlpConfig, decoders,
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

type Plain = fn(&Params) -> Result<Box<dyn Decoder>>;
type Build = Box<dyn Fn(&Params) -> Result<Box<dyn Decoder>>>;

fn sizes() -> MaeDecoderConfig {
    MaeDecoderConfig {
        embed_dim: 256,
        depth: 2,
        num_heads: 8,
        ..MaeDecoderConfig::default()
    }
}

/// The decoders that configs can name and that read these tokens, in one size.
fn named(tokens: TokensNeeded) -> Vec<(String, Build)> {
    let mut found: Vec<(String, Build)> = Vec::new();
    for entry in decoders().iter() {
        let mut table = entry.info.defaults().expect("they can be written");
        for (key, size) in [("embed_dim", 256), ("depth", 2), ("num_heads", 8)] {
            if let Some(value) = table.get_mut(key) {
                *value = size.into();
            }
        }
        let settings = entry.read(table).expect("the sizes fit");
        if settings.tokens() == tokens {
            let shape = DecoderShape {
                inputs: INPUTS,
                outputs: PIXELS,
                grid: GRID,
                cells: None,
            };
            let build = move |params: &Params| settings.build(params, shape);
            found.push((entry.info.name.clone(), Box::new(build)));
        }
    }
    found
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
        MaeDecoder::new(params, &sizes(), DecoderShape::new(GRID, INPUTS, INPUTS))?,
        heads.build(&params.pp("projector"), INPUTS)?,
        heads.build(&params.pp("predictor"), heads.out_dim)?,
    )))
}

/// Times the decoders on `patches` tokens of each image.
fn run(c: &mut Criterion, patches: usize, decoders: &[(String, Build)]) {
    let tokens = values(&[IMAGES, 1 + patches, INPUTS]).as_tensor().clone();
    let (mask, batch) = (mask(IMAGES, GRID), batch(IMAGES, 2, SIDE));
    let step = StepContext::new(0);
    for (name, build) in decoders {
        let store = ParamStore::cpu(0);
        let decoder = build(&store.root()).expect("settings hold");
        let blocks = decoder.layers().iter().chain(&[0]);
        let encoded = Encoded {
            prefix: 1,
            layers: blocks.map(|block| (*block, tokens.clone())).collect(),
            tokens: tokens.clone(),
            cls_attention: None,
            grid: GRID,
        };
        let cx = DecodeContext {
            encoded: &encoded,
            mask: &mask,
            batch: &batch,
            step: &step,
        };
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
    let mut decoders = named(TokensNeeded::Visible);
    let mut more = |name: &str, build| decoders.push((name.to_owned(), Box::new(build)));
    more("inject", inject as Plain);
    more("visible_mlp", visible_mlp);
    more("relative", relative);
    more("pooled", pooled);
    run(c, GRID.len() / 4, &decoders);
}

fn whole(c: &mut Criterion) {
    run(c, GRID.len(), &named(TokensNeeded::All));
}

criterion_group! {
    name = benches;
    config = brief();
    targets = visible, whole
}
criterion_main!(benches);
