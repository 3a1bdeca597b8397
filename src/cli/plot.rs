//! `loss.svg`.

use std::path::Path;

use mim_core::train::EpochRecord;
use mim_core::{Error, Result};
use plotters::prelude::*;

/// Draws the loss of each epoch.
pub(crate) fn loss(records: &[EpochRecord], path: &Path) -> Result<()> {
    let points: Vec<(f64, f64)> = records
        .iter()
        .map(|record| ((record.epoch + 1) as f64, record.train_loss))
        .collect();
    draw(&points, path)
        .map_err(|error| Error::io("write", path)(std::io::Error::other(error.to_string())))
}

fn draw(points: &[(f64, f64)], path: &Path) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let last = points.last().map_or(1., |(epoch, _)| epoch.max(2.));
    let losses = || points.iter().map(|(_, loss)| *loss);
    let (low, high) = (
        losses().fold(f64::INFINITY, f64::min),
        losses().fold(f64::NEG_INFINITY, f64::max),
    );
    if !low.is_finite() || !high.is_finite() {
        return Ok(());
    }
    let margin = 0.05 * (high - low).max(1e-6);
    let root = SVGBackend::new(path, (640, 400)).into_drawing_area();
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
    Ok(())
}
