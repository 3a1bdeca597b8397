//! The features of the first images by the trained encoder, without a mask.

use candle_core::{D, DType, Device, Tensor};
use mim_core::encoders::EncoderConfig;
use mim_core::{Batch, EncodeOptions, Encoded, Encoder, Masking, ParamStore, StepContext};

use super::super::compare::Worst;
use super::super::stores::State;
use super::super::{Case, Result};

/// The form in which features are recorded.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    /// All tokens, a class token first.
    Tokens,
    /// The tokens of patches.
    Patches,
    /// `[images, dim, rows, cols]`.
    Map,
}

/// An encoder with its weights from a store of the method.
pub(crate) struct Features {
    encoder: Box<dyn Encoder>,
    own: ParamStore,
    store: &'static str,
    view: usize,
    skip_norm: bool,
    shape: Shape,
}

impl Features {
    /// Features of the encoder of `config`, with the weights of the store called `store`, on the first view.
    pub(crate) fn new(
        config: impl Into<EncoderConfig>,
        store: &'static str,
        device: &Device,
    ) -> Result<Self> {
        let mut config = config.into();
        // Nothing is hidden, and teachers have none.
        config.set_mask_token(false);
        let own = ParamStore::teacher(device);
        Ok(Self {
            encoder: config.build(&own.root())?,
            own,
            store,
            view: 0,
            skip_norm: false,
            shape: Shape::Tokens,
        })
    }

    /// On another view.
    pub(crate) fn view(self, view: usize) -> Self {
        Self { view, ..self }
    }

    /// Without the final norm.
    pub(crate) fn skip_norm(self) -> Self {
        Self {
            skip_norm: true,
            ..self
        }
    }

    /// In another form than all tokens.
    pub(crate) fn shape(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    /// The features of the method's weights as they are now.
    pub(super) fn of(&self, state: State<'_>, batch: &Batch) -> Result<Tensor> {
        let copied = self.own.copy_from(&state.store(self.store)?)?;
        if copied != self.own.names().len() {
            let what = format!("{} lacks weights of its encoder", self.store);
            return Err(state.case.bad(what).into());
        }
        let images = batch
            .view(self.view)?
            .normalized(&state.method.input().norm)?;
        let want = EncodeOptions {
            skip_norm: self.skip_norm,
            ..EncodeOptions::default()
        };
        let step = StepContext::inference();
        let encoded = self.encoder.encode(&images, Masking::None, &want, &step)?;
        self.shaped(&encoded)
    }

    fn shaped(&self, encoded: &Encoded) -> Result<Tensor> {
        let patches = || -> Result<Tensor> { Ok(encoded.patches()?.contiguous()?) };
        Ok(match self.shape {
            Shape::Tokens => encoded.tokens.clone(),
            Shape::Patches => patches()?,
            Shape::Map => {
                let maps = patches()?.transpose(1, D::Minus1)?.contiguous()?;
                let (images, dim, _) = maps.dims3()?;
                maps.reshape((images, dim, encoded.grid.rows, encoded.grid.cols))?
            }
        })
    }
}

/// Compares features with the recorded ones, relative to their largest value.
pub(super) fn compare(
    (case, name): (&Case, &str),
    ours: &Tensor,
    rtol: f64,
    worst: &mut Worst,
) -> Result<()> {
    let full = format!("expect.{name}");
    let theirs = case.required(&full)?;
    if ours.dims() != theirs.dims() {
        let why = format!("shape {:?}, recorded {:?}", ours.dims(), theirs.dims());
        worst.fail(&full, why);
        return Ok(());
    }
    let values = |xs: &Tensor| -> Result<Vec<f64>> {
        Ok(xs.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
    };
    let (ours, theirs) = (values(ours)?, values(theirs)?);
    let largest = theirs.iter().fold(0f64, |most, x| most.max(x.abs()));
    let off = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs());
    // Not `max` alone, which would ignore NaN.
    let off = off.fold(0f64, |most, x| {
        if x.is_nan() {
            f64::INFINITY
        } else {
            most.max(x)
        }
    });
    worst.relative(&full, off / largest.max(f64::MIN_POSITIVE), rtol);
    Ok(())
}
