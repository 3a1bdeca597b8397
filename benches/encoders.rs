//! Every encoder: the pass of training, with a mask and gradients, and the pass for features.
//!
//! `cargo bench --bench encoders`; a name filters, e.g. `-- swin`. Ids give what happens to hidden patches (`drop`,
//! `replace`, or `features` for whole images without gradients) and the number of images, which is the throughput.
//! Widths and image sizes are the papers' small ones, with one or two blocks per stage. The difference between `drop`
//! and `replace` is what MAE saves. Encoders must not be compared with each other.

#![expect(
    clippy::expect_used,
    reason = "a benchmark has no caller to return an error to"
)]

mod common;

use common::{SIDE, backward, brief, mask, time, values};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mim_core::encoders::{
    ConvMaeConfig, EncoderConfig, PixelMasked, PvtV2, PvtV2Config, SwinConfig, VitConfig, encoders,
};
use mim_core::optim::Gradients;
use mim_core::{EncodeOptions, Encoder, Mask, MaskMode, Masking, ParamStore, StepContext};

/// What an encoder does with hidden patches.
#[derive(Clone, Copy)]
enum Way {
    Drop,
    Replace,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Replace => "replace",
        }
    }

    fn masking(self, mask: &Mask) -> Masking<'_> {
        match self {
            Self::Drop => Masking::Drop(mask),
            Self::Replace => Masking::Replace(mask),
        }
    }
}

/// An encoder and its images.
struct Subject<'a> {
    name: &'a str,
    encoder: &'a dyn Encoder,
    store: &'a ParamStore,
    images: usize,
    side: usize,
}

impl Subject<'_> {
    /// Times training in each mode, and features.
    fn run(&self, c: &mut Criterion, ways: &[Way]) {
        let Self {
            name,
            encoder,
            store,
            images,
            side,
        } = *self;
        let pictures = values(&[images, 3, side, side]).as_detached_tensor();
        let grid = encoder.grid((side, side)).expect("the side fits");
        let (mask, want) = (mask(images, grid), EncodeOptions::default());
        let mut gradients = Gradients::new(store.trainable());
        let mut group = c.benchmark_group(format!("encoders/{name}"));
        group.throughput(Throughput::Elements(images as u64));
        for way in ways {
            let id = format!("{}/{images}x{side}px", way.name());
            let (masking, step) = (way.masking(&mask), StepContext::new(0));
            time(&mut group, &id, || {
                let encoded = encoder.encode(&pictures, masking, &want, &step)?;
                backward(&encoded.tokens, &mut gradients)
            });
        }
        let step = StepContext::inference();
        time(&mut group, &format!("features/{images}x{side}px"), || {
            encoder.encode(&pictures, Masking::None, &want, &step)
        });
    }
}

/// Builds the encoder of `config` and runs it on images of its own size.
fn run(
    c: &mut Criterion,
    name: &str,
    config: impl Into<EncoderConfig>,
    images: usize,
    ways: &[Way],
) {
    let (config, store) = (config.into(), ParamStore::cpu(0));
    let encoder = config.build(&store.root()).expect("settings hold");
    let subject = Subject {
        name,
        encoder: &encoder,
        store: &store,
        images,
        side: config.image_size().height,
    };
    subject.run(c, ways);
}

fn vit(c: &mut Criterion) {
    let small = VitConfig {
        depth: 2,
        mask_token: true,
        ..VitConfig::arch("vit_small").expect("a known size")
    };
    run(c, "vit", small, 4, &[Way::Drop, Way::Replace]);
}

/// Every encoder that configs can name, in its size for 32-pixel images.
fn small(c: &mut Criterion) {
    for entry in encoders().iter() {
        let table = entry.info.small().expect("it is TOML");
        let mut settings = entry.read(table).expect("the sizes fit");
        settings.set_mask_token(true);
        let (store, channels) = (ParamStore::cpu(0), settings.in_channels());
        let root = store.root();
        let mut encoder = settings.build(&root).expect("the sizes fit");
        let way = match settings.hiding() {
            MaskMode::Drop => Way::Drop,
            MaskMode::Replace | MaskMode::Causal => Way::Replace,
            MaskMode::Paint => {
                let painted = PixelMasked::new(&root, encoder, channels);
                encoder = Box::new(painted.expect("a name not taken"));
                Way::Replace
            }
        };
        let subject = Subject {
            name: &entry.info.name,
            encoder: &encoder,
            store: &store,
            images: 32,
            side: settings.image_size().height,
        };
        subject.run(c, &[way]);
    }
}

fn swin(c: &mut Criterion) {
    let config = SwinConfig {
        embed_dim: 96,
        depths: vec![2; 4],
        num_heads: vec![3, 6, 12, 24],
        ..SwinConfig::default()
    };
    run(c, "swin", config, 2, &[Way::Replace]);
}

fn conv_mae(c: &mut Criterion) {
    let config = ConvMaeConfig {
        image_size: SIDE.into(),
        embed_dims: [128, 192, 384],
        depths: [1, 1, 2],
        num_heads: 6,
        ..ConvMaeConfig::default()
    };
    run(c, "conv_mae", config, 2, &[Way::Drop]);
}

/// With painted pixels, as FastMIM hides patches from it.
fn pvt_v2(c: &mut Criterion) {
    let config = PvtV2Config {
        depths: vec![1; 4],
        ..PvtV2Config::default()
    };
    let (store, channels) = (ParamStore::cpu(0), config.in_channels);
    let inner = PvtV2::new(&store.root(), &config).expect("settings hold");
    let encoder = PixelMasked::new(&store.root(), inner, channels).expect("a name not taken");
    let subject = Subject {
        name: "pvt_v2",
        encoder: &encoder,
        store: &store,
        images: 4,
        side: config.image_size.height,
    };
    subject.run(c, &[Way::Replace]);
}

criterion_group! {
    name = benches;
    config = brief();
    targets = small, vit, swin, conv_mae, pvt_v2
}
criterion_main!(benches);
