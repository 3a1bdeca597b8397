//! Probes of encoders and of raw pixels.

use std::sync::Arc;

use crate::RunConfig;
use crate::backbone::choose;
use crate::run_config::Images;
use candle_core::Device;
use mim_core::data::Dataset;
use mim_core::{Encoder, Input, Method, Result};
use mim_eval::{
    EvalConfig, FeaturePass, Features, Outcome, ProtocolSettings, Summary, classify, extract,
    raw_pixels,
};

use super::rows::{LowShot, Row, Rows};

/// Features of training and held-out images.
pub(crate) struct Pair {
    train: Features,
    test: Features,
}

impl Pair {
    /// The features of both, computed by `extract`.
    fn new(
        (train, test): (&Arc<dyn Dataset>, &Arc<dyn Dataset>),
        features: impl Fn(Arc<dyn Dataset>) -> Result<Features>,
    ) -> Result<Self> {
        Ok(Self {
            train: features(train.clone())?,
            test: features(test.clone())?,
        })
    }

    /// Features that are known already.
    pub(super) fn of_features(train: Features, test: Features) -> Self {
        Self { train, test }
    }

    /// Features of an encoder with this `input`.
    pub(crate) fn of_encoder(
        encoder: &dyn Encoder,
        input: &Input,
        data: (&Arc<dyn Dataset>, &Arc<dyn Dataset>),
        (config, device): (&EvalConfig, &Device),
    ) -> Result<Self> {
        let (encoder, size) = (encoder.trunk(), input.size);
        Self::new(data, |images| {
            extract(encoder, images, size, &input.norm, device, config)
        })
    }

    /// The same of images with or without labels.
    pub(crate) fn with_or_without_labels(
        encoder: &dyn Encoder,
        input: &Input,
        data: (&Arc<dyn Dataset>, &Arc<dyn Dataset>),
        eval: (&EvalConfig, &Device),
    ) -> Result<Self> {
        Self::new(data, |images| any_features(encoder, input, images, eval))
    }

    /// The result of a protocol.
    pub(crate) fn measure(&self, protocol: &dyn ProtocolSettings) -> Result<Outcome> {
        protocol.measure(&self.train, &self.test)
    }

    /// The pixels of the same views, in the channels of the data.
    fn of_pixels(
        method: &dyn Method,
        data: (&Arc<dyn Dataset>, &Arc<dyn Dataset>),
        config: &EvalConfig,
    ) -> Result<Self> {
        let mut first = (0..data.0.len()).filter_map(|index| data.0.read(index).ok());
        let channels = first.next().map_or(3, |sample| sample.channels());
        let plan = config.view_plan(method.input().size, channels);
        Self::new(data, |images| raw_pixels(images, plan.clone(), config))
    }

    pub(crate) fn linear(&self, config: &EvalConfig) -> Result<Summary> {
        let probe = config.linear.fit(&self.train)?;
        probe.scores(&self.test)?.summary(0)
    }

    pub(crate) fn knn(&self, config: &EvalConfig) -> Result<Summary> {
        config.knn.scores(&self.train, &self.test)?.summary(0)
    }

    /// The result with few labels, if the settings ask for it.
    fn low_shot(&self, config: &EvalConfig) -> Result<Option<LowShot>> {
        let Some(few) = &config.lowshot else {
            return Ok(None);
        };
        Ok(Some(LowShot::of(&self.measure(few)?)))
    }

    /// Training and held-out images.
    pub(crate) fn images(&self) -> [usize; 2] {
        [self.train.len(), self.test.len()]
    }
}

/// Features of images with or without labels; without labels all images have class 0.
pub(crate) fn any_features(
    encoder: &dyn Encoder,
    input: &Input,
    images: Arc<dyn Dataset>,
    (config, device): (&EvalConfig, &Device),
) -> Result<Features> {
    let (encoder, size) = (encoder.trunk(), input.size);
    if images.classes() > 0 {
        return extract(encoder, images, size, &input.norm, device, config);
    }
    let pass = FeaturePass::new(encoder, images, input, config).on(device);
    let (mut values, mut dim) = (vec![], 0);
    for rows in pass.batches(0, vec![])? {
        let rows = rows?;
        values.extend(rows.values);
        dim = rows.dims.first().copied().unwrap_or(dim);
    }
    let count = values.len() / dim.max(1);
    Features::new(values, dim, vec![0; count])
}

