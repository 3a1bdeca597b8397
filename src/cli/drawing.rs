//! Sheets of what a model sees: masks, attention, features, neighbours.

use std::sync::{Arc, Mutex, PoisonError};

use crate::DataConfig;
use candle_core::{DType, Device, Tensor};
use mim_core::data::{Dataset, Loader, LoaderConfig, Subset};
use mim_core::ops::HogGradient;
use mim_core::{Batch, Encoder, Error, Method, PatchGrid, Result, StepContext, TraceSink};
use mim_eval::{EvalConfig, Features, attention_maps, hog_glyphs, pca_maps};

/// A column of a sheet: its heading and its images `[count, channels, height, width]` in `[0, 1]`.
pub(crate) type Column = (String, Tensor);

/// Number of training images that are searched for neighbours.
const BANK: usize = 2000;
/// Minimum side in pixels of the drawing of a histogram.
const GLYPH: usize = 15;
/// Number of neighbours that are drawn.
const NEIGHBOURS: usize = 5;

/// Keeps the first intermediate whose name starts with a prefix.
struct First {
    start: &'static str,
    kept: Mutex<Option<(String, Tensor)>>,
}

impl TraceSink for First {
    fn record(&self, name: &str, value: &Tensor) -> Result<()> {
        if name.starts_with(self.start) {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.get_or_insert_with(|| (name.to_owned(), value.detach()));
        }
        Ok(())
    }
}

