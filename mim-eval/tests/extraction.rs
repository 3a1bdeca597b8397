//! Features of encoders: pooling, channels, views, order and errors.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use mim_core::augment::ViewPlan;
use mim_core::data::{DataSource, Dataset, MemoryDataset, Split};
use mim_core::encoders::{Vit, VitConfig};
use mim_core::params::MaeInit;
use mim_core::{
    EncodeOptions, Encoded, Encoder, Error, Masking, Norm, ParamStore, PatchGrid, Result,
    StepContext,
};
use mim_eval::{EvalConfig, Features, Pooling, extract, probe, raw_pixels};

/// Tokens are the pixels themselves, after a class token of sevens, if any.
struct Pixels {
    class_token: bool,
}

impl Encoder for Pixels {
    fn dim(&self) -> usize {
        3
    }

    fn trunk(&self) -> &dyn Encoder {
        self
    }

    fn grid(&self, image: (usize, usize)) -> Result<PatchGrid> {
        PatchGrid::of_image(image, 1)
    }

    fn encode(
        &self,
        image: &Tensor,
        masking: Masking<'_>,
        _want: &EncodeOptions,
        step: &StepContext,
    ) -> Result<Encoded> {
        assert!(masking.mask().is_none() && !step.training);
        let (batch, channels, height, width) = image.dims4()?;
        let pixels = image.flatten_from(2)?.transpose(1, 2)?;
        let class = Tensor::full(7f32, (batch, 1, channels), image.device())?;
        Ok(Encoded {
            tokens: match self.class_token {
                true => Tensor::cat(&[class, pixels], 1)?,
                false => pixels,
            },
            prefix: usize::from(self.class_token),
            layers: vec![],
            cls_attention: None,
            grid: self.grid((height, width))?,
        })
    }
}

/// Hides its inner encoder behind one that must not be asked.
struct Wrapper(Pixels);

impl Encoder for Wrapper {
    fn dim(&self) -> usize {
        1
    }

    fn trunk(&self) -> &dyn Encoder {
        &self.0
    }

    fn grid(&self, image: (usize, usize)) -> Result<PatchGrid> {
        self.0.grid(image)
    }

    fn encode(
        &self,
        _: &Tensor,
        _: Masking<'_>,
        _: &EncodeOptions,
        _: &StepContext,
    ) -> Result<Encoded> {
        unreachable!("features come from the trunk")
    }
}

/// Five grey images of 2 x 2 pixels, the first three pixels black, labelled 0, 1, 0, 1, 0.
fn squares() -> MemoryDataset {
    let pixels = (0..5u8).flat_map(|i| [0, 0, 0, 50 * i]).collect();
    MemoryDataset::new(pixels, (2, 2), 1).unwrap()
}

fn labelled() -> Arc<dyn Dataset> {
    let labels = vec![0, 1, 0, 1, 0];
    Arc::new(
        squares()
            .with_labels(labels, 2, Path::new("labels"))
            .unwrap(),
    )
}

fn as_they_are() -> EvalConfig {
    EvalConfig {
        views: Some(ViewPlan::default()),
        batch_size: 2,
        ..EvalConfig::default()
    }
}

fn features(
    encoder: &dyn Encoder,
    dataset: Arc<dyn Dataset>,
    config: &EvalConfig,
) -> Result<Features> {
    let norm = Norm::uniform(0.5, 0.25, 3);
    extract(encoder, dataset, 2.into(), &norm, &Device::Cpu, config)
}

#[test]
fn pools_normalised_patches_of_every_image_in_order() {
    for class_token in [true, false] {
        let got = features(&Pixels { class_token }, labelled(), &as_they_are()).unwrap();
        assert_eq!((got.len(), got.dim()), (5, 3));
        assert_eq!(got.labels(), [0, 1, 0, 1, 0]);
        for (row, i) in got.values().chunks(3).zip(0u8..) {
            let want = (f32::from(50 * i) / 255. / 4. - 0.5) / 0.25;
            assert!(
                row.iter().all(|v| (v - want).abs() < 1e-5),
                "{row:?} {want}"
            );
        }
    }
    let wrapped = Wrapper(Pixels { class_token: false });
    assert_eq!(
        features(&wrapped, labelled(), &as_they_are())
            .unwrap()
            .dim(),
        3
    );
}

#[test]
fn takes_the_class_token_or_says_there_is_none() {
    let config = EvalConfig {
        pooling: Pooling::Cls,
        ..as_they_are()
    };
    let got = features(&Pixels { class_token: true }, labelled(), &config).unwrap();
    assert_eq!(got.values(), [7.; 15]);
    let error = features(&Pixels { class_token: false }, labelled(), &config).unwrap_err();
    assert!(error.to_string().contains("no class token"), "{error}");
}

#[test]
fn pixels_keep_their_channels_and_are_read_row_by_row() {
    let got = raw_pixels(labelled(), ViewPlan::default(), &as_they_are()).unwrap();
    assert_eq!(got.dim(), 4);
    assert_eq!(got.values()[12..16], [0., 0., 0., 150. / 255.]);
}

#[test]
fn data_without_labels_and_features_out_of_range_are_refused() {
    let error = raw_pixels(Arc::new(squares()), ViewPlan::default(), &as_they_are()).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }));
    assert!(error.to_string().contains("without labels"), "{error}");
    let error = Features::new(vec![0., 1., f32::NAN, 2.], 2, vec![0, 1]).unwrap_err();
    assert!(error.to_string().contains("value 0 of image 1"), "{error}");
    assert!(Features::new(vec![0.; 3], 2, vec![0, 1]).is_err());
    let no_batch = EvalConfig {
        batch_size: 0,
        ..as_they_are()
    };
    let error = raw_pixels(labelled(), ViewPlan::default(), &no_batch).unwrap_err();
    assert!(error.to_string().contains("batch_size"), "{error}");
}

#[test]
fn a_random_vision_transformer_tells_clothes_apart_whatever_the_batch() {
    let store = ParamStore::new(&Device::Cpu, 0, MaeInit { patch_values: 48 });
    let config = VitConfig {
        image_size: 32.into(),
        patch_size: 4,
        embed_dim: 32,
        depth: 1,
        num_heads: 2,
        ..VitConfig::default()
    };
    let vit = Vit::new(&store.root(), &config).unwrap();
    let extracted = |split, batch_size, workers| {
        let settings = EvalConfig {
            batch_size,
            workers,
            ..EvalConfig::default()
        };
        let data = DataSource::Embedded.open(split).unwrap();
        extract(
            &vit,
            data,
            32.into(),
            &Norm::imagenet(),
            &Device::Cpu,
            &settings,
        )
        .unwrap()
    };
    let (train, test) = (
        extracted(Split::Train, 250, 2),
        extracted(Split::Test, 250, 0),
    );
    assert_eq!((train.len(), train.dim(), test.len()), (1000, 32, 500));
    let other = extracted(Split::Test, 96, 3);
    let differences = test
        .values()
        .iter()
        .zip(other.values())
        .map(|(a, b)| (a - b).abs());
    assert!(differences.fold(0., f32::max) < 1e-5);
    let result = probe(&train, &test, &EvalConfig::default()).unwrap();
    assert!(
        result.linear_top1 > 40. && result.knn_top1 > 40.,
        "{result:?}"
    );
    assert!(result.linear_top1 < 100. && result.knn_top5 >= result.knn_top1);
}
