//! `mim eval segment`: masks, the pretrained encoder and a random one.

use std::path::Path;
use std::time::Instant;

use candle_core::Device;
use mim_core::data::{DataSource, Split};
use mim_core::{Encoder, Error, Result};
use mim_eval::{MaskFolder, MaskedDataset, Outcome, PastedObjects, SegmentConfig};

use crate::backbone::Backbone;
use crate::cli::eval::{Args, Measured, images};

/// Trains and measures the head on the pretrained encoder, and on the same encoder at random weights.
pub(crate) fn measure(
    args: &Args,
    model: &Backbone,
    config: &SegmentConfig,
    device: &Device,
) -> Result<Measured> {
    if let Some(pooling) = args.pooling {
        let (why, fix) = ("segmentation reads every patch", "omit it");
        let value = format!("{pooling:?}").to_lowercase();
        return Err(Error::config("command line", "--pooling", value, why, fix));
    }
    config.check()?;
    let (split, [train, test]) = masks(args, model)?;
    let scores = |encoder: &dyn Encoder, what: &str| {
        eprintln!("segmentation on the {what} encoder ...");
        let started = Instant::now();
        let data = (train.as_ref(), test.as_ref());
        let scores = config.scores((encoder, &model.input), data, (&model.eval, device))?;
        eprintln!("{what}: {:.1} s", started.elapsed().as_secs_f64());
        scores.outcome()
    };
    let (name, encoder) = model.encoder(args.encoder.as_deref())?;
    let mut outcome = scores(encoder, "pretrained")?;
    if config.random {
        let random = model.random(device)?;
        let (_, encoder) = random.encoder(args.encoder.as_deref())?;
        let Outcome { figures, .. } = scores(encoder, "random")?;
        for (figure, value) in figures {
            outcome.push(format!("random_{figure}"), value);
        }
    }
    Ok(Measured {
        encoder: name.to_owned(),
        split,
        images: [train.len().min(config.max_train), test.len()],
        outcome,
    })
}

/// The name of the split to measure on, and images with masks, from a folder or made of labelled images.
fn masks(args: &Args, model: &Backbone) -> Result<(String, [Box<dyn MaskedDataset>; 2])> {
    if let Some(root) = mask_folder(&model.data.source) {
        let train = MaskFolder::open(root, Split::Train)?;
        let (split, held_out) = match args.split {
            Some(split) => (split, MaskFolder::open(root, split)?),
            None => match MaskFolder::open(root, Split::Val) {
                Err(Error::NoSplit { .. }) => (Split::Test, MaskFolder::open(root, Split::Test)?),
                found => (Split::Val, found?),
            },
        };
        return Ok((split.to_string(), [Box::new(train), Box::new(held_out)]));
    }
    let (split, [train, test]) = images(args, &model.data, model.seed)?;
    let made = |images, split| PastedObjects::new(images, model.input.size, split);
    let (train, test) = (made(train, Split::Train)?, made(test, Split::Test)?);
    let source = &model.data.source;
    eprintln!(
        "{source} has no masks: its objects are pasted on textures, classes 1 to {} on 0",
        train.classes() - 1
    );
    Ok((split, [Box::new(train), Box::new(test)]))
}

/// The folder of a source, if there are masks in it.
fn mask_folder(source: &DataSource) -> Option<&Path> {
    match source {
        DataSource::Detect(path) | DataSource::Folder(path) if MaskFolder::recognises(path) => {
            Some(path)
        }
        _ => None,
    }
}