/// The first intermediate of a training step whose name starts with a prefix.
fn traced(
    method: &dyn Method,
    batch: &Batch,
    (start, seed): (&'static str, u64),
) -> Result<Option<(String, Tensor)>> {
    let kept = Mutex::new(None);
    let sink = Arc::new(First { start, kept });
    let step = StepContext {
        trace: Some(sink.clone()),
        ..StepContext::new(seed)
    };
    method.forward(batch, &step)?;
    let mut kept = sink.kept.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(kept.take())
}

/// Columns with three channels at most: of images of more those that `data` says.
pub(crate) fn shown(columns: Vec<Column>, data: &DataConfig) -> Result<Vec<Column>> {
    let columns = columns.into_iter();
    columns
        .map(|(name, images)| Ok((name, data.shown(&images)?)))
        .collect()
}

/// The images of the first view in `[0, 1]`, on the CPU.
fn unit(batch: &Batch) -> Result<Tensor> {
    Ok(batch.view(0)?.unit()?.to_device(&Device::Cpu)?)
}

/// The first view with hidden patches in grey, as a training step masks it.
pub(crate) fn masked(method: &dyn Method, batch: &Batch, seed: u64) -> Result<Column> {
    let kept = traced(method, batch, ("mask", seed))?;
    let (_, bits) = kept.ok_or_else(|| {
        let why = "it hides nothing, or does not report its masks";
        Error::unsupported(
            format!("masks of {}", method.name()),
            why,
            "choose something else by --what",
        )
    })?;
    let images = unit(batch)?;
    let (count, _, height, width) = images.dims4()?;
    // The first of several masks per image.
    let bits = bits.to_device(&Device::Cpu)?.narrow(0, 0, count)?;
    let tokens = bits.dim(1)?;
    let grid = grid_of(tokens, (height, width)).ok_or_else(|| {
        let expected = format!("a grid in the proportions of {height}x{width} pixels");
        Error::shape("mask", expected, tokens, "report this as a bug")
    })?;
    let bits = bits.reshape((count, 1, grid.rows, grid.cols))?;
    let hidden = bits
        .to_dtype(DType::F32)?
        .upsample_nearest2d(height, width)?;
    let visible = hidden.affine(-1., 1.)?;
    let drawn = (images
        .broadcast_mul(&visible)?
        .broadcast_add(&(hidden * 0.5)?))?;
    Ok(("masked".to_owned(), drawn))
}

/// The views of a training step next to the histograms of oriented gradients that it predicts.
pub(crate) fn hog(method: &dyn Method, batch: &Batch, seed: u64) -> Result<Vec<Column>> {
    let kept = traced(method, batch, ("hog.", seed))?;
    let (name, histograms) = kept.ok_or_else(|| {
        let why = "it predicts none";
        let fix = "use a run of maskfeat, fastmim or dmjd, or of custom with target.type=hog";
        Error::unsupported(format!("HOG targets of {}", method.name()), why, fix)
    })?;
    let gradient = match name.starts_with("hog.central") {
        true => HogGradient::Central,
        false => HogGradient::Sobel,
    };
    let view = name
        .rsplit("view")
        .next()
        .and_then(|view| view.parse().ok());
    let images = batch
        .view(view.unwrap_or(0))?
        .unit()?
        .to_device(&Device::Cpu)?;
    let (_, _, height, width) = images.dims4()?;
    let cell = height / histograms.dim(3)?;
    // The first of several rows per image.
    let histograms = histograms.narrow(0, 0, images.dim(0)?)?;
    let scale = GLYPH.div_ceil(cell);
    let enlarged = images.upsample_nearest2d(height * scale, width * scale)?;
    Ok(vec![
        ("view".to_owned(), enlarged),
        (
            "hog target".to_owned(),
            hog_glyphs(&histograms, gradient, cell * scale)?,
        ),
    ])
}

/// The grid with this number of tokens and the proportions of an image.
fn grid_of(tokens: usize, (height, width): (usize, usize)) -> Option<PatchGrid> {
    let fits =
        |rows: &usize| tokens.is_multiple_of(*rows) && rows * width == tokens / rows * height;
    (1..=tokens)
        .find(fits)
        .map(|rows| PatchGrid::new(rows, tokens / rows))
}

/// The images, and the attention of each head.
pub(crate) fn attention(
    encoder: &dyn Encoder,
    batch: &Batch,
    normed: &Tensor,
) -> Result<Vec<Column>> {
    let mut columns = vec![("image".to_owned(), unit(batch)?)];
    for (map, head) in attention_maps(encoder, normed)?.into_iter().zip(1..) {
        columns.push((format!("head {head}"), map));
    }
    Ok(columns)
}

/// The images, and the main directions of their patch features as colours.
pub(crate) fn pca(encoder: &dyn Encoder, batch: &Batch, normed: &Tensor) -> Result<Vec<Column>> {
    let maps = pca_maps(encoder, normed)?;
    Ok(vec![
        ("image".to_owned(), unit(batch)?),
        ("features".to_owned(), maps),
    ])
}

/// Up to `most` images, spread over a data set.
pub(crate) fn spread(images: &Arc<dyn Dataset>, most: usize) -> Result<Arc<dyn Dataset>> {
    let count = most.min(images.len());
    let chosen = (0..count).map(|index| index * images.len() / count.max(1));
    Ok(Arc::new(Subset::new(images.clone(), chosen.collect())?))
}

/// All images of a data set as one batch, prepared for evaluation.
pub(crate) fn one_batch(
    images: &Arc<dyn Dataset>,
    input: &mim_core::Input,
    eval: &EvalConfig,
) -> Result<Batch> {
    let plan = eval.view_plan(input.size, input.channels());
    let loading = LoaderConfig {
        batch_size: images.len().max(1),
        workers: 0,
        ..LoaderConfig::default()
    };
    let mut batches = Loader::new(images.clone(), plan, loading, 0)?.sequential()?;
    batches.next().ok_or_else(|| {
        let (what, why) = ("a picture", "there is no image to draw");
        Error::unsupported(what, why, "give images")
    })?
}

/// Images, and the training images whose features are nearest, the nearest first.
pub(crate) fn neighbours(
    features: impl Fn(Arc<dyn Dataset>) -> Result<Features>,
    (train, queries): (&Arc<dyn Dataset>, &Arc<dyn Dataset>),
    draw: impl Fn(&Arc<dyn Dataset>) -> Result<Tensor>,
) -> Result<Vec<Column>> {
    let bank = spread(train, BANK)?;
    let (known, asked) = (features(bank.clone())?, features(queries.clone())?);
    let mut nearest: Vec<Vec<usize>> = vec![Vec::new(); NEIGHBOURS.min(bank.len())];
    for query in 0..asked.len() {
        let mut order: Vec<(f64, usize)> = (0..known.len())
            .map(|at| (cosine(asked.row(query), known.row(at)), at))
            .collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (place, (_, at)) in nearest.iter_mut().zip(order) {
            place.push(at);
        }
    }
    let mut columns = vec![("image".to_owned(), draw(queries)?)];
    for (at, place) in nearest.into_iter().zip(1..) {
        let chosen: Arc<dyn Dataset> = Arc::new(Subset::new(bank.clone(), at)?);
        columns.push((format!("nearest {place}"), draw(&chosen)?));
    }
    Ok(columns)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1e-12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_have_the_proportions_of_the_image() {
        assert_eq!(grid_of(64, (32, 32)), Some(PatchGrid::new(8, 8)));
        assert_eq!(grid_of(8, (16, 32)), Some(PatchGrid::new(2, 4)));
        assert_eq!(grid_of(7, (32, 32)), None);
    }

    #[test]
    fn parallel_features_are_the_nearest() {
        assert!((cosine(&[1., 2.], &[2., 4.]) - 1.).abs() < 1e-9);
        assert_eq!(cosine(&[0., 0.], &[1., 0.]), 0.);
    }
}
