//! Segmentation heads on small encoders and data.

use candle_core::Tensor;
use mim_core::Norm;
use mim_core::augment::Sample;
use mim_core::encoders::{FnEncoder, FnOutput, Vit, VitConfig};
use mim_core::params::{MaeInit, ParamStore};

use super::*;

/// Images with a dark and a bright part; the mask marks the bright part and a row without a class.
#[derive(Debug)]
struct Parts {
    count: usize,
    width: usize,
    classes: [u8; 2],
}

const HEIGHT: usize = 8;
const PARTS: Parts = Parts {
    count: 24,
    width: 8,
    classes: [0, 1],
};

impl MaskedDataset for Parts {
    fn len(&self) -> usize {
        self.count
    }

    fn read(&self, index: usize) -> Result<MaskedImage> {
        let edge = 2 + 2 * (index % (self.width / 2 - 1));
        let bright = |at: usize| (at % self.width >= edge) != index.is_multiple_of(2);
        let noise = |at: usize| u8::try_from((at * 7 + index * 5) % 31).unwrap();
        let all = 0..HEIGHT * self.width;
        let pixels = all
            .clone()
            .map(|at| 40 + noise(at) + if bright(at) { 120 } else { 0 });
        let class = |at: usize| self.classes[usize::from(bright(at))];
        let mask = all.map(|at| if at < self.width { 255 } else { class(at) });
        let size = (HEIGHT, self.width);
        let image = Sample::new(pixels.collect(), size, 1)?;
        MaskedImage::new(image, (mask.collect(), size), self.name_of(index))
    }

    fn name_of(&self, index: usize) -> String {
        format!("parts/{index}")
    }
}

fn input() -> Input {
    Input {
        size: HEIGHT.into(),
        norm: Norm::uniform(0.5, 0.25, 1),
    }
}

/// The mean of each patch of 2 x 2 pixels, and its square.
fn means() -> FnEncoder {
    let forward = |images: &Tensor| {
        let means = images.avg_pool2d(2)?.flatten_from(2)?.transpose(1, 2)?;
        Tensor::cat(&[&means, &means.sqr()?], 2)
    };
    let output = FnOutput::Tokens {
        prefix: 0,
        patch_size: 2,
    };
    FnEncoder::new(forward, output, 2)
}

fn vit() -> Vit {
    let store = ParamStore::new(&Device::Cpu, 0, MaeInit { patch_values: 4 });
    let config = VitConfig {
        image_size: HEIGHT.into(),
        patch_size: 2,
        in_channels: 1,
        embed_dim: 8,
        depth: 4,
        num_heads: 2,
        ..VitConfig::default()
    };
    Vit::new(&store.root(), &config).unwrap()
}

fn few() -> SegmentConfig {
    SegmentConfig {
        epochs: 20,
        batch_size: 4,
        lr: 0.05,
        ..SegmentConfig::default()
    }
}

fn scores(config: &SegmentConfig, encoder: &dyn Encoder, data: &Parts) -> Result<SegmentScores> {
    let eval = EvalConfig {
        batch_size: 5,
        ..EvalConfig::default()
    };
    config.scores((encoder, &input()), (data, data), (&eval, &Device::Cpu))
}

fn miou(config: &SegmentConfig, encoder: &dyn Encoder, data: &Parts) -> f64 {
    scores(config, encoder, data)
        .unwrap()
        .summary(0)
        .unwrap()
        .miou
}

#[test]
fn a_linear_head_learns_separable_classes_and_repeats() {
    let first = scores(&few(), &means(), &PARTS).unwrap();
    let summary = first.summary(0).unwrap();
    assert!(summary.miou > 95., "{summary:?}");
    // The row without a class is not counted.
    let pixels: u64 = first.confusion().iter().flatten().sum();
    assert_eq!(pixels, 24 * 8 * 7);
    assert_eq!(scores(&few(), &means(), &PARTS).unwrap(), first);
}

