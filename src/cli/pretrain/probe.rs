//! Probes of encoders and of raw pixels.

use std::sync::Arc;

use crate::RunConfig;
use crate::backbone::choose;
use crate::run_config::{HeldOut, Images};
use candle_core::Device;
use mim_core::data::Dataset;
use mim_core::{Encoder, Input, Method, Result};
use mim_eval::{
    EvalConfig, Features, Outcome, ProtocolSettings, Summary, classify, extract, features,
    raw_pixels,
};
use serde_json::{Value, json};

/// What one set of features gives; what failed is in `problems`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    /// What the features are of.
    pub(super) name: &'static str,
    /// What starts its keys in `summary.json`.
    pub(super) key: &'static str,
    pub(crate) linear: Option<Summary>,
    pub(crate) knn: Option<Summary>,
    /// Of the network that was trained with labels.
    pub(crate) finetuned: Option<Summary>,
    /// Images whose features were compared: training and held-out ones.
    pub(crate) images: Option<[usize; 2]>,
}

impl Row {
    /// The figures that there are, by protocol.
    fn figures(&self) -> impl Iterator<Item = (&'static str, &Summary)> {
        let all = [
            ("linear", &self.linear),
            ("knn", &self.knn),
            ("finetuned", &self.finetuned),
        ];
        let some = all.into_iter();
        some.filter_map(|(name, figures)| Some((name, figures.as_ref()?)))
    }
}

/// The probes of a run, and what could not be done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    pub(super) rows: Vec<Row>,
    /// The encoder that was probed.
    pub(super) encoder: Option<String>,
    /// The images that it was probed on.
    pub(super) split: Option<HeldOut>,
    pub(super) problems: Vec<String>,
}

/// Features of training and held-out images.
pub(crate) struct Pair {
    train: Features,
    test: Features,
}

impl Pair {
    /// The features of both by `extract`.
    fn new(
        (train, test): (&Arc<dyn Dataset>, &Arc<dyn Dataset>),
        features: impl Fn(Arc<dyn Dataset>) -> Result<Features>,
    ) -> Result<Self> {
        Ok(Self {
            train: features(train.clone())?,
            test: features(test.clone())?,
        })
    }

    /// Features that are there.
    pub(super) fn of_features(train: Features, test: Features) -> Self {
        Self { train, test }
    }

    /// Features of an encoder that takes `input`.
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

    /// What a protocol makes of them.
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

    /// Training and held-out images.
    pub(crate) fn images(&self) -> [usize; 2] {
        [self.train.len(), self.test.len()]
    }
}

/// Features of images with or without labels; without, they are all of class 0.
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
    let rows = features(encoder, images, size, &input.norm, device, config)?;
    let (count, dim) = rows.values.dims2()?;
    let values = rows.values.flatten_all()?.to_vec1()?;
    Features::new(values, dim, vec![0; count])
}

/// A line about the training images that the linear probe leaves out.
pub(crate) fn cap(images: usize, config: &EvalConfig) -> Option<String> {
    let most = config.linear.max_train;
    (images > most).then(|| {
        format!("the linear probe uses {most} of {images} training images (eval.linear.max_train)")
    })
}

/// The row of the encoder that a method has trained. What fails is a problem, never an error.
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

/// The rows of a finished run: pretrained encoder, the same encoder at its initial weights, raw pixels. What fails
/// is a problem, never an error.
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
            }
        }
        self.rows.push(row);
    }

    pub(super) fn keep<T>(&mut self, what: &str, done: Result<T>) -> Option<T> {
        done.map_err(|error| self.problems.push(format!("{what}: {error}")))
            .ok()
    }

    /// Prints them as a table: top-1 and its 95 % interval.
    pub(super) fn print(&self, split: HeldOut) {
        let columns = [
            ("linear", "linear"),
            ("knn", "k-NN"),
            ("finetuned", "fine-tuned"),
        ];
        let has = |key: &str| {
            self.rows
                .iter()
                .any(|row| row.figures().any(|(name, _)| name == key))
        };
        let columns: Vec<_> = columns.into_iter().filter(|(key, _)| has(key)).collect();
        let headings: String = columns
            .iter()
            .map(|(_, heading)| format!(" {heading:>20}"))
            .collect();
        println!("{:24}{headings}   ({split})", "top-1 in percent");
        for row in &self.rows {
            let cell = |key: &str| {
                let found = row.figures().find(|(name, _)| *name == key);
                found.map_or("-".to_owned(), |(_, figures)| {
                    let [low, high] = figures.interval;
                    format!("{:.1} [{low:.1}, {high:.1}]", figures.top1)
                })
            };
            let cells: String = columns
                .iter()
                .map(|(key, _)| format!(" {:>20}", cell(key)))
                .collect();
            println!("{:24}{cells}", row.name);
        }
    }

    /// What `summary.json` says of them.
    pub(super) fn to_json(&self, config: &EvalConfig) -> Value {
        let mut all = json!({
            "encoder": self.encoder,
            "split": self.split.map(|split| split.to_string()),
        });
        put_settings(&mut all, config);
        for row in &self.rows {
            for (name, figures) in row.figures() {
                put_figures(&mut all, &format!("{}{name}", row.key), figures);
            }
            if let Some([train, held_out]) = row.images {
                all[format!("{}probed_images", row.key)] =
                    json!({ "train": train, "held_out": held_out });
            }
        }
        all
    }
}

/// Adds the figures of a protocol.
pub(crate) fn put_figures(all: &mut Value, name: &str, figures: &Summary) {
    all[format!("{name}_top1")] = json!(figures.top1);
    all[format!("{name}_top5")] = json!(figures.top5);
    all[format!("{name}_mean_per_class")] = json!(figures.mean_per_class);
    all[format!("{name}_top1_interval")] = json!(figures.interval);
}

/// Adds the settings of probes.
pub(crate) fn put_settings(all: &mut Value, config: &EvalConfig) {
    all["pooling"] = json!(config.pooling);
    all["k"] = json!(config.knn.k);
    all["temperature"] = json!(config.knn.temperature);
    all["c"] = json!(config.linear.c);
    all["max_train"] = json!(config.linear.max_train);
}
