//! Features of labelled images: the output of an encoder, or the pixels.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use mim_core::augment::ViewPlan;
use mim_core::data::{Dataset, Loader, Subset};
use mim_core::{
    Batch, EncodeOptions, Encoded, Encoder, Error, ImageSize, Masking, Norm, Result, StepContext,
};

use crate::EvalConfig;
use crate::checks::check_finite;

/// Maximum side in pixels of raw pixels as features.
const RAW_SIDE: usize = 64;
/// Cubes per axis for a raw cloud.
const CUBES: usize = 8;

/// One feature and one label per image.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    values: Vec<f32>,
    dim: usize,
    labels: Vec<u32>,
}

impl Features {
    /// Features `[labels.len(), dim]`, row by row.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if there are no features, or lengths do not match; [`Error::Unsupported`] if a value is
    /// infinite or NaN.
    pub fn new(values: Vec<f32>, dim: usize, labels: Vec<u32>) -> Result<Self> {
        if labels.is_empty() || dim == 0 || values.len() != labels.len() * dim {
            return Err(Error::shape(
                "features",
                format!("dim {dim} > 0 values for each of {} labels", labels.len()),
                values.len(),
                "pass one row of dim values and one label per image, for at least one image",
            ));
        }
        check_finite(&values, dim, |row| row.to_string())?;
        Ok(Self {
            values,
            dim,
            labels,
        })
    }

    /// Features from rows that were checked already.
    pub(crate) fn of_parts(values: Vec<f32>, dim: usize, labels: Vec<u32>) -> Self {
        Self {
            values,
            dim,
            labels,
        }
    }

    /// The values `[len, dim]`, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Width of a feature.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The class of each image.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images; always false for features from [`Features::new`].
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The feature of image `index`, below [`Features::len`].
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.dim..][..self.dim]
    }
}

/// Computes features of `dataset` with the trunk of `encoder`, without a mask.
///
/// `image_size` is the encoder's; `norm` is its normalisation, with one mean per input channel, to which
/// the images are converted. The order is that of the data set.
///
/// # Errors
///
/// [`Error::Unsupported`] if the data set has no labels, if the encoder lacks a requested class token, or if a feature
/// is not finite; otherwise errors of the loader and the encoder.
pub fn extract(
    encoder: &dyn Encoder,
    dataset: Arc<dyn Dataset>,
    image_size: ImageSize,
    norm: &Norm,
    device: &Device,
    config: &EvalConfig,
) -> Result<Features> {
    let plan = config.view_plan(image_size, norm.mean.len());
    collect(dataset, plan, config, |batch| {
        pooled(encoder, batch, norm, device, config)
    })
}

/// The features of a batch, `[batch, dim]`.
fn pooled(
    encoder: &dyn Encoder,
    batch: &Batch,
    norm: &Norm,
    device: &Device,
    config: &EvalConfig,
) -> Result<Tensor> {
    let encoded = encode(encoder, batch, norm, device, config)?;
    pool(&encoded, config)
}

/// The output of the trunk of an encoder for a batch, with the layers of `config`.
pub(crate) fn encode(
    encoder: &dyn Encoder,
    batch: &Batch,
    norm: &Norm,
    device: &Device,
    config: &EvalConfig,
) -> Result<Encoded> {
    let (encoder, step) = (encoder.trunk(), StepContext::inference());
    let images = batch.view(0)?.to_device(device)?.normalized(norm)?;
    let want = EncodeOptions {
        layers: config.layers.clone(),
        ..EncodeOptions::default()
    };
    let encoded = encoder.encode(&images, Masking::None, &want, &step)?;
    let known = |layer: &&usize| encoded.layers.iter().any(|(known, _)| known == *layer);
    if let Some(layer) = config.layers.iter().find(|layer| !known(layer)) {
        let why = "the encoder does not have this block";
        let fix = "count blocks from 0";
        return Err(Error::config("evaluation", "layers", layer, why, fix));
    }
    Ok(encoded)
}

/// The pooled final output `[batch, dim]`, or those of the layers of `config` side by side.
pub(crate) fn pool(encoded: &Encoded, config: &EvalConfig) -> Result<Tensor> {
    let pooled = match config.layers.as_slice() {
        [] => config.pooling.apply(encoded)?,
        layers => {
            let parts = layers
                .iter()
                .map(|layer| config.pooling.of_layer(encoded, *layer));
            Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1)?
        }
    };
    Ok(pooled.detach())
}

