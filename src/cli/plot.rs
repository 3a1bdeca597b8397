//! `loss.svg`.

use std::path::Path;

use mim_core::train::{EpochRecord, TrainConfig};
use mim_core::{Error, Result, StepContext, files};
use plotters::prelude::*;

/// Draws the loss of each epoch.
pub(crate) fn loss(records: &[EpochRecord], path: &Path) -> Result<()> {
    let points: Vec<(f64, f64)> = records
        .iter()
        .map(|record| ((record.epoch + 1) as f64, record.train_loss))
        .collect();
    match draw(&points).map_err(|error| undrawn(path, error.as_ref()))? {
        Some(svg) => files::write(path, svg),
        None => Ok(()),
    }
}

fn undrawn(path: &Path, error: &dyn std::error::Error) -> Error {
    let what = format!("the picture cannot be drawn: {error}");
    Error::format(path, what, "report this as a bug")
}

/// Draws the learning rate of every step of a run, and the weight decay if it changes.
pub(crate) fn schedule(
    config: &TrainConfig,
    batch_factor: f64,
    images: usize,
    path: &Path,
) -> Result<()> {
    let steps = config.steps_per_epoch(images, 1)?;
    let lr = config.lr(batch_factor, 1);
    let mut curves = vec![("learning rate", &lr)];
    if let Some(decay) = &config.weight_decay_schedule {
        curves.push(("weight decay", decay));
    }
    let total = config.epochs * steps;
    let places = (0..total)
        .step_by((total / 1000).max(1))
        .map(|step| StepContext {
            epoch: step / steps,
            epochs: config.epochs,
            iter: step % steps,
            iters_per_epoch: steps,
            ..StepContext::new(config.seed)
        });
    let places: Vec<StepContext> = places.collect();
    let curves = curves.into_iter().map(|(name, schedule)| {
        let points = places
            .iter()
            .map(|place| (place.fractional_epoch(), schedule.at(place)));
        (name, points.collect())
    });
    let svg = panels(&curves.collect::<Vec<_>>());
    files::write(path, svg.map_err(|error| undrawn(path, error.as_ref()))?)
}

type Curve<'a> = (&'a str, Vec<(f64, f64)>);

/// A picture as SVG.
type Svg<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Curves over epochs, one below the other.
fn panels(curves: &[Curve<'_>]) -> Svg<String> {
    let height = 260 * u32::try_from(curves.len())?;
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (640, height)).into_drawing_area();
    root.fill(&WHITE)?;
    for (panel, (name, points)) in root.split_evenly((curves.len(), 1)).iter().zip(curves) {
        let last = points.last().map_or(1., |(epoch, _)| epoch.max(1e-3));
        let highest = points.iter().map(|(_, value)| *value).fold(1e-12, f64::max);
        let mut chart = ChartBuilder::on(panel)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(72)
            .build_cartesian_2d(0f64..last, 0f64..1.05 * highest)?;
        let label = |value: &f64| format!("{value:.2e}");
        let mut mesh = chart.configure_mesh();
        mesh.light_line_style(WHITE).x_desc("epoch").y_desc(*name);
        mesh.y_label_formatter(&label).draw()?;
        let line = LineSeries::new(points.iter().copied(), BLUE.stroke_width(2));
        chart.draw_series(line)?;
    }
    root.present()?;
    drop(root);
    Ok(svg)
}

/// The curve of the losses; `None` without losses, or if one is not finite.
fn draw(points: &[(f64, f64)]) -> Svg<Option<String>> {
    let last = points.last().map_or(1., |(epoch, _)| epoch.max(2.));
    let losses = || points.iter().map(|(_, loss)| *loss);
    let (low, high) = (
        losses().fold(f64::INFINITY, f64::min),
        losses().fold(f64::NEG_INFINITY, f64::max),
    );
    if !low.is_finite() || !high.is_finite() {
        return Ok(None);
    }
    let margin = 0.05 * (high - low).max(1e-6);
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (640, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(1f64..last, low - margin..high + margin)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("epoch")
        .y_desc("training loss")
        .draw()?;
    chart.draw_series(LineSeries::new(
        points.iter().copied(),
        BLUE.stroke_width(2),
    ))?;
    root.present()?;
    drop(chart);
    drop(root);
    Ok(Some(svg))
}