/// A line about the training images that the linear probe leaves out.
pub(crate) fn cap(images: usize, config: &EvalConfig) -> Option<String> {
    let most = config.linear.max_train;
    (images > most).then(|| {
        format!("the linear probe uses {most} of {images} training images (eval.linear.max_train)")
    })
}

/// Adds the row of the encoder that a method has trained. A failure becomes a problem, never an error.
pub(super) fn trained(
    config: &RunConfig,
    method: &dyn Method,
    images: &Images,
    device: &Device,
) -> Rows {
    let mut rows = Rows::default();
    if images.train.classes() == 0 {
        rows.problems
            .push("no probes: the images have no labels".to_owned());
        return rows;
    }
    let Some((split, test)) = &images.held_out else {
        let what =
            "there is neither a val nor a test split, and none was held out (data.val_share)";
        rows.problems.push(format!("no probes: {what}"));
        return rows;
    };
    let Ok((name, encoder)) = choose(method, None) else {
        let what = format!("no probes: {} has no encoder", method.name());
        rows.problems.push(what);
        return rows;
    };
    (rows.encoder, rows.split) = (Some(name.to_owned()), Some(*split));
    if let Some(classifier) = method.classifier() {
        eprintln!("measuring the network ...");
        let scores = classify(
            classifier,
            test.clone(),
            method.input(),
            device,
            &config.eval,
        );
        let figures = scores.and_then(|scores| scores.summary(0));
        let finetuned = rows.keep("no accuracy of the network", figures);
        rows.rows.push(Row {
            name: "trained with labels",
            finetuned,
            ..Row::default()
        });
        return rows;
    }
    let (data, eval) = ((&images.train, test), (&config.eval, device));
    rows.add("pretrained encoder", "", &config.eval, || {
        Pair::of_encoder(encoder, method.input(), data, eval)
    });
    rows
}

/// The rows of a finished run: pretrained encoder, the same encoder at its initial weights, raw pixels. A failure
/// becomes a problem, never an error.
pub(super) fn all(
    config: &RunConfig,
    method: &dyn Method,
    images: &Images,
    device: &Device,
) -> Rows {
    let mut rows = trained(config, method, images, device);
    let (Some(name), Some((_, test))) = (rows.encoder.clone(), &images.held_out) else {
        return rows;
    };
    let (data, eval) = ((&images.train, test), (&config.eval, device));
    rows.add("random encoder", "random_", &config.eval, || {
        let random = config.build(device)?;
        let (_, encoder) = choose(random.as_ref(), Some(&name))?;
        Pair::of_encoder(encoder, random.input(), data, eval)
    });
    if config.eval.raw_pixels {
        let raw = match method.views(0).is_of_points() {
            true => "raw points",
            false => "raw pixels",
        };
        rows.add(raw, "raw_", &config.eval, || {
            Pair::of_pixels(method, data, &config.eval)
        });
    }
    let probed = rows.rows.first().and_then(|row| row.images);
    rows.problems
        .extend(probed.and_then(|[train, _]| cap(train, &config.eval)));
    rows
}

impl Rows {
    fn add(
        &mut self,
        name: &'static str,
        key: &'static str,
        config: &EvalConfig,
        features: impl FnOnce() -> Result<Pair>,
    ) {
        eprintln!("probing {name} ...");
        let mut row = Row {
            name,
            key,
            ..Row::default()
        };
        match features() {
            Err(error) => self.problems.push(format!("no probes of {name}: {error}")),
            Ok(pair) => {
                row.images = Some(pair.images());
                row.linear = self.keep(&format!("no linear probe of {name}"), pair.linear(config));
                row.knn = self.keep(&format!("no k-NN of {name}"), pair.knn(config));
                let few = self.keep(
                    &format!("no low-shot probe of {name}"),
                    pair.low_shot(config),
                );
                row.lowshot = few.flatten();
            }
        }
        self.rows.push(row);
    }
}
