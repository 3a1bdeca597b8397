//! Every method on images of values of other numbers of channels: it trains on them, or says what it needs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use candle_core::{Device, Tensor};
use mim_core::augment::Sample;
use mim_core::rng::stream;
use mim_core::{Batch, Error, Method, Norm, Purpose, Result, StepContext, View};
use toml::{Table, Value};

/// Four images of `channels` channels through the views of a method.
fn batch(method: &dyn Method, channels: usize) -> Result<Batch> {
    let size = (40, 48);
    let plan = method.views(0);
    let mut views: Vec<Vec<Sample>> = vec![];
    for image in 0..4usize {
        let values = (0..size.0 * size.1 * channels)
            .map(|at| ((at * 2_654_435 + image * 977) % 1009) as f32 / 1009.);
        let sample = Sample::of_values(values.collect(), size, channels)?;
        let mut rng = stream(0, Purpose::Augment, [image as u64, 0]);
        views.push(plan.apply(sample, &mut rng)?);
    }
    let view = |place: usize| {
        let (height, width) = views[0][place].size();
        let mut planes = vec![];
        views
            .iter()
            .for_each(|of_image| of_image[place].append_values(&mut planes));
        let shape = (4, channels, height, width);
        let crops = views.iter().map(|of_image| of_image[place].crop());
        View::of_unit(
            Tensor::from_vec(planes, shape, &Device::Cpu)?,
            crops.collect(),
        )
    };
    Ok(Batch {
        views: (0..views[0].len()).map(view).collect::<Result<_>>()?,
        labels: Some(Tensor::new(&[0u32, 3, 1, 9], &Device::Cpu)?),
        indices: vec![0, 1, 2, 3],
        ..Batch::single(view(0)?)
    })
}

/// The settings for images of `channels` channels; none if the method has no such setting.
fn with_channels(tiny: &common::Tiny, channels: usize) -> Option<Table> {
    let mut settings = tiny.resolved();
    let part = ["encoder", "network"].into_iter().find(|part| {
        let table = settings.get(*part).and_then(Value::as_table);
        table.is_some_and(|table| table.contains_key("in_channels"))
    })?;
    let table = settings.get_mut(part)?.as_table_mut()?;
    table.insert("in_channels".to_owned(), (channels as i64).into());
    if settings.contains_key("norm") {
        let norm = Value::try_from(Norm::uniform(0.5, 0.25, channels)).unwrap();
        settings.insert("norm".to_owned(), norm);
    }
    Some(settings)
}

fn loss(tiny: &common::Tiny, settings: Table, channels: usize) -> Result<f32> {
    let method = tiny.entry().build(settings, &Device::Cpu, 0)?;
    let batch = batch(method.as_ref(), channels)?;
    let terms = method.forward(&batch, &StepContext::new(0))?;
    Ok(terms.total()?.to_scalar()?)
}

/// Whether an error is about settings and names channels.
fn says_what_it_needs(error: &Error) -> bool {
    let of_settings = matches!(
        error,
        Error::InvalidConfig { .. } | Error::Unsupported { .. }
    );
    of_settings && error.to_string().contains("channels")
}

/// Whether a method opens another network, which is of RGB images here.
fn has_teacher(settings: &Table) -> bool {
    settings.iter().any(|(key, value)| match value {
        Value::Table(table) => has_teacher(table),
        _ => key == "checkpoint",
    })
}

#[test]
fn methods_take_other_channels_or_name_what_needs_three() {
    let (mut trained, mut refused, mut wrong) = (0, 0, vec![]);
    for tiny in common::all() {
        for channels in [1, 12] {
            let Some(settings) = with_channels(&tiny, channels) else {
                continue;
            };
            match loss(&tiny, settings, channels) {
                Ok(loss) if loss.is_finite() => trained += 1,
                Ok(loss) => wrong.push(format!("{} of {channels}: loss {loss}", tiny.file)),
                Err(error) if says_what_it_needs(&error) && has_teacher(&tiny.settings) => {
                    refused += 1;
                }
                Err(error) => wrong.push(format!("{} of {channels}: {error}", tiny.file)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Most train; those with a teacher or tokenizer of RGB images refuse.
    assert!(trained > 50 && refused > 6, "{trained} {refused}");
}
