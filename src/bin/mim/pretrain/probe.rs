//! Probes of encoders and of raw pixels.

use std::sync::Arc;

use candle_core::Device;
use mim::RunConfig;
use mim_core::data::{Dataset, Split};
use mim_core::{Encoder, Error, Input, Method, Result};
use mim_eval::{ProbeResult, extract, probe, raw_pixels};

/// The probes of a run: pretrained encoder, the same encoder at its initial weights, raw pixels.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rows {
    pub(crate) pretrained: ProbeResult,
    pub(crate) random: ProbeResult,
    pub(crate) raw: ProbeResult,
}

/// What probes need to know.
pub(crate) struct Probes<'a> {
    config: &'a RunConfig,
    train: Arc<dyn Dataset>,
    test: Arc<dyn Dataset>,
    device: &'a Device,
}

impl<'a> Probes<'a> {
    pub(crate) fn new(
        config: &'a RunConfig,
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

    /// Probes the features of a method's encoder: the one called `name`, or the method's first choice.
    pub(crate) fn encoder(&self, method: &dyn Method, name: Option<&str>) -> Result<ProbeResult> {
        let encoder = choose(method, name)?;
        let Input { size, norm } = method.input();
        let features = |data: &Arc<dyn Dataset>| {
            extract(
                encoder.trunk(),
                data.clone(),
                *size,
                norm,
                self.device,
                &self.config.eval,
            )
        };
        probe(
            &features(&self.train)?,
            &features(&self.test)?,
            &self.config.eval,
        )
    }

    /// Probes the pixels of the same views, in the channels of the data.
    fn raw(&self, method: &dyn Method) -> Result<ProbeResult> {
        let eval = &self.config.eval;
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

/// A method's encoder: the one called `name`, or the method's first choice.
pub(crate) fn choose<'a>(method: &'a dyn Method, name: Option<&str>) -> Result<&'a dyn Encoder> {
    let encoders = method.encoders();
    let found = match name {
        Some(name) => encoders.iter().find(|(known, _)| *known == name),
        None => encoders.first(),
    };
    found.map(|(_, encoder)| *encoder).ok_or_else(|| {
        let known: Vec<_> = encoders.iter().map(|(known, _)| *known).collect();
        Error::unsupported(
            format!("probing {}", method.name()),
            match known.as_slice() {
                [] => "it has no encoder".to_owned(),
                known => format!("its encoders are: {}", known.join(", ")),
            },
            "probe an encoder that is there",
        )
    })
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
    let probes = Probes::new(config, train, test, device);
    let random = config.build(device)?;
    Ok(Some(Rows {
        pretrained: probes.encoder(method, None)?,
        random: probes.encoder(random.as_ref(), None)?,
        raw: probes.raw(method)?,
    }))
}
