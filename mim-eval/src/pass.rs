//! Features of many images, a batch at a time.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use mim_core::data::{Batches, Dataset, Loader};
use mim_core::{Batch, Encoded, Encoder, Error, Input, Result};

use crate::EvalConfig;
use crate::checks::check_finite;
use crate::features::{encode, pool};

/// Computes the features of images with or without labels, in the order of the data set.
///
/// One batch is in memory at a time, so there may be any number of images.
///
/// ```
/// use candle_core::Device;
/// use mim_core::data::{DataSource, Split};
/// use mim_core::encoders::{Vit, VitConfig};
/// use mim_core::params::{Init, ParamStore};
/// use mim_core::{Input, Norm};
/// use mim_eval::{EvalConfig, FeaturePass};
///
/// let vit = VitConfig { image_size: 28.into(), in_channels: 1, embed_dim: 16, depth: 1, ..VitConfig::small() };
/// let store = ParamStore::new(&Device::Cpu, 0, Init::Mae.build(vit.patch_values()));
/// let encoder = Vit::new(&store.root(), &vit)?;
///
/// let images = DataSource::Embedded.open(Split::Train)?;
/// let input = Input { size: vit.image_size, norm: Norm::uniform(0.286, 0.353, 1) };
/// let eval = EvalConfig { batch_size: 100, ..EvalConfig::default() };
/// let pass = FeaturePass::new(&encoder, images, &input, &eval);
/// for rows in pass.batches(0, vec![])?.take(2) {
///     let rows = rows?;
///     assert_eq!((rows.values.len(), &rows.dims[..]), (100 * 16, &[16][..]));
/// }
/// # Ok::<(), mim_core::Error>(())
/// ```
#[derive(Clone)]
pub struct FeaturePass<'a> {
    encoder: &'a dyn Encoder,
    dataset: Arc<dyn Dataset>,
    input: &'a Input,
    config: &'a EvalConfig,
    device: Device,
    tokens: bool,
}

/// Features of the images of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureRows {
    /// The values of all rows, one row after another.
    pub values: Vec<f32>,
    /// The sizes of a row: `[dim]`, or `[tokens, dim]`; empty if there is no row.
    pub dims: Vec<usize>,
    /// Images of the batch that could not be read, by their index in the data set; they have no row.
    pub left_out: Vec<usize>,
}

impl<'a> FeaturePass<'a> {
    /// A pass of the trunk of `encoder`, without a mask, over images that are converted to `input`; on the CPU.
    pub fn new(
        encoder: &'a dyn Encoder,
        dataset: Arc<dyn Dataset>,
        input: &'a Input,
        config: &'a EvalConfig,
    ) -> Self {
        Self {
            encoder,
            dataset,
            input,
            config,
            device: Device::Cpu,
            tokens: false,
        }
    }

    /// On another device, which is that of the encoder.
    pub fn on(self, device: &Device) -> Self {
        let device = device.clone();
        Self { device, ..self }
    }

    /// A row is the tokens of all patches, in the order of rows of the image, without the class token; not one pooled
    /// feature. The width is that of the final output, or of all [`EvalConfig::layers`] together.
    pub fn of_tokens(self) -> Self {
        let tokens = true;
        Self { tokens, ..self }
    }

    /// The features from batch `start` on, of [`EvalConfig::batch_size`] images each; images of `left_out` could not
    /// be read before.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for an invalid setting. The batches give [`Error::Unsupported`] if the encoder lacks a
    /// requested class token, if a feature is not finite, or if too many images cannot be read; otherwise errors of
    /// the encoder.
    pub fn batches(
        &self,
        start: usize,
        left_out: Vec<usize>,
    ) -> Result<impl Iterator<Item = Result<FeatureRows>>> {
        self.config.check()?;
        let plan = self
            .config
            .view_plan(self.input.size, self.input.channels());
        let loader = Loader::new(self.dataset.clone(), plan, self.config.loader(), 0)?;
        let mut known = left_out.len();
        let mut batches = loader.sequential_from(start, left_out)?;
        let next = move || {
            let batch = batches.next()?;
            let left_out = newly_left_out(&batches, &mut known);
            Some(batch.and_then(|batch| self.rows(&batch, left_out)))
        };
        Ok(std::iter::from_fn(next))
    }

    fn rows(&self, batch: &Batch, left_out: Vec<usize>) -> Result<FeatureRows> {
        if batch.is_empty() {
            return Ok(FeatureRows {
                values: vec![],
                dims: vec![],
                left_out,
            });
        }
        let (norm, config) = (&self.input.norm, self.config);
        let encoded = encode(self.encoder, batch, norm, &self.device, config)?;
        let features = match self.tokens {
            true => tokens(&encoded, config)?,
            false => pool(&encoded, config)?,
        };
        let dims = features.dims()[1..].to_vec();
        let values = features.to_dtype(DType::F32)?.flatten_all()?;
        let values: Vec<f32> = values.to_vec1()?;
        check_finite(&values, dims.iter().product(), |row| {
            let image = batch.indices.get(row).map_or(row, |index| *index as usize);
            format!("{image} ({})", self.dataset.name_of(image))
        })?;
        Ok(FeatureRows {
            values,
            dims,
            left_out,
        })
    }
}

/// What the last batch added to the images that are left out.
fn newly_left_out(batches: &Batches, known: &mut usize) -> Vec<usize> {
    let new = batches.left_out()[*known..].to_vec();
    *known += new.len();
    new
}

/// The tokens of the patches, `[batch, tokens, dim]`: of the final output, or of the layers of `config` side by side.
fn tokens(encoded: &Encoded, config: &EvalConfig) -> Result<Tensor> {
    if config.layers.is_empty() {
        return encoded.patches();
    }
    let of_layer = |layer: &usize| {
        let tokens = encoded.layer(*layer)?;
        let count = tokens.dim(1)? - encoded.prefix;
        Ok(tokens.narrow(1, encoded.prefix, count)?)
    };
    let parts: Vec<Tensor> = config.layers.iter().map(of_layer).collect::<Result<_>>()?;
    if parts
        .iter()
        .any(|part| part.dim(1).ok() != parts[0].dim(1).ok())
    {
        let why = "these blocks have different numbers of tokens";
        let fix = "choose blocks of one stage of the encoder";
        let layers = format!("{:?}", config.layers);
        return Err(Error::config("evaluation", "layers", layers, why, fix));
    }
    Ok(Tensor::cat(&parts, 2)?)
}

impl std::fmt::Debug for FeaturePass<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeaturePass")
            .field("images", &self.dataset.len())
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}