/// Raw pixels as features: the baseline that every encoder should beat.
///
/// A feature is the first view of an image as bytes / 255 in the channels of the data set, flattened. For a point cloud
/// it is the share of points in each of 8 x 8 x 8 cubes around the centre; the outer ones reach to 1.
///
/// Images with more than 64 pixels per side are averaged over blocks to at most 64. If there are more
/// images than [`LinearConfig::max_train`](crate::LinearConfig), evenly spaced ones are used, so memory is bounded.
///
/// # Errors
///
/// [`Error::Unsupported`] if the data set has no labels; otherwise errors of the loader.
pub fn raw_pixels(
    dataset: Arc<dyn Dataset>,
    plan: ViewPlan,
    config: &EvalConfig,
) -> Result<Features> {
    let (all, most) = (dataset.len(), config.linear.max_train);
    let dataset = match all <= most {
        true => dataset,
        false => {
            let spread = (0..most).map(|place| place * all / most);
            Arc::new(Subset::new(dataset, spread.collect())?)
        }
    };
    collect(dataset, plan, config, |batch| {
        let view = batch.view(0)?;
        if view.is_of_points() {
            return shares(view.points()?);
        }
        let pixels = view.unit()?;
        let (_, _, height, width) = pixels.dims4()?;
        let block = height.max(width).div_ceil(RAW_SIDE);
        let pixels = match block {
            1 => pixels,
            block => pixels.avg_pool2d(block.min(height).min(width))?,
        };
        Ok(pixels.flatten_from(1)?)
    })
}

/// Shares of the points `[batch, points, 3]` in each of `CUBES`^3 cubes of `[-1, 1]^3`, `[batch, CUBES^3]`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the cubes"
)]
fn shares(points: &Tensor) -> Result<Tensor> {
    let (batch, count, _) = points.dims3()?;
    let values: Vec<f32> = points.flatten_all()?.to_vec1()?;
    let mut all = vec![0f32; batch * CUBES.pow(3)];
    let clouds = values.chunks_exact(3 * count);
    for (shares, cloud) in all.chunks_exact_mut(CUBES.pow(3)).zip(clouds) {
        for point in cloud.as_chunks::<3>().0 {
            let cube = point.iter().fold(0, |cube, value| {
                let place = (value + 1.) / 2. * CUBES as f32;
                cube * CUBES + place.clamp(0., CUBES as f32 - 1.) as usize
            });
            shares[cube] += 1. / count as f32;
        }
    }
    Ok(Tensor::from_vec(all, (batch, CUBES.pow(3)), &Device::Cpu)?)
}

/// Collects the rows `[batch, dim]` that `features` computes for each batch.
fn collect(
    dataset: Arc<dyn Dataset>,
    plan: ViewPlan,
    config: &EvalConfig,
    features: impl Fn(&Batch) -> Result<Tensor>,
) -> Result<Features> {
    config.check()?;
    let unlabelled = || {
        Error::unsupported(
            "probing a data set without labels",
            "probes measure how well classes are separated",
            "use labelled data, such as a folder with one sub-folder per class",
        )
    };
    if dataset.classes() == 0 {
        return Err(unlabelled());
    }
    let loader = Loader::new(dataset, plan, config.loader(), 0)?;
    let (mut values, mut labels, mut dim) = (vec![], vec![], None);
    for batch in loader.sequential()? {
        let batch = batch?;
        if batch.is_empty() {
            continue;
        }
        labels.extend(
            batch
                .labels
                .as_ref()
                .ok_or_else(unlabelled)?
                .to_vec1::<u32>()?,
        );
        let rows = features(&batch)?.to_dtype(DType::F32)?;
        let (count, width) = rows.dims2()?;
        if count != batch.len() || *dim.get_or_insert(width) != width {
            return Err(Error::shape(
                "features of a batch",
                [batch.len(), dim.unwrap_or(width)],
                rows.dims(),
                "use views of equal size, and an encoder with one row per image",
            ));
        }
        values.extend(rows.flatten_all()?.to_vec1::<f32>()?);
    }
    Features::new(values, dim.unwrap_or_default(), labels)
}