#[test]
fn upernet_learns_on_four_blocks_and_the_linear_head_on_given_ones() {
    let upernet = SegmentConfig {
        head: SegmentHead::UperNet,
        channels: Some(8),
        epochs: 6,
        lr: 0.01,
        ..few()
    };
    let own = miou(&upernet, &vit(), &PARTS);
    assert!(own > 90., "{own}");
    let linear = SegmentConfig {
        layers: vec![1, 3],
        ..few()
    };
    let own = miou(&linear, &vit(), &PARTS);
    assert!(own > 80., "{own}");
}

#[test]
fn windows_do_as_well_as_the_whole_image() {
    let wide = Parts { width: 14, ..PARTS };
    let whole = SegmentConfig {
        window: Some(ImageSize {
            height: HEIGHT,
            width: 14,
        }),
        ..few()
    };
    let windows = SegmentConfig {
        stride: Some(4),
        ..few()
    };
    let (whole, windows) = (
        miou(&whole, &means(), &wide),
        miou(&windows, &means(), &wide),
    );
    assert!(whole > 95. && windows > 95., "{whole} {windows}");
    // A single window that covers the image: its stride has no effect.
    let one = |stride| {
        let config = SegmentConfig {
            stride: Some(stride),
            ..few()
        };
        scores(&config, &means(), &PARTS).unwrap()
    };
    assert_eq!(one(3), one(8));
    // Features at twice the size, scores at the original size.
    let scaled = SegmentConfig {
        short_side: Some(16),
        ..few()
    };
    let own = miou(&scaled, &means(), &PARTS);
    assert!(own > 90., "{own}");
}

#[test]
fn invalid_evaluations_are_explained() {
    let fails = |config: SegmentConfig, data: &Parts, what: &str| {
        let error = scores(&config, &vit(), data).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    let one = Parts {
        classes: [2, 2],
        ..PARTS
    };
    fails(few(), &one, "24 training images have 1 class");
    let ignored = Parts {
        classes: [255, 255],
        ..PARTS
    };
    fails(few(), &ignored, "have 0 class");
    let high = Parts {
        classes: [0, 9],
        ..PARTS
    };
    let two = SegmentConfig {
        classes: Some(2),
        ..few()
    };
    fails(two, &high, "parts/0: has class 9, but `classes` is 2");
    type Wrong = (&'static str, fn(&mut SegmentConfig));
    let wrong: [Wrong; 11] = [
        ("`epochs` is 0", |c| c.epochs = 0),
        ("`lr` is -1", |c| c.lr = -1.),
        ("`weight_decay` is -1", |c| c.weight_decay = -1.),
        ("`classes` is 1", |c| c.classes = Some(1)),
        ("`channels` is 8", |c| c.channels = Some(8)),
        ("`stride` is 9", |c| c.stride = Some(9)),
        ("`layers` is 4", |c| c.layers = vec![4]),
        ("`max_train` is 0", |c| c.max_train = 0),
        ("7x7", |c| c.window = Some(7.into())),
        ("batch norm needs", |c| {
            (c.head, c.batch_size) = (SegmentHead::UperNet, 1);
        }),
        ("reads four layers", |c| {
            (c.head, c.layers) = (SegmentHead::UperNet, vec![1, 2]);
        }),
    ];
    for (what, spoil) in wrong {
        let mut config = few();
        spoil(&mut config);
        fails(config, &PARTS, what);
    }
}

#[test]
fn test_masks_cannot_have_new_classes() {
    let high = Parts {
        classes: [0, 5],
        ..PARTS
    };
    let found = few().scores(
        (&means(), &input()),
        (&PARTS, &high),
        (&EvalConfig::default(), &Device::Cpu),
    );
    let error = found.unwrap_err().to_string();
    assert!(
        error.contains("parts/0") && error.contains("classes below 2"),
        "{error}"
    );
}
