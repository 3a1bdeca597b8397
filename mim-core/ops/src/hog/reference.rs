//! Histograms of oriented gradients in candle operations.

use candle_core::{DType, Tensor};

use super::{HALF_TURN, HogFilter, HogGradient, edges, gaussian};
use crate::Result;

/// See [`super::hog`].
pub(super) fn hog(images: &Tensor, filter: HogFilter) -> Result<Tensor> {
    let HogFilter {
        bins, cell, window, ..
    } = filter;
    let (batch, channels, height, width) = images.dims4()?;
    let (first, second) = match filter.gradient {
        HogGradient::Sobel => sobel(images)?,
        HogGradient::Central => (central(images, 2)?, central(images, 3)?),
    };
    let mut magnitude = (first.sqr()? + second.sqr()?)?.sqrt()?;
    if let Some(side) = window {
        let tile = Tensor::from_vec(gaussian(side), (side, side), images.device())?;
        let tiles = tile.repeat((height / side, width / side))?;
        magnitude = magnitude.broadcast_mul(&tiles)?;
    }
    let bin = bin(&first, &second, bins)?;
    let histograms = (0..bins).map(|index| {
        let inside = bin.eq(index as f64)?.to_dtype(DType::F32)?;
        let cells = (inside * &magnitude)?
            .reshape(&[batch, channels, height / cell, cell, width / cell, cell][..])?;
        Ok(cells.sum((3, 5))?)
    });
    Ok(Tensor::stack(&histograms.collect::<Result<Vec<_>>>()?, 2)?)
}

/// Bin of the direction (first, second), turned to a non-negative first component: the number of bin edges passed.
pub(super) fn bin(first: &Tensor, second: &Tensor, bins: usize) -> Result<Tensor> {
    let negative = first.lt(0f64)?;
    let turned = |xs: &Tensor| -> Result<Tensor> { Ok(negative.where_cond(&xs.neg()?, xs)?) };
    let (rise, run) = (turned(first)?, turned(second)?);
    let mut bin = rise.zeros_like()?;
    for edge in edges(bins) {
        let [plain, turned] = edge.cos.map(|cos| &rise * f64::from(cos));
        let reach = negative.where_cond(&turned?, &plain?)?;
        let passed = reach.ge(&(&run * f64::from(edge.sin))?)?;
        bin = (bin + passed.to_dtype(DType::F32)?)?;
    }
    let half_turn = first
        .lt(&(second * -f64::from(HALF_TURN))?)?
        .mul(&first.gt(0f64)?)?;
    let counts = (rise.gt(0f64)?.to_dtype(DType::F32)? - half_turn.to_dtype(DType::F32)?)?;
    Ok((bin * counts)?)
}

/// Differences of both neighbours along `axis`, zero at the ends.
fn central(images: &Tensor, axis: usize) -> Result<Tensor> {
    let length = images.dim(axis)?;
    let inner = (images.narrow(axis, 2, length - 2)? - images.narrow(axis, 0, length - 2)?)?;
    Ok(inner.pad_with_zeros(axis, 1, 1)?)
}

/// Horizontal and vertical Sobel filters, added tap by tap.
fn sobel(images: &Tensor) -> Result<(Tensor, Tensor)> {
    let (_, _, height, width) = images.dims4()?;
    let reflected = |length: usize| -> Result<Tensor> {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let places = std::iter::once(1)
            .chain(0..length)
            .chain(std::iter::once(length - 2));
        Ok(Tensor::new(places.collect::<Vec<u32>>(), images.device())?)
    };
    let padded = images
        .index_select(&reflected(height)?, 2)?
        .index_select(&reflected(width)?, 3)?;
    let tap = |row: usize, col: usize, weight: f64| -> Result<Tensor> {
        Ok((padded.narrow(2, row, height)?.narrow(3, col, width)? * weight)?)
    };
    let sum = |taps: [(usize, usize, f64); 6]| -> Result<Tensor> {
        let mut total = images.zeros_like()?;
        for (row, col, weight) in taps {
            total = (total + tap(row, col, weight)?)?;
        }
        Ok(total)
    };
    Ok((
        sum([
            (0, 0, 1.),
            (0, 2, -1.),
            (1, 0, 2.),
            (1, 2, -2.),
            (2, 0, 1.),
            (2, 2, -1.),
        ])?,
        sum([
            (0, 0, 1.),
            (0, 1, 2.),
            (0, 2, 1.),
            (2, 0, -1.),
            (2, 1, -2.),
            (2, 2, -1.),
        ])?,
    ))
}
