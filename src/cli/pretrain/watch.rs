//! Watching a run: probes between epochs, the best weights, and rules that end it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use candle_core::Device;
use mim_core::data::{Dataset, Subset};
use mim_core::train::{EpochRecord, Observer, StepReport};
use mim_core::{Error, Method, Result};
use mim_eval::{EvalConfig, KnnConfig, Signals};

use super::probe::{Pair, any_features};
use super::stop_rule::StopRule;
use crate::RunConfig;
use crate::backbone::choose;
use crate::cli::mlflow::Mlflow;
use crate::cli::progress::Progress;
use crate::run_config::Images;

/// Numbers of training and held-out images of a probe.
const PROBED: [usize; 2] = [1000, 500];
/// Number of steps of a small linear probe.
const STEPS: usize = 100;
/// What probes measure: on images with labels, and on all images.
const LABELLED: [&str; 2] = ["knn_top1", "linear_top1"];
const SIGNALS: [&str; 3] = ["rankme", "effective_rank", "feature_std"];
/// What every epoch reports.
const LOSSES: [&str; 2] = ["loss", "grad_norm"];
/// Below this, the features of a method with a teacher have collapsed.
const LEAST_RANK: f64 = 1.5;
const LEAST_STD: f64 = 0.01;

/// How a run is watched. None of this changes what is trained.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct WatchArgs {
    /// Probe the encoder after every N epochs: k-NN and a small linear classifier on held-out images, RankMe, effective
    /// rank and deviation of the features. The figures go into the progress bar, the log and the event file.
    #[arg(long, value_name = "N")]
    probe_every: Option<usize>,
    /// Keep the weights with the best METRIC of the probes in RUN/best (lowest for loss and grad_norm).
    #[arg(long, value_name = "METRIC")]
    keep_best: Option<String>,
    /// End the run if METRIC < NUMBER or METRIC > NUMBER, optionally `@ epoch N`, such as knn_top1 < 20 @ epoch 10;
    /// repeatable.
    #[arg(long, value_name = "RULE")]
    stop_if: Vec<StopRule>,
    /// End the run if the metric of --keep-best has not improved for N epochs.
    #[arg(long, value_name = "N", requires = "keep_best")]
    patience: Option<usize>,
}

/// Images that the encoder is probed on.
struct Probes {
    every: usize,
    train: Arc<dyn Dataset>,
    /// `None` without labels or held-out images.
    test: Option<Arc<dyn Dataset>>,
    eval: EvalConfig,
    device: Device,
}

/// The best value so far, and its epoch.
struct Best {
    metric: String,
    value: Option<(f64, usize)>,
    is_new: bool,
}

/// Shows, probes and ends a run.
pub(super) struct Watch {
    pub(super) progress: Progress,
    probes: Option<Probes>,
    rules: Vec<StopRule>,
    best: Option<Best>,
    patience: Option<usize>,
    pub(super) mlflow: Option<Mlflow>,
    /// Why the run ends before its last epoch.
    pub(super) ended: Option<String>,
    warned: BTreeSet<&'static str>,
    shown: bool,
}

impl Watch {
    /// A watch of the run of `config`. Only the process that is `shown` probes.
    ///
    /// # Errors
    ///
    /// If a rule or --keep-best names an unknown metric.
    pub(super) fn new(
        args: &WatchArgs,
        config: &RunConfig,
        images: &Images,
        (device, shown): (&Device, bool),
    ) -> Result<Self> {
        let probes = args
            .probe_every
            .map(|every| Probes::new(every, config, images, device));
        let probes = probes.transpose()?;
        let mut known: Vec<&str> = LOSSES.to_vec();
        if let Some(probes) = &probes {
            known.extend(SIGNALS);
            known.extend(probes.test.iter().flat_map(|_| LABELLED));
        }
        let rules = args.stop_if.iter().map(|rule| ("--stop-if", &rule.metric));
        let best = args.keep_best.iter().map(|metric| ("--keep-best", metric));
        for (option, metric) in rules.chain(best) {
            if known.contains(&metric.as_str()) || metric.starts_with("terms.") {
                continue;
            }
            let why = "this run does not measure it";
            let fix = match probes {
                None => format!(
                    "use {}, terms.NAME, or give --probe-every N",
                    known.join(", ")
                ),
                Some(_) => format!("use {} or terms.NAME", known.join(", ")),
            };
            return Err(Error::config("command line", option, metric, why, fix));
        }
        Ok(Self {
            progress: Progress::new(config.train.epochs, shown),
            probes: probes.filter(|_| shown),
            rules: args.stop_if.clone(),
            best: args.keep_best.clone().map(|metric| Best {
                metric,
                value: None,
                is_new: false,
            }),
            patience: args.patience,
            mlflow: None,
            ended: None,
            warned: BTreeSet::new(),
            shown,
        })
    }

    fn warn(&mut self, about: &'static str, line: String) {
        if self.shown && self.warned.insert(about) {
            eprintln!("warning: {line}");
        }
    }

