//! Pairs rows of predictions and targets.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Mask, Prediction, Result, Rows, Target, ops};

/// The tokens included in a loss. A class token, or a row for the whole image, is always included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// Hidden tokens.
    #[default]
    Masked,
    /// Visible tokens.
    Visible,
    /// All tokens.
    All,
}

/// Rows of a prediction and their targets.
pub(super) struct Pairs {
    /// `[total, C]` f32.
    pub(super) prediction: Tensor,
    /// `[total, C]`, or `[total]` ids.
    pub(super) target: Tensor,
}

/// The rows of `region`; the prediction may hold all patches or only that region.
///
/// # Errors
///
/// If the prediction or the target does not cover the region, or no row is left.
pub(super) fn pair(
    prediction: &Prediction,
    target: &Target,
    mask: &Mask,
    region: Region,
) -> Result<Pairs> {
    let part = match region {
        Region::Masked => Rows::Masked,
        Region::Visible => Rows::Visible,
        Region::All => Rows::Patches,
    };
    let (values, target) = match (prediction.rows, region) {
        (Rows::Image, _) | (Rows::Patches | Rows::ClsAndPatches, Region::All) => {
            (prediction.flat()?, target.aligned(prediction.rows, mask)?)
        }
        (rows, _) if rows == part => (prediction.flat()?, target.aligned(part, mask)?),
        (Rows::Patches, _) => (
            select(&prediction.values, mask, part)?,
            target.aligned(part, mask)?,
        ),
        (Rows::ClsAndPatches, _) => {
            let (_, tokens, _) = prediction.values.dims3()?;
            let class = prediction.values.narrow(1, 0, 1)?.flatten(0, 1)?;
            let patches = prediction.values.narrow(1, 1, tokens - 1)?;
            (
                Tensor::cat(&[class, select(&patches, mask, part)?], 0)?,
                Tensor::cat(
                    &[
                        target.aligned(Rows::Image, mask)?,
                        target.aligned(part, mask)?,
                    ],
                    0,
                )?,
            )
        }
        (have, _) => {
            return Err(Error::unsupported(
                format!("a loss over {region:?} tokens of a prediction with {have:?} rows"),
                "the prediction does not cover those tokens",
                "change the objective's region or the decoder",
            ));
        }
    };
    if values.dim(0)? == 0 || target.dim(0)? != values.dim(0)? {
        return Err(Error::shape(
            "rows of a prediction",
            format!("the {} rows of the target, at least one", target.dim(0)?),
            values.dims(),
            "choose a decoder and a target for the same tokens, and a mask that hides some",
        ));
    }
    Ok(Pairs {
        prediction: values.to_dtype(DType::F32)?,
        target,
    })
}

/// The hidden or visible rows of `[rows, tokens, C]`, in the mask's order: `[total, C]`.
fn select(values: &Tensor, mask: &Mask, part: Rows) -> Result<Tensor> {
    let (rows, tokens, _) = values.dims3()?;
    if rows != mask.rows() || tokens != mask.grid().len() {
        return Err(Error::shape(
            "prediction for all patches",
            format!("[{}, {}, C], like the mask", mask.rows(), mask.grid().len()),
            values.dims(),
            "predict on the mask's grid",
        ));
    }
    let ids = mask.flat(part == Rows::Masked, rows, values.device())?;
    Ok(ops::gather_rows(&values.flatten(0, 1)?, &ids)?)
}

/// [`pair`] with targets of the same shape in f32.
///
/// # Errors
///
/// As [`pair`], and [`Error::Shape`] if the channels differ.
pub(super) fn pair_values(
    prediction: &Prediction,
    target: &Target,
    mask: &Mask,
    region: Region,
) -> Result<Pairs> {
    let pairs = pair(prediction, target, mask, region)?;
    if pairs.target.dims() != pairs.prediction.dims() {
        return Err(Error::shape(
            "prediction",
            format!("{:?}, like the target", pairs.target.dims()),
            pairs.prediction.dims(),
            "give the decoder the number of output channels of the target",
        ));
    }
    Ok(Pairs {
        target: pairs.target.to_dtype(DType::F32)?,
        ..pairs
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PatchGrid;
    use crate::objectives::testing::predicted;
    use candle_core::Device;

    fn target() -> Target {
        let patches = Tensor::arange(0f32, 8., &Device::Cpu)
            .unwrap()
            .reshape((2, 4, 1))
            .unwrap();
        Target {
            image: Some(Tensor::new(&[[10f32], [11.]], &Device::Cpu).unwrap()),
            ..Target::patches(patches)
        }
    }

    #[test]
    fn every_region_includes_class_tokens() {
        let mask = Mask::new(
            PatchGrid::new(2, 2),
            vec![3, 0, 2, 1, 0, 1, 3, 2],
            vec![2, 3],
        )
        .unwrap();
        let target = target();
        let both = Tensor::cat(
            &[
                &target.image.clone().unwrap().unsqueeze(1).unwrap(),
                &target.patches,
            ],
            1,
        )
        .unwrap();
        let prediction = predicted(&both, Rows::ClsAndPatches, &mask);
        for (region, want) in [
            (Region::Masked, vec![10., 11., 2., 1., 6.]),
            (Region::Visible, vec![10., 11., 3., 0., 4., 5., 7.]),
            (Region::All, vec![10., 0., 1., 2., 3., 11., 4., 5., 6., 7.]),
        ] {
            let pairs = pair_values(&prediction, &target, &mask, region).unwrap();
            for xs in [pairs.prediction, pairs.target] {
                assert_eq!(xs.flatten_all().unwrap().to_vec1::<f32>().unwrap(), want);
            }
        }
    }

    #[test]
    fn refuses_regions_that_the_prediction_does_not_cover() {
        let mask = Mask::from_bits(PatchGrid::new(2, 2), &[0, 1, 1, 0, 1, 0, 0, 1]).unwrap();
        let two = Tensor::zeros((2, 2, 1), DType::F32, &Device::Cpu).unwrap();
        let prediction = predicted(&two, Rows::Masked, &mask);
        assert!(pair(&prediction, &target(), &mask, Region::Masked).is_ok());
        for region in [Region::Visible, Region::All] {
            let error = pair(&prediction, &target(), &mask, region).err().unwrap();
            assert!(error.to_string().contains("region"), "{error}");
        }
        let wide = Tensor::zeros((2, 2, 3), DType::F32, &Device::Cpu).unwrap();
        let prediction = predicted(&wide, Rows::Masked, &mask);
        assert!(pair_values(&prediction, &target(), &mask, Region::Masked).is_err());
        let nothing = Mask::from_bits(PatchGrid::new(2, 2), &[0; 8]).unwrap();
        let all = predicted(&target().patches, Rows::Patches, &nothing);
        assert!(pair(&all, &target(), &nothing, Region::Masked).is_err());
        assert!(pair(&all, &target(), &nothing, Region::All).is_ok());
    }
}
