//! Probes of encoders and of raw pixels.

use std::sync::Arc;

use candle_core::Device;
use mim::RunConfig;
use mim::backbone::choose;
use mim_core::data::{Dataset, Split};
use mim_core::{Encoder, Input, Method, Result};
use mim_eval::{EvalConfig, ProbeResult, extract, probe, raw_pixels};

/// The probes of a run: pretrained encoder, the same encoder at its initial weights, raw pixels.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rows {
    pub(crate) pretrained: ProbeResult,
    pub(crate) random: ProbeResult,
    pub(crate) raw: ProbeResult,
}

/// What probes need to know.
pub(crate) struct Probes<'a> {
    config: &'a EvalConfig,
    train: Arc<dyn Dataset>,
    test: Arc<dyn Dataset>,
    device: &'a Device,
}

impl<'a> Probes<'a> {
    pub(crate) fn new(
        config: &'a EvalConfig,
        train: Arc<dyn Dataset>,
        test: Arc<dyn Dataset>,
        device: &'a Device,
    ) -> Self {
        Self {
            config,
            train,
            test,
            device,
        }
    }

    /// Probes the features of an encoder that takes `input`.
    pub(crate) fn encoder(&self, encoder: &dyn Encoder, input: &Input) -> Result<ProbeResult> {
        let features = |data: &Arc<dyn Dataset>| {
            extract(
                encoder.trunk(),
                data.clone(),
                input.size,
                &input.norm,
                self.device,
                self.config,
            )
        };
        probe(&features(&self.train)?, &features(&self.test)?, self.config)
    }

    /// Probes the pixels of the same views, in the channels of the data.
    fn raw(&self, method: &dyn Method) -> Result<ProbeResult> {
        let eval = self.config;
        let features = |data: &Arc<dyn Dataset>| {
            let channels = data.read(0)?.channels();
            raw_pixels(
                data.clone(),
                eval.view_plan(method.input().size, channels),
                eval,
            )
        };
        probe(&features(&self.train)?, &features(&self.test)?, eval)
    }
}

/// All three rows; none where the data has no labels or no test images.
pub(crate) fn all(
    config: &RunConfig,
    method: &dyn Method,
    device: &Device,
) -> Result<Option<Rows>> {
    let source = &config.data.source;
    let train = source.open(Split::Train)?;
    if train.classes() == 0 {
        eprintln!("no probes: the images have no labels");
        return Ok(None);
    }
    let test = match source.open(Split::Test) {
        Ok(test) => test,
        Err(error) => {
            eprintln!("no probes: {error}");
            return Ok(None);
        }
    };
    if method.encoder().is_none() {
        eprintln!("no probes: {} has no encoder", method.name());
        return Ok(None);
    }
    let probes = Probes::new(&config.eval, train, test, device);
    let encoder = |method: &dyn Method| probes.encoder(choose(method, None)?, method.input());
    let random = config.build(device)?;
    Ok(Some(Rows {
        pretrained: encoder(method)?,
        random: encoder(random.as_ref())?,
        raw: probes.raw(method)?,
    }))
}