    /// Ends the run, or notes the best weights, depending on the figures of an epoch.
    fn judge(&mut self, epoch: usize, figures: &BTreeMap<String, f64>) {
        for rule in &self.rules {
            let why = rule.ends(epoch, figures);
            self.ended = self.ended.take().or(why);
        }
        let Some(best) = &mut self.best else { return };
        best.is_new = false;
        let Some(value) = figures.get(&best.metric).copied() else {
            return;
        };
        let lower = LOSSES.contains(&best.metric.as_str()) || best.metric.starts_with("terms.");
        let better = |than: f64| if lower { value < than } else { value > than };
        let since = match best.value {
            Some((than, since)) if !better(than) => since,
            _ => {
                (best.value, best.is_new) = (Some((value, epoch)), true);
                epoch
            }
        };
        if self
            .patience
            .is_some_and(|patience| epoch - since >= patience)
        {
            let (metric, waited) = (&best.metric, epoch - since);
            let why = format!("{metric} has not improved for {waited} epochs");
            self.ended = self.ended.take().or(Some(why));
        }
    }
}

impl Probes {
    fn new(every: usize, config: &RunConfig, images: &Images, device: &Device) -> Result<Self> {
        if every == 0 {
            let (why, fix) = ("it is a number of epochs", "use 1 or more");
            return Err(Error::config("command line", "--probe-every", 0, why, fix));
        }
        let some = |images: &Arc<dyn Dataset>, most: usize| -> Result<Arc<dyn Dataset>> {
            let step = images.len().div_ceil(most).max(1);
            let chosen = (0..images.len()).step_by(step).collect();
            Ok(Arc::new(Subset::new(images.clone(), chosen)?))
        };
        let labels = images.train.classes() > 0;
        let held = images.held_out.as_ref().filter(|_| labels);
        let mut eval = config.eval.clone();
        eval.linear.max_iter = eval.linear.max_iter.min(STEPS);
        Ok(Self {
            every,
            train: some(&images.train, PROBED[0])?,
            test: held.map(|(_, held)| some(held, PROBED[1])).transpose()?,
            eval,
            device: device.clone(),
        })
    }

    /// The figures of the encoder as it is now.
    fn figures(&self, method: &dyn Method) -> Result<BTreeMap<String, f64>> {
        let (_, encoder) = choose(method, None)?;
        let settings = (&self.eval, &self.device);
        let train = any_features(encoder, method.input(), self.train.clone(), settings)?;
        let signals = Signals::of(&train)?;
        let values = [signals.rankme, signals.effective_rank, signals.feature_std];
        let names = SIGNALS.map(str::to_owned);
        let mut figures: BTreeMap<_, _> = names.into_iter().zip(values).collect();
        if let Some(test) = &self.test {
            let test = any_features(encoder, method.input(), test.clone(), settings)?;
            let pair = Pair::of_features(train, test);
            let knn = KnnConfig {
                k: self.eval.knn.k.min(pair.images()[0]),
                ..self.eval.knn.clone()
            };
            let eval = EvalConfig {
                knn,
                ..self.eval.clone()
            };
            let values = [pair.knn(&eval)?.top1, pair.linear(&eval)?.top1];
            figures.extend(LABELLED.map(str::to_owned).into_iter().zip(values));
        }
        Ok(figures)
    }
}

impl Observer for Watch {
    fn step(&mut self, report: &StepReport) {
        self.progress.step(report);
    }

    fn measure(&mut self, method: &dyn Method, epoch: usize) -> BTreeMap<String, f64> {
        let due = |probes: &&Probes| (epoch + 1).is_multiple_of(probes.every);
        let Some(probes) = self.probes.as_ref().filter(due) else {
            return BTreeMap::new();
        };
        let figures = match probes.figures(method) {
            Ok(figures) => figures,
            Err(error) => {
                self.warn("probes", format!("the encoder is not probed: {error}"));
                return BTreeMap::new();
            }
        };
        let of = |name: &str| figures.get(name).copied().unwrap_or(f64::INFINITY);
        let (rank, deviation) = (of("effective_rank"), of("feature_std"));
        if method.stores().len() > 1 && (rank < LEAST_RANK || deviation < LEAST_STD) {
            let line = format!(
                "the features have collapsed after epoch {}: effective rank {rank:.2}, deviation {deviation:.4}; lower the \
                 learning rate, or check centring and temperatures of the teacher",
                epoch + 1
            );
            self.warn("collapse", line);
        }
        figures
    }

    fn epoch(&mut self, record: &EpochRecord) {
        self.progress.epoch(record);
        if let Some(mlflow) = &mut self.mlflow {
            mlflow.epoch(record);
        }
        self.progress.measured(&record.measured);
        let mut figures = record.measured.clone();
        figures.insert("loss".to_owned(), record.train_loss);
        figures.insert("grad_norm".to_owned(), record.grad_norm);
        let terms = record.terms.iter();
        figures.extend(terms.map(|(name, value)| (format!("terms.{name}"), *value)));
        for rule in self.rules.clone() {
            if rule.metric.starts_with("terms.") && !figures.contains_key(&rule.metric) {
                let known: Vec<_> = record.terms.keys().map(String::as_str).collect();
                let (metric, known) = (rule.metric, known.join(", "));
                let line =
                    format!("--stop-if {metric}: there is no such term; the terms are {known}");
                self.warn("terms", line);
            }
        }
        self.judge(record.epoch, &figures);
    }

    fn keeps(&self) -> bool {
        self.best.as_ref().is_some_and(|best| best.is_new)
    }

    fn stop(&self) -> bool {
        self.ended.is_some() || self.progress.stop()
    }
}
